"""Modulation fields: which z1 units a z2 dimension makes louder or quieter, and where, how oriented, how fine these are."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.gabor_fits import WELL_FITTED, field_shapes
from pyro_hvae.analysis.reading import complete_images, finite_array, natural_images, patch_side, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.errors import HVAEError

EXAMPLES = 6  # images of the lowest, and of the highest, value of a dimension
SHOWN, COLUMNS = 12, 4  # dimensions in a picture
STRONGEST = 0.98  # quantile of the changes shown that has the full colour: one outlier must not bleach the rest


def modulation_fields(tree: xr.DataTree) -> xr.Dataset:
    """What a z2 dimension says about z1: the units whose prior p(z1|z2) it makes wider (louder) or narrower (quieter).

    The modulation of a z1 unit by a z2 dimension is half the change of the log scale of p(z1|z2) between +e and -e along it.
    Place, orientation and frequency of a unit are those of the Gabor function fitted to its projective field; units are taken
    whose field is localized and well fitted (more than 0.8 of its energy).

    Returns
    -------
    Dataset over ``z2_dim`` (indices of the active dimensions, the strongest first) and ``unit`` (z1 indices): ``modulation
    (z2_dim, unit)``; ``strength`` (root mean square over units); ``x``, ``y`` (pixels from the top left), ``orientation``
    (of the bars, degrees anticlockwise from horizontal), ``frequency`` (cycles per pixel), ``across`` (s.d. of the envelope
    along the bars, pixels); ``low_patch``, ``high_patch (z2_dim, example, pixel)`` and ``low_value``, ``high_value``: images at
    the ends of the posterior mean of the dimension. Quantities, medians over active dimensions: ``common``, the share of the
    squared modulation that is the same for all units (1: a gain of everything, as contrast is; 0: as much louder as
    quieter); ``explained (property)``, the share of the variance of the modulation over units that a quadratic function of
    their place, that orientation (one period in 180 degrees), that the octave of their frequency (quadratic) and all of
    these explain, adjusted for the number of regressors: 0 for none.

    Raises
    ------
    HVAEError
        Where no z2 dimension is active, or no active z1 unit is localized and well fitted by a Gabor function.
    """
    notes: list[str] = []
    activity = active_dimensions(tree)
    active, dims = (np.flatnonzero(activity[f"{name}_active"].values) for name in ("z1", "z2"))
    if not dims.size:
        raise HVAEError("no z2 dimension is active, so none modulates z1; look at active_dimensions")
    if not active.size:
        raise HVAEError("no z1 unit is active, so there is nothing to modulate; look at active_dimensions")
    shapes = field_shapes(finite_array(tree, "constant_data/A").T[active])
    drawn = shapes["localized"].values & (shapes["explained"].values > WELL_FITTED)
    if not drawn.any():
        raise HVAEError(
            f"none of the {active.size} active z1 units is localized and well fitted by a Gabor function: "
            "a unit without place and orientation cannot be drawn as a bar"
        )
    units, shapes = active[drawn], shapes.isel(unit=np.flatnonzero(drawn))
    if units.size < active.size:
        notes.append(
            f"{active.size - units.size} of {active.size} active z1 units left out: no localized Gabor function"
        )
    modulation = finite_array(tree, "constant_data/z2_to_z1_log_scale")[np.ix_(dims, units)]
    strength = np.sqrt((modulation**2).mean(1))
    order = np.argsort(-strength, kind="stable")
    dims, modulation, strength = dims[order], modulation[order], strength[order]

    moving = strength > 0
    common = np.divide(modulation.mean(1) ** 2, strength**2, out=np.full(dims.size, np.nan), where=moving)
    explained = {name: _explained(modulation, columns) for name, columns in _regressors(shapes).items()}
    variables = _median("common", [], [common], "modulation common to all z1 units", "share of squared modulation")
    variables |= _median(
        "explained", ["property"], list(explained.values()), "modulation explained by properties of z1 units",
        "share of variance",
    )  # fmt: skip
    for name in ("x", "y", "orientation", "frequency", "across"):
        variables[name] = shapes[name].variable
    variables |= {
        "modulation": xr.Variable(("z2_dim", "unit"), modulation, {"units": "change of log scale"}),
        "strength": xr.Variable("z2_dim", strength, {"units": "change of log scale, rms over units"}),
        "dim_common": xr.Variable("z2_dim", common),
        "dim_explained": xr.Variable(("property", "z2_dim"), np.stack(list(explained.values()))),
    }
    variables |= _examples(tree, dims, notes)
    coords = {"z2_dim": dims, "unit": units, "property": list(explained)}
    dataset = result(tree, "modulation_fields", variables, coords, notes)
    return dataset.assign_attrs(z2_dims=activity["z2_active"].size, active_units=active.size)


def _median(name: str, dims: list[str], rows: list[np.ndarray], title: str, unit: str) -> dict[str, xr.Variable]:
    """A quantity: medians over the z2 dimensions where it is known."""
    known = [row[np.isfinite(row)] for row in rows]
    medians, intervals = zip(*map(median_and_interval, known), strict=True)
    counts = [row.size for row in known]
    if not dims:
        return quantity(name, [], medians[0], title=title, unit=unit, n=counts[0], interval=intervals[0])
    return quantity(name, dims, medians, title=title, unit=unit, n=counts, interval=list(intervals))


def _regressors(shapes: xr.Dataset) -> dict[str, np.ndarray]:
    """Columns ``(unit, column)`` of each property of the units; orientation has a period of 180 degrees."""
    x, y, angle = shapes["x"].values, shapes["y"].values, np.radians(2 * shapes["orientation"].values)
    octave = np.log2(np.maximum(shapes["frequency"].values, 1e-3))
    columns = {
        "place": np.stack([x, y, x * x, x * y, y * y], -1),
        "orientation": np.stack([np.cos(angle), np.sin(angle)], -1),
        "frequency": np.stack([octave, octave**2], -1),
    }
    return columns | {"all": np.concatenate(list(columns.values()), -1)}


def _explained(modulation: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Adjusted share of the variance over units explained by linear regression, a value a row; NaN where too few units."""
    n, regressors = columns.shape
    total = ((modulation - modulation.mean(1, keepdims=True)) ** 2).sum(1)
    if n < 3 * (regressors + 1):
        return np.full(len(modulation), np.nan)
    design = np.column_stack([np.ones(n), (columns - columns.mean(0)) / np.maximum(columns.std(0), 1e-12)])
    weights = np.linalg.lstsq(design, modulation.T, rcond=None)[0]
    left = ((modulation.T - design @ weights) ** 2).sum(0) * (n - 1) / (n - 1 - regressors)
    # A common gain leaves nothing to explain; rounding is not a variance.
    varies = total > 1e-12 * (modulation**2).sum(1)
    return 1 - np.divide(left, total, out=np.full(len(total), np.nan), where=varies)


def _examples(tree: xr.DataTree, dims: np.ndarray, notes: list[str]) -> dict[str, xr.Variable]:
    """Images with the lowest and the highest posterior mean of every dimension; natural ones where there are any."""
    mask, _ = natural_images(tree, complete_images(tree, ["posterior_moments/z2_mean", "observed_data/x"], notes))
    indices = np.flatnonzero(mask)
    means = selected(tree, "posterior_moments/z2_mean", mask)[:, dims]
    count = min(EXAMPLES, indices.size // 2)
    order = np.argsort(means, axis=0, kind="stable")
    made = {}
    for name, rows in (("low", order[:count]), ("high", order[::-1][:count])):
        patches = [selected(tree, "observed_data/x", indices[column]) for column in rows.T]
        made[f"{name}_patch"] = xr.Variable(("z2_dim", "example", "pixel"), np.stack(patches))
        made[f"{name}_value"] = xr.Variable(("z2_dim", "example"), np.take_along_axis(means, rows, 0).T)
    return made


@style.styled
def plot_modulation_fields(dataset: xr.Dataset) -> style.Picture:
    """A panel for each active z2 dimension: z1 units as bars, coloured by their modulation, over patches of either end."""
    dims = dataset["z2_dim"].values[:SHOWN]
    side = patch_side(dataset.sizes["pixel"])
    modulation = dataset["modulation"].values[: dims.size]
    top = max(float(np.quantile(np.abs(modulation), STRONGEST)), 1e-12)
    columns = min(COLUMNS, dims.size)
    rows = -(-dims.size // columns)
    figure = style.figure(style.FULL * max(columns, 2) / COLUMNS, 2.3 * rows + 0.55)
    cells = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.2, 1] * rows)
    for cell in cells.ravel():
        cell.set_axis_off()
    for k, dim in enumerate(dims):
        field, examples = cells[2 * (k // columns) : 2 * (k // columns) + 2, k % columns]
        lines = plot_bars(field, dataset, modulation[k], top, side)
        share = dataset["dim_common"].values[k]
        field.set_title(f"z2 [{dim}], {100 * share:.0f}% common", fontsize=7)
        _plot_examples(examples, dataset.isel(z2_dim=k))
    figure.colorbar(
        lines, ax=cells, label="change of the log scale of p(z1|z2)", orientation="horizontal", location="bottom",
        shrink=0.4, aspect=30, pad=0.01, extend="both",
    )  # fmt: skip
    shares = ", ".join(
        f"{name} {100 * share:.0f}%"
        for name, share in zip(dataset["property"].values, dataset["explained"].values, strict=True)
    )
    n = dataset.attrs
    caption = (
        f"What z2 does to z1: the {dims.size} strongest of n = {dataset.sizes['z2_dim']} active z2 dimensions (of "
        f"{n['z2_dims']}), by falling modulation. A bar is a z1 unit, at the place and orientation of the Gabor function of "
        "its projective field, one s.d. of its envelope long; red: louder (the scale of its prior grows) as z2 goes from 0 "
        f"to +1, blue: quieter; one colour scale. n = {dataset.sizes['unit']} of {n['active_units']} active z1 units, those "
        "localized and well fitted. Common: share of the squared modulation that is the same for all units (100%: a gain of "
        f"everything, such as contrast), median {100 * dataset['common'].item():.0f}%. Of the rest, explained by the units' "
        f"{shares} (medians). Under each field: images with the lowest (left) and the highest (right) posterior mean of the "
        "dimension, on one grey scale."
    )
    return style.Picture(figure, caption)


def plot_bars(axis: Axes, dataset: xr.Dataset, modulation: np.ndarray, top: float, side: int) -> LineCollection:
    """Units as bars, the strongest in front and the widest."""
    order = np.argsort(np.abs(modulation))
    angle = np.radians(dataset["orientation"].values[order])
    step = 0.5 * dataset["across"].values[order, None] * np.stack([np.cos(angle), -np.sin(angle)], -1)
    centre = np.stack([dataset["x"].values, dataset["y"].values], -1)[order]
    ends = [*zip(map(tuple, centre - step), map(tuple, centre + step), strict=True)]
    share = np.minimum(np.abs(modulation[order]) / top, 1)
    lines = LineCollection(ends, cmap="RdBu_r", array=modulation[order], linewidths=0.4 + 1.8 * share, capstyle="round")
    lines.set_clim(-top, top)
    axis.add_collection(lines)
    axis.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    axis.set_axis_on()
    axis.spines[:].set(visible=True, color=style.GREY, linewidth=0.5)
    return lines


def _plot_examples(axis: Axes, at: xr.Dataset) -> None:
    """Patches of low value in the left half, of high value in the right one, on one scale."""
    low, high = at["low_patch"].values, at["high_patch"].values
    count = len(low)
    if not count:
        return
    columns = -(-count // 2)
    top = float(np.quantile(np.abs(np.concatenate([low, high])), STRONGEST))
    halves = [style.mosaic(patches, columns, top=top) for patches in (low, high)]
    gap = np.full((len(halves[0]), 4), np.nan)
    style.show(axis, np.concatenate([halves[0], gap, halves[1]], 1))
    for x, text in ((0.24, "low"), (0.76, "high")):
        axis.text(x, -0.04, text, ha="center", va="top", transform=axis.transAxes, fontsize=6.5)
