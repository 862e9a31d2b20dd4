"""Size and annulus tuning of units: summation field and surround suppression (physiology files)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import result
from pyro_hvae.analysis.tuning import size_tuning
from pyro_hvae.analysis.unit_responses import layers, medians, per_degree, shares, stimuli
from pyro_hvae.errors import HVAEError

STRONGLY = 0.1  # suppression above which Cavanaugh et al. (2002) speak of one


def surround_suppression(tree: xr.DataTree) -> xr.Dataset:
    """How responses depend on the diameter of a disk of each unit's own grating at its place, and of the hole of an annulus.

    Quantities, by layer: ``suppression`` (peak less plateau over peak; Cavanaugh et al. 2002), ``suppressed`` (share above
    0.1), ``summation`` (smallest diameter with 95% of the peak, degrees), ``surround`` (diameter at which the plateau is
    reached, of suppressed units), ``annulus`` (response to the annulus whose hole is as large as the summation field,
    over the peak: near 0 where the surround alone drives nothing). Medians over units but for the share.

    :raises HVAEError: where no unit responds.
    """
    notes: list[str] = []
    found = layers(tree, notes)
    if not found:
        raise HVAEError(f"no unit responds to gratings by its {tree.attrs['response']}; measure another response")
    diameter, hole = stimuli(tree, "size")["diameter"].values, stimuli(tree, "annulus")["inner_diameter"].values
    scale = per_degree(tree)
    per_unit: dict[str, dict[str, np.ndarray]] = {}
    variables: dict[str, xr.Variable] = {}
    for site, layer in found.items():
        disks, annuli = layer.curves("size"), layer.curves("annulus")
        sizes = size_tuning(disks, diameter)
        top = np.maximum(disks.max(1), 1e-300)
        alone = np.array([np.interp(s, hole, a) for s, a in zip(sizes.summation, annuli, strict=True)]) / top
        values = {
            "suppression": sizes.suppression,
            "summation": sizes.summation / scale,
            "surround": sizes.surround / scale,
            "annulus": alone,
        }
        per_unit[site] = {name: np.where(layer.responsive, v, np.nan) for name, v in values.items()}
        variables |= {f"{site}_{name}": xr.Variable(f"{site}_unit", v) for name, v in per_unit[site].items()}
        for name, dim, curves in (("disk", "diameter", disks), ("ring", "inner_diameter", annuli)):
            shown = np.where(layer.responsive[:, None], curves / top[:, None], np.nan)
            variables[f"{site}_{name}_curve"] = xr.Variable((f"{site}_unit", dim), shown)

    def of(name: str) -> dict[str, np.ndarray]:
        return {site: values[name] for site, values in per_unit.items()}

    variables |= medians("suppression", of("suppression"), title="surround suppression index", unit="1")
    variables |= shares(
        "suppressed", {s: v[found[s].responsive] > STRONGLY for s, v in of("suppression").items()},
        title=f"units suppressed by more than {STRONGLY:.0%}",
    )  # fmt: skip
    variables |= medians("summation", of("summation"), title="grating summation field", unit="degrees")
    variables |= medians("surround", of("surround"), title="surround diameter", unit="degrees")
    variables |= medians("annulus", of("annulus"), title="annulus alone over peak", unit="1")
    coordinates = {"layer": list(found), "diameter": diameter / scale, "inner_diameter": hole / scale}
    made = result(tree, "surround_suppression", variables, coordinates, notes)
    return made.assign_attrs(response=str(tree.attrs["response"]), pixels_per_degree=scale)


@style.styled
def plot_surround_suppression(dataset: xr.Dataset) -> style.Picture:
    """Size and annulus curves of each layer, and the distribution of the index."""
    sites = [str(site) for site in dataset["layer"].values]
    figure = style.figure(style.FULL, 1.9 * len(sites))
    axes = figure.subplots(len(sites), 3, squeeze=False)
    for row, site in zip(axes, sites, strict=True):
        for axis, name, dim, label in (
            (row[0], "disk", "diameter", "diameter of the disk (deg)"),
            (row[1], "ring", "inner_diameter", "diameter of the hole (deg)"),
        ):
            curves = dataset[f"{site}_{name}_curve"].values
            curves = curves[np.isfinite(curves).all(1)]
            axis.plot(dataset[dim], curves[:: max(1, len(curves) // 60)].T, color=style.GREY, lw=0.3, alpha=0.5)
            axis.plot(dataset[dim], np.median(curves, 0), "o-", ms=3, color=style.BLUE)
            axis.set(xlabel=label, ylabel=f"{site}: response / peak" if name == "disk" else "", ylim=(0, 1.1))
        values = dataset[f"{site}_suppression"].values
        row[2].hist(values[np.isfinite(values)].clip(0, 1), np.linspace(0, 1, 21), color=style.GREY)
        row[2].axvline(np.nanmedian(values), color=style.RED, lw=0.8)
        row[2].set(xlabel="suppression index", ylabel="units")
    style.letters(axes[0])
    parts = []
    for site in sites:
        at = dataset.sel(layer=site)
        low, high = at["suppression_interval"].values
        parts.append(
            f"{site}: index {at['suppression'].item():.2f} [{low:.2f}, {high:.2f}], "
            f"{at['suppressed'].item():.0%} of units above {STRONGLY}"
        )
    caption = (
        f"Each unit's own grating at its place, in a disk (a) and with a hole (b); a sample of units, median in blue. c: "
        f"suppression index, median in red. {'; '.join(parts)}. The response is the "
        f"{dataset.attrs['response'].replace('_', ' ')} above that at a uniform field; "
        f"{dataset.attrs['pixels_per_degree']:g} pixels per degree."
    )
    return style.Picture(figure, caption)
