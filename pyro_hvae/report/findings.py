"""What a posterior file shows in three sentences: what z1 is, what z2 codes, whether the posterior can be believed.

Each follows from numbers of the report by a rule that is stated, and says so where the finding is negative or there is none.
"""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from pyro_hvae.analysis.gabor_fits import WELL_FITTED

#: Analyses whose results the sentences are made of.
FOUND_FROM = ("active_dimensions", "gabor_fits", "texture_decoding", "trust", "chain_convergence")
MOST = 0.5  # share of units, or of images, from which on a finding is of "most" of them
BELIEVED = 0.9  # share of the images of every set whose moments can be trusted


def findings(results: Mapping[str, xr.Dataset], reasons: Mapping[str, str]) -> list[str]:
    """Three sentences on a posterior file.

    Parameters
    ----------
    results
        What the analyses of :data:`FOUND_FROM` gave, by name, as far as they gave anything.
    reasons
        Why the others did not.
    """
    return [_z1(results, reasons), _z2(results, reasons), _posterior(results, reasons)]


def _z1(results: Mapping[str, xr.Dataset], reasons: Mapping[str, str]) -> str:
    """Gabor functions where most active fields are localized and the median one of them well fitted."""
    if "gabor_fits" not in results:
        return f"What z1 is cannot be said: {_reason('gabor_fits', reasons)}"
    fits = results["gabor_fits"]
    localized, active = int(fits["localized_count"]), int(fits["localized_count_n"])
    goodness = float(fits["goodness"].sel(group="localized"))
    counted = f"{localized} of {active} active units have localized fields"
    if not localized:
        return f"z1 is no bank of localized filters: the fields of all {active} active units fill the patch."
    if localized <= MOST * active:
        return f"z1 is no bank of localized filters: only {counted}; the others fill the patch."
    energy = f"a Gabor function explains {100 * goodness:.0f}% of the energy of the median one"
    if goodness < WELL_FITTED:
        return f"z1 is a bank of localized filters that are no Gabor functions: {counted}, and {energy}."
    return f"z1 is a bank of localized, Gabor-like filters: {counted}, and {energy}."


def _z2(results: Mapping[str, xr.Dataset], reasons: Mapping[str, str]) -> str:
    """What of texture z2 tells beyond chance, patch norm and power spectrum: 95% intervals that do not overlap."""
    activity = results.get("active_dimensions")
    if activity is not None and "z2" not in activity["site"].values:
        return "There is no z2 that could code anything: the model has one layer."
    if activity is not None and float(activity["count"].sel(site="z2")) == 0:
        return f"z2 codes nothing: none of its {activity.sizes['z2_dim']} dimensions is active."
    if "texture_decoding" not in results:
        return f"What z2 codes cannot be said: {_reason('texture_decoding', reasons)}"
    decoding = results["texture_decoding"]
    if "z2_mean" not in decoding["feature"].values:
        return "There is no z2 that could code anything: the model has one layer."
    chance = float(decoding.attrs["chance"])
    low, high = ({str(f): float(decoding["accuracy_interval"].sel(feature=f)[end]) for f in decoding["feature"].values}
                 for end in (0, 1))  # fmt: skip

    def score(feature: str) -> str:
        return f"{float(decoding['accuracy'].sel(feature=feature)):.2f} [{low[feature]:.2f}, {high[feature]:.2f}]"

    floor = low["z2_mean"]
    if floor <= chance:
        finding = "z2 does not tell the texture families apart"
    elif floor <= high["norm"]:
        finding = "z2 tells no more of texture than contrast does"
    elif floor <= high["power_spectrum"]:
        finding = "z2 codes texture beyond contrast, but no more than the power spectrum tells"
    else:
        finding = "z2 codes texture beyond contrast and power spectrum"
    return (
        f"{finding}: the family is decoded from its means with {score('z2_mean')} correct, from the patch norm with "
        f"{score('norm')}, from the power spectrum with {score('power_spectrum')} (chance {chance:.2f})."
    )


def _posterior(results: Mapping[str, xr.Dataset], reasons: Mapping[str, str]) -> str:
    if "chain_convergence" in results:  # the model's own posterior, sampled
        met, verdict = (
            float(results["chain_convergence"]["converged"].min()),
            results["chain_convergence"].attrs["verdict"],
        )
        finding = (
            "can be believed" if met >= BELIEVED else "can be believed in part" if met > MOST else "cannot be believed"
        )
        return f"The posterior {finding}, being the model's own: {verdict[0].lower()}{verdict[1:]}"
    if "trust" not in results:
        return f"Whether the posterior can be believed cannot be said: {_reason('trust', reasons)}"
    worst = float(results["trust"]["trusted"].min())
    verdict = str(results["trust"].attrs["verdict"])
    finding = (
        "can be believed" if worst >= BELIEVED else "can be believed in part" if worst > MOST else "cannot be believed"
    )
    return f"The posterior {finding}: {verdict[0].lower()}{verdict[1:]}"


def _reason(name: str, reasons: Mapping[str, str]) -> str:
    return reasons.get(name, f"{name} was not run").rstrip(".") + "."
