"""Receptive fields of z1: regression of posterior means on images, the guide's gradient, and the projective fields."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.reading import blocks, complete_images, finite_array, natural_images, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.errors import HVAEError

RIDGES = np.logspace(-5, 1, 7)  # penalty, in units of the mean variance of a pixel
CONSTANT = 1e-6  # variance, relative to the largest, below which images do not vary in a direction
SHOWN = 40
PARTS = ("fit", "choose", "test")


def receptive_fields(tree: xr.DataTree) -> xr.Dataset:
    """Regress the posterior mean of every active z1 unit on the image (ridge regression, closed form).

    Half of the images fit, a quarter chooses the penalty (one for all units), and a quarter tests: ``explained`` is the share
    of the variance of the posterior mean there that a linear receptive field explains. ``similarity`` is the cosine between a
    unit's receptive and projective field; below 1 the guide explains away what other units account for. Where the file has
    the guide's mean gradient d E[z1] / dx, its cosines with the other two stand beside, all within the directions in which
    the images vary: in the others (removed by whitening) a guide's weights are what they started from. For Gaussian images
    gradient and regression are the same (Stein's lemma) but for the error of fitting.

    Returns
    -------
    Dataset with ``explained`` and ``similarity`` (medians over active units); over ``unit`` (z1 index): ``receptive_field``,
    ``projective_field (unit, pixel)``, ``unit_explained``, ``unit_similarity``; attribute ``ridge``. With the gradient also
    ``gradient_field (unit, pixel)``, ``gradient_agreement`` (with the regression) and ``gradient_similarity`` (with the
    projective field), and both per unit.

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
    rows = [
        ("explained", explained, "variance of z1 means explained by linear receptive fields", "share"),
        ("similarity", _cosines(weights.T, fields), "similarity of receptive and projective fields", "cosine"),
    ]
    variables: dict[str, xr.Variable] = {}
    gradient = _gradient(tree, units, notes)
    if gradient is not None:
        gradient = gradient @ _span(sums)
        variables["gradient_field"] = xr.Variable(
            ("unit", "pixel"), gradient, tree["constant_data"]["z1_receptive_field"].attrs
        )
        rows += [
            (
                "gradient_agreement",
                _cosines(gradient, weights.T),
                "agreement of regression and gradient fields",
                "cosine",
            ),
            (
                "gradient_similarity",
                _cosines(gradient, fields),
                "similarity of gradient and projective fields",
                "cosine",
            ),
        ]
    for name, values, title, unit in rows:
        known = values[np.isfinite(values)]
        median, interval = median_and_interval(known)
        variables |= quantity(name, [], median, title=title, unit=unit, n=known.size, interval=interval)
        variables[f"unit_{name}"] = xr.Variable("unit", values)
    variables["receptive_field"] = xr.Variable(("unit", "pixel"), weights.T)
    variables["projective_field"] = xr.Variable(("unit", "pixel"), fields)
    dataset = result(tree, "receptive_fields", variables, {"unit": units}, notes)
    return dataset.assign_attrs(images=n, image_set=used, ridge=float(RIDGES[chosen]))


def _gradient(tree: xr.DataTree, units: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """The guide's mean gradient, where the file has one that is finite."""
    if "z1_receptive_field" not in tree["constant_data"]:
        return None
    gradient = np.asarray(tree["constant_data/z1_receptive_field"].values, dtype=float)[units]
    if np.isfinite(gradient).all():
        return gradient
    notes.append("constant_data/z1_receptive_field is not finite: the guide's gradient is left out")
    return None


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of ``a`` with that of ``b``; 0 where one has no length."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(1), norms, out=np.zeros_like(norms), where=norms > 0)


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


def _span(sums: dict[str, list[np.ndarray]]) -> np.ndarray:
    """Projector ``(pixel, pixel)`` onto the directions in which images vary."""
    count, x, _, xx, *_ = (sum(parts) for parts in zip(*sums.values(), strict=True))
    variances, directions = np.linalg.eigh(xx / count - np.outer(x, x) / count**2)
    kept = directions[:, variances > CONSTANT * variances[-1]]
    return kept @ kept.T


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
    """Fields of some units by every method, side by side; how linear the units are, and how like the fields."""
    mosaics = {"receptive_field": "regression", "gradient_field": "gradient", "projective_field": "projective"}
    mosaics = {name: title for name, title in mosaics.items() if name in dataset}
    figure = style.figure(style.FULL, 2.6 if len(mosaics) == 2 else 2.4)
    axes = figure.subplots(1, len(mosaics) + 2, width_ratios=[1.25] * len(mosaics) + [1, 1])
    explained = dataset["unit_explained"].values
    order = np.argsort(-np.nan_to_num(explained))
    shown = order[np.unique(np.linspace(0, order.size - 1, SHOWN).astype(int))]
    for axis, (name, title) in zip(axes, mosaics.items(), strict=False):
        style.show(axis, style.mosaic(dataset[name].values[shown], 6), title)
    cosines = {
        "unit_similarity": ("regression, projective", style.BLUE),
        "unit_gradient_similarity": ("gradient, projective", style.ORANGE),
        "unit_gradient_agreement": ("gradient, regression", style.GREY),
    }
    bins = np.linspace(0, 1, 21)
    axes[-2].hist(explained[np.isfinite(explained)].clip(0, 1), bins, color=style.BLUE, alpha=0.7)
    for name, (label, colour) in cosines.items():
        if name in dataset:
            axes[-1].ecdf(dataset[name].values, color=colour, label=label)
    axes[-2].set(xlabel="variance explained\nby the regression", ylabel="units")
    axes[-1].set(xlabel="cosine of two fields", ylabel="cumulative share", xlim=(None, 1))
    if "gradient_field" in dataset:
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower right", ncols=3)
    style.letters(axes)
    return style.Picture(figure, _caption(dataset))


def _caption(dataset: xr.Dataset) -> str:
    by_gradient, cosines = "", f"regression and projective {dataset['similarity'].item():.2f}"
    if "gradient_field" in dataset:
        attrs = dataset["gradient_field"].attrs
        over = f"{attrs.get('images', '?')} {attrs.get('image_set', '')} images".replace("  ", " ")
        by_gradient = (
            f"gradient: of the posterior mean with respect to the image, averaged over {over}, within the directions in which "
            "images vary; "
        )
        cosines += (
            f", gradient and projective {dataset['gradient_similarity'].item():.2f}, "
            f"gradient and regression {dataset['gradient_agreement'].item():.2f}"
        )
    return (
        "Receptive fields of z1 units, from most to least linear. Regression: ridge regression of the posterior mean on the "
        f"image; {by_gradient}projective: what the unit adds to the image. Each field is scaled to its own magnitude. "
        "Histogram: share of the variance of the posterior mean on test images that the regression explains (median "
        f"{dataset['explained'].item():.2f}; values below 0 stand in the first bin). Right: cosines of fields (medians: "
        f"{cosines}). n = {dataset.sizes['unit']} active units, {dataset.attrs['images']} images "
        f"({dataset.attrs['image_set']})."
    )
