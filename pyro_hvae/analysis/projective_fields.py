"""Projective fields: what one unit of a layer adds to the image (Csikor et al. 2022, Fig. 2d, e)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.reading import finite_array
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.storage.posterior_file import sites

SHOWN = 100  # fields in a picture


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
        median, interval = median_and_interval(area[active & np.isfinite(area)])
        medians.append(median)
        bounds.append(interval)
        counts.append(int(active.sum()))
        dim = f"{name}_dim"
        variables |= {
            f"{name}_field": xr.Variable((dim, "pixel"), fields, {"units": "pixel intensity per unit"}),
            f"{name}_power": xr.Variable(dim, squares.mean(1), {"units": "intensity²"}),
            f"{name}_area": xr.Variable(dim, area, {"units": "pixels"}),
            f"{name}_active": xr.Variable(dim, active),
        }
    variables |= quantity(
        "area", ["site"], medians, title="median area of projective fields", unit="pixels", n=counts, interval=bounds
    )
    return result(tree, "projective_fields", variables, {"site": names}, notes)


@style.styled
def plot_projective_fields(dataset: xr.Dataset) -> style.Picture:
    """Active fields of each layer (all of them where none is active), strongest first, each scaled to its own magnitude."""
    names = [str(name) for name in dataset["site"].values]
    figure = style.figure(style.FULL, min(4.2, style.FULL / len(names) + 0.35))
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    parts = []
    for axis, name in zip(axes, names, strict=True):
        power, active = dataset[f"{name}_power"].values, dataset[f"{name}_active"].values
        order = np.flatnonzero(active) if active.any() else np.arange(power.size)
        order = order[np.argsort(-power[order])][:SHOWN]
        columns = int(np.ceil(np.sqrt(order.size)))
        style.show(axis, style.mosaic(dataset[f"{name}_field"].values[order], columns), name)
        parts.append(
            f"n = {order.size} of {int(active.sum())} active {name} dimensions"
            if active.any()
            else f"{name}, none active"
        )
    style.letters(axes)
    caption = (
        f"Projective fields: {'; '.join(parts)}. By falling intensity; each field scaled to its own "
        "largest magnitude (grey: zero). z1: columns of A. Deeper layers: half the change of the mean image between "
        "plus and minus one along the dimension."
    )
    return style.Picture(figure, caption)
