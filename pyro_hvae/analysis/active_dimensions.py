"""Active and collapsed dimensions of every layer (Csikor et al. 2022, Fig. 2c, f, g and h)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import complete_images, finite_array, natural_images, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import Z95, mean_and_se
from pyro_hvae.storage.posterior_file import sites

MIN_GAP = 1.0  # decades; two clusters lie at least a factor of ten apart
GAP_RATIO = 3.0  # ... that gap is at least so many times the next largest one
GAP_SPREAD = 2.0  # ... and so many standard deviations of either cluster
COLLAPSED_SHARE = 1e-6  # share of pixel variance below which a lone cluster of z1 is collapsed (Csikor et al. 2022)
ACTIVE_VARIANCE = 1e-2  # variance of posterior means above which a unit of a lone cluster is active (Burda et al. 2016)
FLOOR = 1e-12  # values this far under the largest count as equal


SUMMARY = ("count", "low", "high", "gap", "clusters", "threshold", "by_gap")


class Split(NamedTuple):
    """Where a set of positive values falls apart: ``threshold``, ``gap`` (decades) and number of ``clusters``."""

    threshold: float
    gap: float
    clusters: int


def split_clusters(values: np.ndarray) -> Split:
    """Find two clusters of positive values on a log scale by the largest gap between neighbours.

    Two clusters are reported only where the largest gap is at least :data:`MIN_GAP` decades, :data:`GAP_RATIO` times the
    second largest and :data:`GAP_SPREAD` times the spread of either cluster; otherwise there is one, and ``threshold``
    is NaN. The threshold is the middle of the gap. Values drawn log-normally from one cluster are split in less than 1%
    of cases for a standard deviation up to half a decade and 20 values or more.
    """
    values = np.asarray(values, dtype=float)
    top = values.max(initial=0.0)
    if values.size < 2 or top <= 0:
        return Split(math.nan, 0.0, 1)
    logs = np.sort(np.log10(np.maximum(values, FLOOR * top)))
    gaps = np.diff(logs)
    at = int(gaps.argmax())
    second = np.delete(gaps, at).max(initial=0.0)
    spread = max(logs[: at + 1].std(), logs[at + 1 :].std())
    if gaps[at] < max(MIN_GAP, GAP_RATIO * second, GAP_SPREAD * spread):
        return Split(math.nan, float(gaps[at]), 1)
    return Split(float(10 ** ((logs[at] + logs[at + 1]) / 2)), float(gaps[at]), 2)


def active_dimensions(tree: xr.DataTree) -> xr.Dataset:
    """Which dimensions of each layer are in use.

    z1 is judged by the mean squared intensity of its projective fields (columns of ``A``), deeper layers by the variance
    over images of their posterior means. The threshold lies in the middle of the largest gap between the two clusters on
    a log scale. Where there is one cluster only, or two that both lie under it, that is said and a fixed threshold
    decides: a z1 unit is active if it carries more than 1e-6 of the pixel variance, a deeper one if its posterior means
    vary by more than 0.01.
    Natural images are used where there are any, all images otherwise.

    Returns
    -------
    Dataset with ``count (site)`` (its interval: the counts with the threshold half a decade higher and lower), ``kl
    (site)`` in nats per image, ``collapsed_share`` (share of the pixel variance carried by collapsed z1 units), ``gap``
    (decades), ``clusters``, ``threshold`` and ``by_gap (site)`` (1 where the threshold lies in the gap); and for each
    layer ``*_activity``, ``*_active``, ``*_variance_of_means``, ``*_mean_variance``, ``*_kl`` and ``*_kl_se`` over its
    dims.

    Raises
    ------
    HVAEError
        Where no image has finite moments, or ``A`` is not finite.
    """
    notes: list[str] = []
    names = sites(tree)
    paths = [f"posterior_moments/{name}_{moment}" for name in names for moment in ("mean", "variance", "kl")]
    mask, used = natural_images(tree, complete_images(tree, [*paths, "observed_data/x"], notes))
    n = int(mask.sum())
    variables: dict[str, xr.Variable] = {}
    summary: dict[str, list[float]] = {key: [] for key in SUMMARY}
    totals = []
    for name in names:
        kl = selected(tree, f"posterior_moments/{name}_kl", mask)
        totals.append(mean_and_se(kl.sum(1)))
        moments = {
            "variance_of_means": selected(tree, f"posterior_moments/{name}_mean", mask).var(0, ddof=min(n - 1, 1)),
            "mean_variance": selected(tree, f"posterior_moments/{name}_variance", mask).mean(0),
        }
        moments["kl"], moments["kl_se"] = mean_and_se(kl)
        if name == "z1":
            moments["activity"] = (finite_array(tree, "constant_data/A") ** 2).mean(0)
            # Share of the pixel variance: a unit's own variance over images and draws, through its field.
            carried = moments["activity"] * (moments["variance_of_means"] + moments["mean_variance"])
            moments["share"] = carried / max(selected(tree, "observed_data/x", mask).var(), np.finfo(float).tiny)
            active, row = _judge(name, moments["activity"], moments["share"], COLLAPSED_SHARE, notes)
        else:
            moments["activity"] = moments["variance_of_means"]
            active, row = _judge(name, moments["activity"], moments["activity"], ACTIVE_VARIANCE, notes)
            if n < 2:
                notes[:] = [note for note in notes if not note.startswith(f"{name}:")]
                notes.append(f"{name}: not judged, the variance of posterior means needs at least two images")
                row = dict.fromkeys(row, math.nan) | {"by_gap": 0.0}
        for key, value in row.items():
            summary[key].append(value)
        variables |= {f"{name}_{key}": xr.Variable(f"{name}_dim", values) for key, values in moments.items()}
        variables[f"{name}_active"] = xr.Variable(f"{name}_dim", active)
    bounds = np.stack([summary["low"], summary["high"]], -1)
    sizes = [variables[f"{name}_active"].size for name in names]
    variables |= quantity(
        "count", ["site"], summary["count"], title="active dimensions", unit="dimensions", n=sizes, interval=bounds
    )
    means, errors = (np.array(column) for column in zip(*totals, strict=True))
    variables |= quantity("kl", ["site"], means, title="KL[q||p]", unit="nats per image", n=n, se=errors)
    share = variables["z1_share"].values
    variables["collapsed_share"] = xr.Variable((), share[~variables["z1_active"].values].sum(), {"units": "1"})
    variables |= {key: xr.Variable("site", summary[key]) for key in ("gap", "clusters", "threshold", "by_gap")}
    dataset = result(tree, "active_dimensions", variables, {"site": names}, notes)
    return dataset.assign_attrs(images=n, image_set=used)


def _judge(
    name: str, activity: np.ndarray, size: np.ndarray, least: float, notes: list[str]
) -> tuple[np.ndarray, dict[str, float]]:
    """Active dimensions by the gap in ``activity``, or by ``size > least`` where no gap parts something from nothing."""
    split = split_clusters(activity)
    judged, threshold, by_gap = activity, split.threshold, split.clusters == 2
    if by_gap and np.median(size[activity > threshold]) <= least:
        by_gap = False
    if not by_gap:
        judged, threshold = size, least
        what = "share of the pixel variance" if name == "z1" else "variance of the posterior means"
        found = "one cluster only" if split.clusters == 1 else "two clusters, the upper one negligible as well"
        notes.append(
            f"{name}: {found} (largest gap {split.gap:.2f} decades): "
            f"a dimension counts as active where its {what} exceeds {least:g}"
        )
    active = judged > threshold
    if not active.any():
        notes.append(f"{name}: no active dimension")
    count, low, high = (float((judged > threshold * 10**shift).sum()) for shift in (0.0, 0.5, -0.5))
    row = (count, low, high, split.gap, split.clusters, threshold, by_gap)
    return active, {key: float(value) for key, value in zip(SUMMARY, row, strict=True)}


@style.styled
def plot_active_dimensions(dataset: xr.Dataset) -> style.Picture:
    """A row per layer: activity in order with the gap, posterior moments of each dimension, KL of each dimension."""
    names = [str(name) for name in dataset["site"].values]
    figure = style.figure(style.FULL, 2.1 * len(names))
    axes = figure.subplots(len(names), 3, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        _plot_order(row[0], dataset, name)
        _plot_moments(row[1], dataset, name)
        order = np.argsort(-dataset[f"{name}_kl"].values)
        kl, se = dataset[f"{name}_kl"].values[order], dataset[f"{name}_kl_se"].values[order]
        rank = np.arange(1, kl.size + 1)
        row[2].fill_between(rank, kl - Z95 * se, kl + Z95 * se, color=style.BLUE, alpha=0.3, lw=0)
        row[2].plot(rank, kl, color=style.BLUE, marker="o" if kl.size < 50 else None, ms=2.5)
        row[2].set(
            xlabel=f"{name} dimension, in order", ylabel="KL (nats per image)", ylim=(0, 1.1 * max(kl.max(), 1e-3))
        )
    style.letters(axes.ravel())
    counts = ", ".join(_count(dataset.sel(site=name), name) for name in names)
    caption = (
        f"Active dimensions: {counts}; collapsed z1 units carry {dataset['collapsed_share'].item():.1g} of the pixel "
        "variance. Left: mean squared intensity of projective fields (z1) and variance of "
        "posterior means (deeper layers), in order; dotted, the threshold; shaded, the gap between two clusters where "
        "there are two. Middle: variance of the posterior mean over images against mean posterior variance; on the "
        "dashed line (deeper layers) the two add up to a prior of unit variance. Right: KL of each dimension, band ± 1.96 s.e. "
        f"n = {dataset.attrs['images']} images ({dataset.attrs['image_set']})."
    )
    return style.Picture(figure, caption)


def _count(at: xr.Dataset, name: str) -> str:
    size = at[f"{name}_dim"].size
    if np.isnan(at["count"]):
        return f"{name} not judged"
    gap = f"gap of {at['gap'].item():.1f} decades" if at["clusters"] == 2 else "one cluster"
    return f"{name} {at['count'].item():.0f} of {size} ({gap})"


def _plot_order(axis: Axes, dataset: xr.Dataset, name: str) -> None:
    activity, active = dataset[f"{name}_activity"].values, dataset[f"{name}_active"].values
    at = dataset.sel(site=name)
    axis.set(xlabel=f"{name} dimension, in order")
    axis.set(ylabel="field intensity² (mean)" if name == "z1" else "variance of posterior means")
    if np.isnan(at["count"]) or activity.max() <= 0:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, "one image: not judged" if np.isnan(at["count"]) else "all zero", ha="center", va="center")
        return
    order = np.argsort(-activity)
    height = np.maximum(activity[order], FLOOR * activity.max())
    rank = np.arange(1, activity.size + 1)
    threshold, half = at["threshold"].item(), 10 ** (at["gap"].item() / 2)
    axis.set(yscale="log", ylim=(height.min() / 3, height.max() * 3))
    if at["by_gap"]:
        axis.axhspan(threshold / half, threshold * half, color=style.GREY, alpha=0.15, lw=0)
    if at["by_gap"] or name != "z1":  # the other threshold of z1 is a share of variance, not an intensity
        axis.axhline(threshold, color=style.GREY, lw=0.8, ls=":")
    for chosen, colour in ((active[order], style.BLUE), (~active[order], style.ORANGE)):
        axis.plot(rank[chosen], height[chosen], "o", ms=2.5, mec="none", color=colour)


def _plot_moments(axis: Axes, dataset: xr.Dataset, name: str) -> None:
    active = dataset[f"{name}_active"].values
    if name != "z1":
        axis.axline((0.0, 1.0), (1.0, 0.0), color=style.GREY, lw=0.8, ls="--", zorder=0)
    x, y = dataset[f"{name}_mean_variance"].values, dataset[f"{name}_variance_of_means"].values
    for chosen, colour, text in ((active, style.BLUE, "active"), (~active, style.ORANGE, "collapsed")):
        axis.plot(x[chosen], y[chosen], "o", ms=2.5, mec="none", color=colour, alpha=0.7, label=text)
    axis.set(xlabel=f"mean posterior variance of {name}", ylabel="variance of posterior means")
    for span, values in ((axis.set_xlim, x), (axis.set_ylim, y)):
        top = max(1.0, values.max())
        span(-0.03 * top, 1.05 * top)
    axis.legend(handletextpad=0.1)
