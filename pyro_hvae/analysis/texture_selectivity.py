"""Which z2 dimensions carry the texture family (Csikor et al. 2022, Fig. 2h; Vas 2024): greedy addition of dimensions."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import norm

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.reading import complete_images, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.texture_decoding import PENALTIES, fit_decoder, texture_sets
from pyro_hvae.analysis.uncertainty import binomial_interval
from pyro_hvae.errors import HVAEError

LONGEST = 20  # dimensions added one by one
RIDGE = 1e-6  # share of the mean variance added to the pooled covariance


def texture_selectivity(tree: xr.DataTree, seed: int = 0) -> xr.Dataset:
    """Add active z2 dimensions one by one, each time the one that tells most of the texture family.

    The order is found on the training images by linear discriminant analysis, fitted to one half of them and judged on the
    other. The path ends to be selective where its accuracy comes within one standard error of its best (the
    one-standard-error rule); those dimensions are texture-selective, provided that the first of them beats chance. Multinomial
    logistic regression on all training images, scored on the test images, gives the accuracies.

    Returns
    -------
    Dataset with ``selective_count``, ``accuracy (part)`` (``all`` active, ``selective``, ``non_selective`` dimensions; NaN
    where there are none), ``path_accuracy``, ``path_interval`` and ``judged (step)`` (accuracy on test images and on the
    half of the training images that judges), ``path_dim (step)`` (z2 indices); over ``z2_dim``: ``variance_explained``
    (share of the variance of the posterior mean over texture images that lies between families), ``selective``, ``active``;
    ``z2_mean``, ``image_family (image)`` of test images. Attribute ``chance``.

    Raises
    ------
    HVAEError
        Where there are no labels, fewer than two families, too few images, or no active z2 dimension.
    """
    notes: list[str] = []
    usable = complete_images(tree, ["posterior_moments/z2_mean"], notes)
    families, family, train, test = texture_sets(tree, usable)
    active = np.flatnonzero(active_dimensions(tree)["z2_active"].values)
    if not active.size:
        raise HVAEError("no z2 dimension is active, so none can be selective; look at active_dimensions")
    inputs, targets = (selected(tree, "posterior_moments/z2_mean", images) for images in (train, test))
    truth, answer = (np.searchsorted(families, family[images]) for images in (train, test))
    rng = np.random.default_rng(seed)
    half = np.zeros(train.size, bool)
    for k in range(len(families)):
        members = rng.permutation(np.flatnonzero(truth == k))
        half[members[: (members.size + 1) // 2]] = True
    path, judged = _greedy(inputs[:, active], truth, half, len(families))
    order = active[path]
    chance = 1 / len(families)
    best = int(np.argmax(judged))
    error = np.sqrt(judged[best] * (1 - judged[best]) / max((~half).sum(), 1))
    enough = 1 + int(np.argmax(judged >= judged[best] - error))
    # The first one is the best of all: its limit is corrected for their number (Bonferroni).
    limit = norm.isf(0.025 / active.size) * np.sqrt(chance * (1 - chance) / max((~half).sum(), 1))
    if judged[0] - chance <= limit:
        enough = 0
        notes.append("no z2 dimension by itself tells the families better than chance: none counts as selective")
    selective = np.isin(np.arange(inputs.shape[1]), order[:enough])
    is_active = np.isin(np.arange(inputs.shape[1]), active)

    def accuracy(dims: np.ndarray) -> tuple[float, tuple[float, float]]:
        if not dims.size:
            return np.nan, (np.nan, np.nan)
        decoder = fit_decoder(inputs[:, dims], truth, PENALTIES[-1], notes, "z2")
        return _balanced(decoder.predict(targets[:, dims]) == answer, answer, len(families))

    steps = [accuracy(order[: k + 1]) for k in range(order.size)]
    parts = {
        "all": active,
        "selective": np.flatnonzero(selective),
        "non_selective": np.flatnonzero(is_active & ~selective),
    }
    values, intervals = zip(*(accuracy(dims) for dims in parts.values()), strict=True)
    variables = quantity(
        "accuracy", ["part"], values, title="texture family decoded from z2 dimensions", unit="fraction correct",
        n=test.size, interval=list(intervals),
    )  # fmt: skip
    near = judged >= judged[best] - 2 * error
    bounds = (0 if enough == 0 else 1 + int(np.argmax(near)), max(enough, best + 1) if enough else 0)
    variables |= quantity(
        "selective_count", [], enough, title="texture-selective z2 dimensions", unit="dimensions", n=active.size,
        interval=bounds,
    )  # fmt: skip
    between = np.stack([targets[answer == k].mean(0) for k in range(len(families))])
    weights = np.bincount(answer, minlength=len(families)) / answer.size
    spread = (weights[:, None] * (between - weights @ between) ** 2).sum(0)
    total = targets.var(0)
    variables |= {
        "path_dim": xr.Variable("step", order),
        "path_accuracy": xr.Variable("step", [value for value, _ in steps]),
        "path_interval": xr.Variable(("step", "end"), [bound for _, bound in steps]),
        "judged": xr.Variable("step", judged),
        "variance_explained": xr.Variable(
            "z2_dim", np.divide(spread, total, out=np.zeros_like(total), where=total > 0)
        ),
        "selective": xr.Variable("z2_dim", selective),
        "active": xr.Variable("z2_dim", is_active),
        "z2_mean": xr.Variable(("image", "z2_dim"), targets),
        "image_family": xr.Variable("image", answer),
    }
    coords = {"part": list(parts), "step": np.arange(1, order.size + 1), "family": families}
    return result(tree, "texture_selectivity", variables, coords, notes).assign_attrs(chance=chance)


def _balanced(right: np.ndarray, truth: np.ndarray, families: int) -> tuple[float, tuple[float, float]]:
    """Accuracy with every family of the same weight; Wilson's interval for as many images as there are."""
    value = float(np.mean([right[truth == k].mean() for k in range(families)]))
    return value, binomial_interval(round(value * right.size), right.size)[1]


def _greedy(inputs: np.ndarray, truth: np.ndarray, half: np.ndarray, families: int) -> tuple[list[int], np.ndarray]:
    """Columns in the order in which discriminant analysis takes them, and the accuracy on the other half after each."""
    fitted, judged = inputs[half], inputs[~half]
    means = np.stack([fitted[truth[half] == k].mean(0) for k in range(families)])
    centred = fitted - means[truth[half]]
    pooled = centred.T @ centred / max(len(fitted) - families, 1)
    pooled += RIDGE * np.trace(pooled) / len(pooled) * np.eye(len(pooled))
    path: list[int] = []
    accuracies = []
    for _ in range(min(LONGEST, inputs.shape[1])):
        found = {}
        for column in sorted(set(range(inputs.shape[1])) - set(path)):
            dims = [*path, column]
            weights = np.linalg.solve(pooled[np.ix_(dims, dims)], means[:, dims].T)
            scores = judged[:, dims] @ weights - 0.5 * (means[:, dims] * weights.T).sum(1)
            right = scores.argmax(1) == truth[~half]
            found[column] = np.mean([right[truth[~half] == k].mean() for k in range(families)])
        best = max(found, key=lambda column: found[column])
        path.append(best)
        accuracies.append(found[best])
    return path, np.array(accuracies)


@style.styled
def plot_texture_selectivity(dataset: xr.Dataset) -> style.Picture:
    """Accuracy as dimensions are added, selective against other dimensions, the two best dimensions by family."""
    figure = style.figure(style.FULL, 2.5)
    axes = figure.subplots(1, 3)
    step, accuracy = dataset["step"].values, dataset["path_accuracy"].values
    low, high = dataset["path_interval"].values.T
    axes[0].fill_between(step, low, high, color=style.BLUE, alpha=0.25, lw=0)
    axes[0].plot(step, accuracy, "o-", ms=3, color=style.BLUE)
    count = int(dataset["selective_count"])
    if count:
        axes[0].axvline(count, color=style.ORANGE, lw=0.8, ls=":")
    axes[0].set(xlabel="z2 dimensions, added one by one", ylabel="texture family decoded\n(fraction correct)")
    parts = [str(part) for part in dataset["part"].values]
    for place, part in enumerate(parts):
        at = dataset.sel(part=part)
        if np.isnan(at["accuracy"]):
            continue
        a, b = at["accuracy_interval"].values
        axes[1].plot([place, place], [a, b], color=style.BLUE, lw=1.4)
        axes[1].plot(place, at["accuracy"], "o", ms=4, color=style.BLUE)
    axes[1].set(xticks=range(len(parts)), xticklabels=[part.replace("_", "-\n") for part in parts], xlim=(-0.6, 2.6))
    axes[1].set_ylabel("fraction correct")
    for axis in axes[:2]:
        axis.axhline(dataset.attrs["chance"], color="black", lw=0.8, ls="--")
        axis.set_ylim(0, 1)
    dims = dataset["path_dim"].values[:2]
    points = dataset["z2_mean"].values[:, dims if dims.size == 2 else [dims[0], dims[0]]]
    colours = [style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY, style.RED]
    families = style.short([str(family) for family in dataset["family"].values])
    for k, family in enumerate(families):
        here = points[dataset["image_family"].values == k]
        colour, marker = colours[k % len(colours)], "osv^"[k // len(colours) % 4]
        axes[2].plot(*here.T, marker, ms=2, mec="none", alpha=0.5, color=colour, label=family, rasterized=True)
    axes[2].set(xlabel=f"posterior mean of z2 [{dims[0]}]", ylabel=f"posterior mean of z2 [{dims[-1]}]")
    if len(families) <= 4:
        axes[2].legend(markerscale=2, handletextpad=0.1)
    else:  # beside the points, not over them
        figure.legend(loc="outside right upper", markerscale=2, handletextpad=0.1, ncols=-(-len(families) // 18))
    style.letters(axes)
    n = int(dataset["accuracy_n"].values[0])
    caption = (
        "Texture-selective z2 dimensions. a: test accuracy of multinomial logistic regression as dimensions are added in the "
        f"order found on training images; dotted: the {count} selective ones. b: all {int(dataset['active'].sum())} active, "
        f"selective and non-selective dimensions. Lines and band: 95% interval; dashed: chance, "
        f"{dataset.attrs['chance']:.2f}. c: posterior means of test images in the two dimensions that come first. "
        f"n = {n} test images."
    )
    return style.Picture(figure, caption)
