"""Receptive fields of z1: linear regression of posterior means on images, against the projective fields."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.activity import active_dimensions
from pyro_hvae.analysis.common import blocks, complete_images, finite_array, natural_images, quantity, result, selected
from pyro_hvae.analysis.fields import median_and_interval
from pyro_hvae.errors import HVAEError

RIDGES = np.logspace(-5, 1, 7)  # penalty, in units of the mean variance of a pixel
SHOWN = 40
PARTS = ("fit", "choose", "test")


def receptive_fields(tree: xr.DataTree) -> xr.Dataset:
    """Regress the posterior mean of every active z1 unit on the image (ridge regression, closed form).

    Half of the images fit, a quarter chooses the penalty (one for all units), and a quarter tests: ``explained`` is the share
    of the variance of the posterior mean there that a linear receptive field explains. ``similarity`` is the cosine between a
    unit's receptive and projective field; below 1 the guide explains away what other units account for.

    Returns
    -------
    Dataset with ``explained`` and ``similarity`` (medians over active units); over ``unit`` (z1 index): ``receptive_field``,
    ``projective_field (unit, pixel)``, ``unit_explained``, ``unit_similarity``; attribute ``ridge``.

    Raises
    ------
    HVAEError
        Where no z1 unit is active, or there are fewer than eight images.
    """
    notes: list[str] = []
    units = np.flatnonzero(active_dimensions(tree)["z1_active"].values)
    if not units.size:
        raise HVAEError("no z1 unit is active, so there are no receptive fields; look at active_dimensions")
    mask, used = natural_images(tree, complete_images(tree, ["observed_data/x", "posterior_moments/z1_mean"], notes))
    n, pixels = int(mask.sum()), tree["observed_data"].sizes["pixel"]
    if n < 8:
        raise HVAEError(f"receptive fields are regressed on images, at least 8; the file has {n}")
    if n // 2 < pixels:
        notes.append(
            f"{n // 2} images fit {pixels} weights a unit: the receptive fields are mostly penalty; export more images"
        )
    sums = _sums(tree, mask, units)
    gram, cross, _ = _centred(sums["fit"], pixels)
    scale = np.trace(gram) / pixels
    ridges = RIDGES * scale
    solutions = [np.linalg.solve(gram + ridge * np.eye(pixels), cross) for ridge in ridges]
    chosen = int(np.argmax([np.median(_explained(sums, "choose", weights)) for weights in solutions]))
    weights = solutions[chosen]
    explained = _explained(sums, "test", weights)
    fields = finite_array(tree, "constant_data/A").T[units]
    norms = np.linalg.norm(weights, axis=0) * np.linalg.norm(fields, axis=1)
    similarity = np.divide((weights.T * fields).sum(1), norms, out=np.zeros_like(norms), where=norms > 0)
    variables: dict[str, xr.Variable] = {}
    for name, values, title, unit in (
        ("explained", explained, "variance of z1 means explained by linear receptive fields", "share"),
        ("similarity", similarity, "similarity of receptive and projective fields", "cosine"),
    ):
        known = values[np.isfinite(values)]
        median, interval = median_and_interval(known)
        variables |= quantity(name, [], median, title=title, unit=unit, n=known.size, interval=interval)
        variables[f"unit_{name}"] = xr.Variable("unit", values)
    variables["receptive_field"] = xr.Variable(("unit", "pixel"), weights.T)
    variables["projective_field"] = xr.Variable(("unit", "pixel"), fields)
    dataset = result(tree, "receptive_fields", variables, {"unit": units}, notes)
    return dataset.assign_attrs(images=n, image_set=used, ridge=float(RIDGES[chosen]))


def _sums(tree: xr.DataTree, mask: np.ndarray, units: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Per part of the images: count, sums of x and z, x'x, x'z, squares of z."""
    part = np.random.default_rng(0).permutation(np.arange(mask.size)) % 4
    names = np.array(["fit", "fit", "choose", "test"])[part]
    sums: dict[str, list] = {name: [0, 0, 0, 0, 0, 0] for name in PARTS}
    for block in blocks(mask):
        x = selected(tree, "observed_data/x", block)
        z = selected(tree, "posterior_moments/z1_mean", block)[:, units]
        for name in PARTS:
            here = names[block] == name
            u, v = x[here], z[here]
            terms = (len(u), u.sum(0), v.sum(0), u.T @ u, u.T @ v, (v**2).sum(0))
            sums[name] = [old + new for old, new in zip(sums[name], terms, strict=True)]
    return sums


def _centred(sums: list[np.ndarray], pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariances of x with x and with z, and variances of z."""
    count, x, z, xx, xz, zz = sums
    n = max(int(count), 1)
    return xx / n - np.outer(x, x) / n**2, xz / n - np.outer(x, z) / n**2, zz / n - (z / n) ** 2


def _explained(sums: dict[str, list[np.ndarray]], part: str, weights: np.ndarray) -> np.ndarray:
    """Share of the variance of z in a part of the images that ``weights (pixel, unit)`` explain; NaN for constant z."""
    gram, cross, variance = _centred(sums[part], len(weights))
    residual = variance - 2 * (weights * cross).sum(0) + (weights * (gram @ weights)).sum(0)
    return 1 - np.divide(residual, variance, out=np.full_like(variance, np.nan), where=variance > 0)


@style.styled
def plot_receptive_fields(dataset: xr.Dataset) -> style.Picture:
    """Receptive fields beside projective fields of some units; how linear the units are, and how like the two fields."""
    figure = style.figure(style.FULL, 2.6)
    axes = figure.subplots(1, 4, width_ratios=[1.25, 1.25, 1, 1])
    explained, similarity = dataset["unit_explained"].values, dataset["unit_similarity"].values
    order = np.argsort(-np.nan_to_num(explained))
    shown = order[np.unique(np.linspace(0, order.size - 1, SHOWN).astype(int))]
    for axis, name in ((axes[0], "receptive_field"), (axes[1], "projective_field")):
        style.show(axis, style.mosaic(dataset[name].values[shown], 6), name.replace("_", " ") + "s")
    for axis, values, label in (
        (axes[2], explained, "variance explained\nby the receptive field"),
        (axes[3], similarity, "cosine of receptive\nand projective field"),
    ):
        axis.hist(values[np.isfinite(values)].clip(0, 1), np.linspace(0, 1, 21), color=style.BLUE, alpha=0.7)
        axis.set(xlabel=label, ylabel="units")
    style.letters(axes)
    caption = (
        "a: receptive fields of z1 units by ridge regression of the posterior mean on the image, from most to "
        "least linear; b: "
        "projective fields of the same units, each scaled to its own magnitude. c: share of the variance of "
        "the posterior mean on "
        f"test images that the receptive field explains (median {dataset['explained'].item():.2f}). d: cosine "
        "of the two fields "
        f"(median {dataset['similarity'].item():.2f}). n = {explained.size} active units, {dataset.attrs['images']} images "
        f"({dataset.attrs['image_set']}). Values below 0 stand in the first bin."
    )
    return style.Picture(figure, caption)
