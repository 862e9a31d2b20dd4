"""Do units tell a texture from noise of the same spectrum (physiology files)?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.tuning import rate
from pyro_hvae.analysis.uncertainty import binomial_interval
from pyro_hvae.analysis.unit_responses import layers, stimuli
from pyro_hvae.errors import HVAEError

BOOTSTRAPS = 500


def texture_modulation(tree: xr.DataTree) -> xr.Dataset:
    """Modulation index (R_texture - R_noise) / (R_texture + R_noise) of units and families (Freeman et al. 2013).

    R is the response averaged over patches. ``modulation (layer, family)`` and ``overall (layer)`` are means over the
    units that respond, with 95% intervals by a bootstrap that draws patches, the same for all units, and units anew.
    ``modulated (layer)``: share of the units whose own mean index over families has an interval (patches drawn anew) above 0.
    ``difference``: overall of the second layer less that of the first, as V2 differs from V1.

    :raises HVAEError: where no unit responds.
    """
    notes: list[str] = []
    group, found = stimuli(tree, "texture"), layers(tree, notes)
    response = str(tree.attrs["response"])
    if not found:
        raise HVAEError(f"no unit responds to gratings by its {response}; measure another response")
    families = [str(name) for name in group["family"].values]
    rng = np.random.default_rng(0)
    patches = group.sizes["patch"]
    drawn = rng.multinomial(patches, np.full(patches, 1 / patches), (BOOTSTRAPS, 2, len(families))) / patches
    variables: dict[str, xr.Variable] = {}
    means, intervals, whole, wholes, share, shares, counts = [], [], [], [], [], [], []
    for site, layer in found.items():
        rates = []
        for kind in ("texture", "noise"):
            values = group[f"{site}_{kind}_mean"].values[..., layer.responsive].astype(float)
            blank = stimuli(tree, "blank")
            mean, sd = (blank[f"{site}_{m}"].values[layer.responsive].astype(float) for m in ("mean", "sd"))
            rates.append(rate(values, values, mean, sd, response))
        both = np.stack(rates)  # (kind, family, patch, unit)
        index = _index(both.mean(2))  # (family, unit)
        again = _index(np.einsum("bkfp,kfpu->kbfu", drawn, both))  # (bootstrap, family, unit)
        n = int(layer.responsive.sum())
        picked = rng.multinomial(n, np.full(n, 1 / n), BOOTSTRAPS) / n
        by_family = np.einsum("bfu,bu->bf", again, picked)
        own = again.mean(1)
        above = np.percentile(own, 2.5, axis=0) > 0
        means.append(index.mean(1))
        intervals.append(np.percentile(by_family, [2.5, 97.5], axis=0).T)
        whole.append(index.mean())
        wholes.append(by_family.mean(1))
        value, ends = binomial_interval(int(above.sum()), n)
        share.append(value)
        shares.append(ends)
        counts.append(n)
        full = np.full((len(families), layer.responsive.size), np.nan)
        full[:, layer.responsive] = index
        variables[f"{site}_index"] = xr.Variable(("family", f"{site}_unit"), full)
    n_units = np.array(counts)
    variables |= quantity(
        "modulation", ["layer", "family"], np.stack(means), title="texture modulation", unit="1",
        interval=np.stack(intervals), n=np.broadcast_to(n_units[:, None], (len(found), len(families))),
    )  # fmt: skip
    variables |= quantity("overall", ["layer"], whole, title="texture modulation, mean over families", unit="1",
                          interval=[np.percentile(w, [2.5, 97.5]) for w in wholes], n=n_units)  # fmt: skip
    variables |= quantity("modulated", ["layer"], share, title="units that answer textures more than noise", unit="1",
                          interval=shares, n=n_units)  # fmt: skip
    if len(found) > 1:
        variables |= quantity("difference", [], whole[1] - whole[0], title="texture modulation, second layer less first",
                              unit="1", interval=np.percentile(wholes[1] - wholes[0], [2.5, 97.5]), n=counts[1])  # fmt: skip
    coordinates = {"layer": list(found), "family": families}
    return result(tree, "texture_modulation", variables, coordinates, notes).assign_attrs(
        response=response, patches=patches
    )


def _index(both: np.ndarray) -> np.ndarray:
    """Of responses ``(kind, ...)``; 0 where a unit answers neither."""
    total = both[0] + both[1]
    return np.where(total > 0, (both[0] - both[1]) / np.where(total > 0, total, 1), 0.0)


@style.styled
def plot_texture_modulation(dataset: xr.Dataset) -> style.Picture:
    """Distribution of the index over units, a line a layer, and its mean by family."""
    sites = [str(site) for site in dataset["layer"].values]
    figure = style.figure(style.FULL, 2.4)
    left, right = figure.subplots(1, 2)
    bins = np.linspace(-1, 1, 41)
    for at, (site, colour) in enumerate(
        zip(sites, (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE), strict=False)
    ):
        values = dataset[f"{site}_index"].values.mean(0)
        values = values[np.isfinite(values)]
        left.hist(
            values, bins, histtype="step", color=colour, label=site, weights=np.full(values.size, 1 / values.size)
        )
        here = dataset.sel(layer=site)
        x = np.arange(dataset.sizes["family"]) + 0.15 * (at - (len(sites) - 1) / 2)
        middle, ends = here["modulation"].values, here["modulation_interval"].values
        right.vlines(x, ends[:, 0], ends[:, 1], color=colour)
        right.plot(x, middle, "o", ms=3, color=colour, label=site)
    left.axvline(0, color=style.GREY, lw=0.6)
    right.axhline(0, color=style.GREY, lw=0.6)
    left.set(xlabel="texture modulation of a unit", ylabel="share of units")
    left.legend()
    right.set_xticks(
        np.arange(dataset.sizes["family"]), style.short(list(map(str, dataset["family"].values))), rotation=45
    )
    right.set(ylabel="texture modulation, mean over units")
    style.letters([left, right])
    parts = []
    for site in sites:
        here = dataset.sel(layer=site)
        low, high = here["overall_interval"].values
        parts.append(f"{site}: {here['overall'].item():.3f} [{low:.3f}, {high:.3f}]")
    caption = (
        "Response to patches of texture families less that to noise of the same spectrum, over their sum; "
        f"{dataset.attrs['patches']} patches of each. a: mean over families, by unit. b: mean over units, by family. "
        f"{'; '.join(parts)}. The response is the {dataset.attrs['response'].replace('_', ' ')} above that at a uniform field."
    )
    return style.Picture(figure, caption)
