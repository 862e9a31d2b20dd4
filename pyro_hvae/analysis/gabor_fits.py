"""Gabor fits of the projective fields of z1: orientation, frequency, phase, size, place (Csikor et al. 2022, Fig. 2d, e)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.gabor import PARAMETERS, fit_gabors, gabor, spatial_spread, uncertainty
from pyro_hvae.analysis.reading import finite_array, patch_side
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.errors import HVAEError

LOCALIZED = 0.7  # spread of a localized field, at most, relative to a flat one; noise and gratings have about 1
LOCALIZED_RANGE = (0.65, 0.75)  # ... for the interval of their number
WELL_FITTED = 0.8  # share of a field's energy that a Gabor function explains


def gabor_fits(tree: xr.DataTree) -> xr.Dataset:
    """Fit a Gabor function to the projective field of every active z1 unit.

    A field is localized where the root mean square distance of its energy from its centre is less than 0.7 of that of a
    flat field (a grating or noise that fills the patch has about 1). The space-frequency uncertainty is the product
    of the spreads in space and frequency along and across the wave vector over its lowest value, Gabor's bound.

    Returns
    -------
    Dataset over ``unit`` (z1 indices of the active units): ``x``, ``y`` (pixels from the top left), ``orientation`` (of
    the bars, degrees anticlockwise from horizontal, in [0, 180)), ``frequency`` (cycles per pixel), ``phase`` (degrees; 0:
    bright bar in the centre), ``along`` and ``across`` (s.d. of the envelope along and across the wave vector, pixels),
    ``explained`` (share of the field's energy), ``spread``, ``uncertainty``, ``localized``, ``selected`` (Vas 2024: centre in
    the middle two fifths of the patch, twice the mean s.d. between 0.15 and 0.3 of its side, frequency between 0.18 and
    0.5); and the quantities ``localized_count``, ``median_frequency``, ``median_size`` (over localized units), ``goodness`` and
    ``median_uncertainty (group)`` over localized and other units.

    Raises
    ------
    HVAEError
        Where no z1 unit is active, or the patch is not square.
    """
    notes: list[str] = []
    activity = active_dimensions(tree)
    units = np.flatnonzero(activity["z1_active"].values)
    if not units.size:
        raise HVAEError(
            "no z1 unit is active, so there are no fields to fit; train longer or look at active_dimensions"
        )
    fields = finite_array(tree, "constant_data/A").T[units]
    shapes = field_shapes(fields)
    localized = shapes["localized"].values
    variables: dict[str, xr.Variable] = {str(name): shapes[name].variable for name in shapes.data_vars}
    low, high = ((shapes["spread"].values < limit).sum() for limit in LOCALIZED_RANGE)
    variables |= quantity(
        "localized_count",
        [],
        localized.sum(),
        title="localized z1 fields",
        unit="units",
        n=units.size,
        interval=[low, high],
    )
    for name, title, unit in (
        ("frequency", "median spatial frequency, localized fields", "cycles per pixel"),
        ("size", "median size (s.d. of the envelope), localized fields", "pixels"),
    ):
        values = shapes[name].values[localized]
        median, interval = median_and_interval(values)
        variables |= quantity(f"median_{name}", [], median, title=title, unit=unit, n=values.size, interval=interval)
    groups = {"localized": localized, "other": ~localized}
    for name, key, title, unit in (
        ("goodness", "explained", "energy explained by a Gabor function", "share"),
        ("median_uncertainty", "uncertainty", "space-frequency uncertainty", "Gabor's bound"),
    ):
        medians, intervals = zip(*(median_and_interval(shapes[key].values[m]) for m in groups.values()), strict=True)
        counts = [int(members.sum()) for members in groups.values()]
        variables |= quantity(name, ["group"], medians, title=title, unit=unit, n=counts, interval=list(intervals))
    variables["field"] = xr.Variable(("unit", "pixel"), fields)
    if not localized.any():
        notes.append("no field is localized: all fill the patch, as with Normal z1")
    return result(tree, "gabor_fits", variables, {"unit": units, "group": list(groups)}, notes)


def field_shapes(fields: np.ndarray) -> xr.Dataset:
    """Gabor fit, spread and uncertainty of each field ``(unit, pixel)``: the per-unit variables of :func:`gabor_fits`."""
    fields = np.ascontiguousarray(fields, dtype=np.float64)
    return _shapes(fields.tobytes(), fields.shape)


@lru_cache(maxsize=8)  # several analyses of a report ask for the same fields
def _shapes(buffer: bytes, shape: tuple[int, int]) -> xr.Dataset:
    fields = np.frombuffer(buffer).reshape(shape)
    side = patch_side(shape[1])
    parameters, explained = fit_gabors(fields)
    at = dict(zip(PARAMETERS, parameters.T, strict=True))
    along, across = np.exp(at["log_along"]), np.exp(at["log_across"])
    size = np.sqrt(along * across)
    spread = spatial_spread(fields)
    central = np.all([(0.3 * side <= at[k] + 0.5) & (at[k] + 0.5 <= 0.7 * side) for k in "xy"], axis=0)
    chosen = central & (0.15 * side <= 2 * size) & (2 * size <= 0.3 * side)
    chosen &= (at["frequency"] > 0.18) & (at["frequency"] < 0.5) & (explained > WELL_FITTED)
    made: dict[str, tuple[np.ndarray, str]] = {
        "x": (at["x"], "pixels"),
        "y": (at["y"], "pixels"),
        # Bars lie across the wave vector; y points down in the patch and up in the angle.
        "orientation": (np.degrees(np.pi / 2 - at["angle"]) % 180, "degrees"),
        "frequency": (at["frequency"], "cycles per pixel"),
        "phase": (np.degrees(np.arctan2(-at["sine"], at["cosine"])) % 360, "degrees"),
        "along": (along, "pixels"),
        "across": (across, "pixels"),
        "size": (size, "pixels"),
        "explained": (explained, "share of energy"),
        "spread": (spread, "of a flat field"),
        "uncertainty": (uncertainty(fields), "Gabor's bound"),
        "localized": (spread < LOCALIZED, ""),
        "selected": (chosen, ""),
    }
    dataset = xr.Dataset({name: ("unit", values, {"units": unit}) for name, (values, unit) in made.items()})
    return dataset.assign(parameters=(("unit", "parameter"), parameters))


@style.styled
def plot_gabor_fits(dataset: xr.Dataset) -> style.Picture:
    """Fields above their fits; where the units look, at what orientation and frequency; fit, spread and uncertainty."""
    figure = style.figure(style.FULL, 4.7)
    axes = figure.subplots(2, 3)
    localized = dataset["localized"].values
    explained, frequency = dataset["explained"].values, dataset["frequency"].values
    side = patch_side(dataset.sizes["pixel"])
    order = np.argsort(-explained)
    shown = order[np.unique(np.linspace(0, order.size - 1, 32).astype(int))]
    fields = dataset["field"].values[shown]
    fitted = gabor(dataset["parameters"].values[shown], side)
    rows = [part for k in range(0, len(shown), 8) for part in _row(fields[k : k + 8], fitted[k : k + 8])]
    style.show(axes[0, 0], style.mosaic(np.concatenate(rows), 8), "fields above their fits")
    good = localized & (explained > WELL_FITTED)
    _plot_map(axes[0, 1], dataset.isel(unit=np.flatnonzero(good)), side)
    bins = np.linspace(0, 180, 13)
    axes[0, 2].hist(dataset["orientation"].values[good], bins, color=style.BLUE, alpha=0.7)
    axes[0, 2].set(xlabel="preferred orientation (degrees)", ylabel="units", xticks=[0, 45, 90, 135, 180])
    axes[1, 0].hist(frequency[good], np.linspace(0, 0.5, 21), color=style.BLUE, alpha=0.7)
    axes[1, 0].set(xlabel="preferred frequency (cycles per pixel)", ylabel="units")
    for axis, x, y, label in (
        (axes[1, 1], dataset["spread"].values, explained, "energy explained by a Gabor function"),
        (axes[1, 2], dataset["spread"].values, dataset["uncertainty"].values, "uncertainty (Gabor's bound = 1)"),
    ):
        for members, colour, text in (
            (localized, style.BLUE, "localized"),
            (~localized, style.ORANGE, "not localized"),
        ):
            axis.plot(x[members], y[members], "o", ms=2.2, mec="none", alpha=0.7, color=colour, label=text)
        axis.axvline(LOCALIZED, color=style.GREY, lw=0.8, ls=":")
        axis.set(xlabel="spatial spread (flat field = 1)", ylabel=label)
    axes[1, 1].set_ylim(0, 1.02)
    axes[1, 1].legend(loc="lower left", handletextpad=0.1)
    axes[1, 2].axhline(1, color="black", lw=0.8, ls="--")
    axes[1, 2].set_yscale("log")
    style.letters(axes.ravel())
    group = "localized" if localized.any() else "other"
    at, which = dataset.sel(group=group), "localized" if localized.any() else "all"
    caption = (
        f"Gabor fits of the projective fields of n = {localized.size} active z1 units, {int(localized.sum())} localized. a: "
        "fields from best to worst fit, each above its Gabor function. b: centres of localized, well fitted (more than "
        f"{WELL_FITTED:g} of the energy, n = {int(good.sum())}) units in the patch; lines along the preferred orientation, "
        f"half a period long. c, d: their preferred orientations and frequencies. e: energy explained (median of {which} "
        f"units {at['goodness'].item():.2f}). f: space-frequency uncertainty (median of {which} units "
        f"{at['median_uncertainty'].item():.2f}); dashed, Gabor's bound; dotted, limit of localized fields."
    )
    return style.Picture(figure, caption)


def _row(fields: np.ndarray, fitted: np.ndarray) -> list[np.ndarray]:
    """A row of fields, a row of fits, each filled up to eight."""
    scale = np.abs(fields).max(1, keepdims=True)
    empty = np.full((8 - len(fields), fields.shape[1]), np.nan)
    return [np.concatenate([values / scale, empty]) for values in (fields, np.clip(fitted, -scale, scale))]


def _plot_map(axis: Axes, dataset: xr.Dataset, side: int) -> None:
    frequency = dataset["frequency"].values
    half = 0.25 / np.maximum(frequency, 1 / side)
    angle = np.radians(dataset["orientation"].values)
    step = np.stack([half * np.cos(angle), -half * np.sin(angle)], -1)
    centre = np.stack([dataset["x"].values, dataset["y"].values], -1)
    ends = zip(map(tuple, centre - step), map(tuple, centre + step), strict=True)
    lines = LineCollection([*ends], cmap="viridis", array=frequency, lw=1.1, alpha=0.9)
    lines.set_clim(0, 0.5)
    axis.add_collection(lines)
    axis.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), xlabel="x (pixels)", ylabel="y (pixels)", aspect="equal")
    axis.figure.colorbar(lines, ax=axis, label="cycles per pixel", shrink=0.8)
