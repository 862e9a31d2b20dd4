"""Projective fields: what one unit of a layer adds to the image (Csikor et al. 2022, Fig. 2d, e)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.reading import blocks, complete_images, finite_array, natural_images, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.storage.posterior_file import sites

SHOWN = 100  # fields in a picture
VISIBLE = 0.05  # share of the variance of images along a deeper field, at least, that its dimension accounts for


def projective_fields(tree: xr.DataTree) -> xr.Dataset:
    """Projective fields of every layer, and how many pixels each one covers.

    The field of a z1 unit is its column of ``A`` (pixels per unit of z1). The field of a deeper unit is half the change
    of the mean image between +e and -e along its axis, all else at its prior mean.

    The area of a field is the participation ratio of its squared intensities, ``(sum f²)² / sum f⁴`` in pixels: 1 for a
    single pixel, the number of pixels for a flat field, a third of it for Gaussian noise.

    Returns
    -------
    Dataset with, per layer, ``*_field (*_dim, pixel)``, ``*_power`` (mean squared intensity), ``*_area`` (pixels),
    ``*_active``; and ``area (site)``: the median over active dimensions with a 95% interval (order statistics), which says
    how far it would vary over units drawn from the same population. NaN where no dimension is active.
    """
    names = sites(tree)
    activity = active_dimensions(tree)
    variables: dict[str, xr.Variable] = {}
    medians, bounds, counts = [], [], []
    notes: list[str] = []
    for name in names:
        fields = (
            finite_array(tree, "constant_data/A").T
            if name == "z1"
            else finite_array(tree, f"constant_data/{name}_field")
        )
        active = activity[f"{name}_active"].values
        squares = fields**2
        quartic = (squares**2).sum(1)
        area = np.divide(squares.sum(1) ** 2, quartic, out=np.full(len(fields), np.nan), where=quartic > 0)
        if not active.any():
            notes.append(f"{name}: no active dimension; all fields are shown")
        shown = active if active.any() else np.ones(len(fields), bool)
        dim = f"{name}_dim"
        if name != "z1":
            share = location_share(tree, fields, notes)
            variables[f"{name}_location_share"] = xr.Variable(
                dim, share, {"units": "share of variance along the field"}
            )
            if negligible := int((shown & (share < VISIBLE)).sum()):
                notes.append(f"{name}: {_negligible(negligible, int(shown.sum()), bool(active.any()))}")
            shown = shown & ~(share < VISIBLE)
        median, interval = median_and_interval(area[shown & active & np.isfinite(area)])
        medians.append(median)
        bounds.append(interval)
        counts.append(int((shown & active).sum()))
        variables |= {
            f"{name}_field": xr.Variable((dim, "pixel"), fields, {"units": "pixel intensity per unit"}),
            f"{name}_power": xr.Variable(dim, squares.mean(1), {"units": "intensity²"}),
            f"{name}_area": xr.Variable(dim, area, {"units": "pixels"}),
            f"{name}_active": xr.Variable(dim, active),
            f"{name}_shown": xr.Variable(dim, shown),
        }
    variables |= quantity(
        "area", ["site"], medians, title="median area of projective fields", unit="pixels", n=counts, interval=bounds
    )
    return result(tree, "projective_fields", variables, {"site": names}, notes)


def location_share(tree: xr.DataTree, fields: np.ndarray, notes: list[str]) -> np.ndarray:
    """Share of the variance of images along each field ``(dim, pixel)`` that its dimension, of unit variance, accounts for.

    The squared norm of the field over the variance of the images' projections on its direction; natural images where there
    are any. 0 for a zero field; NaN where a single image has no variance.
    """
    mask, _ = natural_images(tree, complete_images(tree, ["observed_data/x"], notes))
    norm = np.linalg.norm(fields, axis=1)
    directions = fields / np.where(norm > 0, norm, 1.0)[:, None]
    projected = np.concatenate([selected(tree, "observed_data/x", block) @ directions.T for block in blocks(mask)])
    if len(projected) < 2:
        return np.full(len(fields), np.nan)
    variance = projected.var(0, ddof=1)
    return np.divide(norm**2, variance, out=np.zeros(len(fields)), where=variance > 0)


def _negligible(count: int, of: int, active: bool) -> str:
    """How many fields are left out, and why."""
    return (
        f"{count} of {of}{' active' if active else ''} dimensions have no field to speak of: they account for less than "
        f"{100 * VISIBLE:g}% of the variance of images along it"
    )


@style.styled
def plot_projective_fields(dataset: xr.Dataset) -> style.Picture:
    """Active fields of each layer that are not negligible, strongest first, each scaled to its own magnitude."""
    names = [str(name) for name in dataset["site"].values]
    parts, drawn = [], {}
    for name in names:
        power, active, shown = (dataset[f"{name}_{key}"].values for key in ("power", "active", "shown"))
        candidates = int(active.sum()) or active.size
        order = np.flatnonzero(shown)
        drawn[name] = order[np.argsort(-power[order])][:SHOWN]
        text = (
            f"n = {drawn[name].size} of {candidates} active {name} dimensions"
            if active.any()
            else f"{name}, none active"
        )
        if negligible := candidates - order.size:
            why = _negligible(negligible, candidates, bool(active.any()))
            text = f"{text} ({why}; not drawn)" if order.size else f"{name}, not drawn: {why}"
        parts.append(text)
    panels = [name for name in names if drawn[name].size]
    # A layer by itself fills the width of the page, twice as wide as high.
    wide = 2 if len(panels) == 1 else 1
    figure = style.figure(style.FULL, style.FULL / max(len(panels), wide) + 0.35)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, name in zip(axes, panels, strict=True):
        columns = int(np.ceil(np.sqrt(wide * drawn[name].size)))
        style.show(axis, style.mosaic(dataset[f"{name}_field"].values[drawn[name]], columns), name)
    style.letters(axes)
    caption = (
        f"Projective fields: {'; '.join(parts)}. By falling intensity; each field scaled to its own "
        "largest magnitude (grey: zero). z1: columns of A. Deeper layers: half the change of the mean image between "
        "plus and minus one along the dimension."
    )
    return style.Picture(figure, caption)
