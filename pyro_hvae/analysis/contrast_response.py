"""Contrast response of units: exponent, semi-saturation, and whether they saturate at all (physiology files)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import result
from pyro_hvae.analysis.tuning import contrast_tuning
from pyro_hvae.analysis.unit_responses import layers, medians, shares, stimuli
from pyro_hvae.errors import HVAEError


def contrast_response(tree: xr.DataTree) -> xr.Dataset:
    """R = R_max c^n / (c^n + c50^n) (Albrecht & Hamilton 1982) fitted to each unit's responses to its own grating.

    Quantities, by layer: ``exponent`` and ``c50`` (medians over the units whose fit saturates, for c50), ``saturating`` (share
    whose c50 lies within twice the highest contrast), ``saturation`` (response to the highest contrast over what a line through
    the lowest two predicts: 1 for a linear unit, less for one that saturates; median).

    :raises HVAEError: where no unit responds.
    """
    notes: list[str] = []
    found = layers(tree, notes)
    if not found:
        raise HVAEError(f"no unit responds to gratings by its {tree.attrs['response']}; measure another response")
    contrast = stimuli(tree, "contrast")["contrast"].values
    variables: dict[str, xr.Variable] = {}
    fits = {}
    for site, layer in found.items():
        curves = layer.curves("contrast")
        fits[site] = tuple(np.where(layer.responsive, v, np.nan) for v in contrast_tuning(curves, contrast))
        top = np.where(layer.responsive[:, None], curves / np.maximum(curves.max(1, keepdims=True), 1e-300), np.nan)
        variables[f"{site}_curve"] = xr.Variable((f"{site}_unit", "contrast"), top)
    variables |= medians(
        "exponent", {s: f[0] for s, f in fits.items()}, title="exponent of the contrast response", unit="1"
    )
    variables |= medians("c50", {s: f[1] for s, f in fits.items()}, title="semi-saturation contrast", unit="1")
    variables |= medians("saturation", {s: f[2] for s, f in fits.items()}, title="response over linear", unit="1")
    variables |= shares(
        "saturating", {s: np.isfinite(f[1][found[s].responsive]) for s, f in fits.items()}, title="units that saturate"
    )
    for site, (exponent, c50, saturation) in fits.items():
        named = {"exponent": exponent, "c50": c50, "saturation": saturation}
        variables |= {f"{site}_{name}": xr.Variable(f"{site}_unit", v) for name, v in named.items()}
    made = result(tree, "contrast_response", variables, {"layer": list(found), "contrast": contrast}, notes)
    return made.assign_attrs(response=str(tree.attrs["response"]))


@style.styled
def plot_contrast_response(dataset: xr.Dataset) -> style.Picture:
    """Curves of all units of each layer, their middle, and the distribution of exponents."""
    sites = [str(site) for site in dataset["layer"].values]
    figure = style.figure(style.FULL, 1.9 * len(sites))
    axes = figure.subplots(len(sites), 3, squeeze=False)
    contrast = dataset["contrast"].values
    for row, site in zip(axes, sites, strict=True):
        curves = dataset[f"{site}_curve"].values
        curves = curves[np.isfinite(curves).all(1)]
        row[0].plot(contrast, curves[:: max(1, len(curves) // 60)].T, color=style.GREY, lw=0.3, alpha=0.5)
        row[0].plot(contrast, np.median(curves, 0), "o-", ms=3, color=style.BLUE)
        row[0].set(xscale="log", xlabel="contrast", ylabel=f"{site}: response / peak", ylim=(0, 1.05))
        row[0].set_xticks(contrast, [f"{c:g}" for c in contrast])
        row[0].minorticks_off()
        for axis, name, label, bins in (
            (row[1], "exponent", "exponent", np.linspace(0, 5, 26)),
            (row[2], "saturation", "response over linear", np.geomspace(0.05, 20, 26)),
        ):
            values = dataset[f"{site}_{name}"].values
            values = values[np.isfinite(values)]
            axis.hist(values.clip(bins[0], bins[-1]), bins, color=style.GREY)
            if values.size:
                axis.axvline(np.median(values), color=style.RED, lw=0.8)
            axis.set(xlabel=label, ylabel="units")
        row[2].set(xscale="log")
    style.letters(axes[0])
    parts = []
    for site in sites:
        at = dataset.sel(layer=site)
        low, high = at["saturating_interval"].values
        parts.append(
            f"{site}: exponent {at['exponent'].item():.2f}, {at['saturating'].item():.0%} of units saturate "
            f"[{low:.0%}, {high:.0%}]"
        )
    caption = (
        f"Each unit's own grating, full field, {contrast[0]:g} to {contrast[-1]:g} Michelson contrast; the response is the "
        f"{dataset.attrs['response'].replace('_', ' ')} above that at a uniform field. a: a sample of units, median in blue. "
        f"b: exponents. c: response to the highest contrast over what the two lowest predict (1: linear). {'; '.join(parts)}. "
        "Medians in red."
    )
    return style.Picture(figure, caption)
