"""Plaids: does a grating at right angles, which alone drives nothing, quieten a unit (physiology files)?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import result
from pyro_hvae.analysis.unit_responses import layers, medians, shares
from pyro_hvae.errors import HVAEError


def cross_orientation(tree: xr.DataTree) -> xr.Dataset:
    """Response to each unit's own grating, to one at right angles (the mask), and to both, averaged over phases of the mask.

    Quantities, by layer: ``suppression``, 1 - R(plaid)/R(test): 0 where the mask does nothing, as in a linear unit, above 0 for
    cross-orientation suppression (Morrone, Burr & Maffei 1982); ``mask``, R(mask)/R(test); ``suppressed``, the share of units
    above 0.1. Medians over units but for the share.

    :raises HVAEError: where no unit responds.
    """
    notes: list[str] = []
    found = layers(tree, notes)
    if not found:
        raise HVAEError(f"no unit responds to gratings by its {tree.attrs['response']}; measure another response")
    variables: dict[str, xr.Variable] = {}
    index, alone, both = {}, {}, {}
    for site, layer in found.items():
        test, mask, plaid = layer.curves("plaid").mean(2).T  # averaged over phases of the mask
        responds = layer.responsive & (test > 0)
        safe = np.where(responds, test, 1.0)
        index[site] = np.where(responds, 1 - plaid / safe, np.nan)
        alone[site] = np.where(responds, mask / safe, np.nan)
        both[site] = np.stack([np.where(responds, test, np.nan), np.where(responds, plaid, np.nan)], 1)
        variables[f"{site}_suppression"] = xr.Variable(f"{site}_unit", index[site])
        variables[f"{site}_responses"] = xr.Variable((f"{site}_unit", "stimulus"), both[site])
    variables |= medians("suppression", index, title="cross-orientation suppression", unit="1")
    variables |= medians("mask", alone, title="response to the mask alone over the test", unit="1")
    variables |= shares(
        "suppressed", {s: v[np.isfinite(v)] > 0.1 for s, v in index.items()}, title="units suppressed by more than 10%"
    )
    made = result(tree, "cross_orientation", variables, {"layer": list(found), "stimulus": ["test", "plaid"]}, notes)
    return made.assign_attrs(response=str(tree.attrs["response"]))


@style.styled
def plot_cross_orientation(dataset: xr.Dataset) -> style.Picture:
    """Plaid against test of every unit, and the distribution of the index."""
    sites = [str(site) for site in dataset["layer"].values]
    figure = style.figure(style.FULL, 2.2)
    axes = figure.subplots(1, 2 * len(sites), squeeze=False)[0]
    for at, site in enumerate(sites):
        scatter, bars = axes[2 * at : 2 * at + 2]
        test, plaid = dataset[f"{site}_responses"].values.T
        top = np.nanmax([test, plaid])
        scatter.plot([0, top], [0, top], color=style.GREY, lw=0.6)
        scatter.plot(test, plaid, ".", ms=2, color=style.BLUE)
        scatter.set(xlabel=f"{site}: grating alone", ylabel="with the mask")
        values = dataset[f"{site}_suppression"].values
        bars.hist(values[np.isfinite(values)].clip(-1, 1), np.linspace(-1, 1, 41), color=style.GREY)
        bars.axvline(np.nanmedian(values), color=style.RED, lw=0.8)
        bars.set(xlabel="suppression", ylabel="units")
    style.letters(axes)
    parts = []
    for site in sites:
        here = dataset.sel(layer=site)
        low, high = here["suppression_interval"].values
        parts.append(f"{site}: {here['suppression'].item():.2f} [{low:.2f}, {high:.2f}]")
    caption = (
        "Response to each unit's own grating against that to the same with a grating at right angles of the same contrast, "
        f"mean over phases of the mask; below the line the mask suppresses. Median index {'; '.join(parts)}. The response is "
        f"the {dataset.attrs['response'].replace('_', ' ')} above that at a uniform field."
    )
    return style.Picture(figure, caption)
