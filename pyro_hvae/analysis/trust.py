"""When to believe the guide: Pareto k-hat and effective sample size of its importance weights, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.chain_convergence import sampled
from pyro_hvae.analysis.reading import export_settings, image_sets, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import binomial_interval, median_and_interval
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.pareto_limits import GOOD_K, k_limit
from pyro_hvae.storage.posterior_file import images

CONSTANT = 0.999  # effective share of draws from which on the weights are constant, and k-hat need not exist


def trust(tree: xr.DataTree) -> xr.Dataset:
    """For which share of images the moments of the posterior can be trusted.

    The importance weights of an image, p(x, z) / q(z|x), say how far the guide is from the posterior. Moments can be
    trusted where the Pareto k-hat of the weights lies below ``min(0.7, 1 - 1 / log10(S))`` with S weights an image (Vehtari et
    al. 2024). Above it, importance resampling cannot mend the guide either. The weights are those of the draws in the file; in
    a file without draws, those from which its evidence was estimated.

    Returns
    -------
    Dataset with, over ``set`` (``natural`` and ``texture``, those present): ``trusted`` (share of images, 95% Wilson
    interval), ``below_07`` (share of images with k-hat below 0.7, whatever S), ``effective_share`` (median over images of
    the effective sample size over S, interval by order statistics); per image ``image_k``, ``image_effective_share``,
    ``image_set``; and the attributes ``verdict`` (one plain sentence), ``threshold`` and ``weights`` (S).

    Raises
    ------
    HVAEError
        Where the file has neither kind of weights (a sampler's has none), or no image a k-hat.
    """
    if sampled(tree):
        raise HVAEError("the file is of a sampler, which has no weights; chain_convergence says when to believe it")
    weights = _of_draws(tree) if "sample_stats" in tree.children else _of_evidence(tree)
    if not weights.count:
        raise HVAEError("the file does not say of how many importance weights its k-hat is; export it again")
    threshold = k_limit(weights.count)
    judged, share = weights.k[weights.images], weights.share[weights.images]
    known = ~np.isnan(judged)
    if not known.any():
        raise HVAEError(
            f"no image has a Pareto k-hat: {weights.count} draws an image are too few for one, or their weights not finite; "
            "export 1000 or more"
        )
    notes: list[str] = []
    if not known.all():
        notes.append(f"{int((~known).sum())} of {known.size} images without k-hat (or not finite) count as not trusted")
    members = {name: mask[weights.images] for name, mask in image_sets(tree).items()}
    sets = {name: mask for name, mask in members.items() if mask.any()}
    rows: dict[str, list] = {"trusted": [], "below_07": [], "effective_share": []}
    bounds: dict[str, list] = {name: [] for name in rows}
    for mask in sets.values():
        here = np.nan_to_num(judged[mask], nan=np.inf)
        for name, limit in (("trusted", threshold), ("below_07", GOOD_K)):
            value, interval = binomial_interval(int((here < limit).sum()), here.size)
            rows[name].append(value)
            bounds[name].append(interval)
        value, interval = median_and_interval(share[mask][np.isfinite(share[mask])])
        rows["effective_share"].append(value)
        bounds["effective_share"].append(interval)
    n = [int(mask.sum()) for mask in sets.values()]
    variables: dict[str, xr.Variable] = {}
    for name, title, unit in (
        ("trusted", "images whose moments can be trusted", "share of images"),
        ("below_07", f"images with Pareto k-hat below {GOOD_K}", "share of images"),
        ("effective_share", "median effective sample size", "share of draws"),
    ):
        variables |= quantity(name, ["set"], rows[name], title=title, unit=unit, n=n, interval=bounds[name])
    which = np.array(["natural" if name else "texture" for name in sets.get("natural", np.zeros(known.size, bool))])
    variables |= {
        "image_k": xr.Variable("image", judged),
        "image_effective_share": xr.Variable("image", share),
        "image_set": xr.Variable("image", which),
    }
    verdict = _verdict(dict(zip(sets, zip(rows["trusted"], n, strict=True), strict=True)), weights.resampled)
    dataset = result(tree, "trust", variables, {"set": list(sets)}, [verdict, *notes])
    return dataset.assign_attrs(verdict=verdict, threshold=threshold, weights=weights.count)


@dataclass(frozen=True)
class _Weights:
    """What is known of the importance weights of every image."""

    k: np.ndarray
    """Pareto k-hat; -inf where the weights do not vary, NaN where there is none."""
    share: np.ndarray
    """Effective sample size over the number of weights."""
    count: int
    """Weights an image."""
    images: np.ndarray
    """Mask of the images that have weights."""
    resampled: bool


def _of_draws(tree: xr.DataTree) -> _Weights:
    everything = np.ones(images(tree), bool)
    k, ess = (selected(tree, f"sample_stats/{name}", everything) for name in ("pareto_k", "ess"))
    settings = export_settings(tree)
    stored = tree["sample_stats"].to_dataset().sizes
    proposals = int(settings.get("resample") or 1)
    count = stored.get("chain", 1) * stored.get("draw", settings.get("draws", 0)) * proposals
    share = ess / count if count else np.full(ess.shape, np.nan)
    return _Weights(_judged(k, share), share, count, everything, proposals > 1)


def _of_evidence(tree: xr.DataTree) -> _Weights:
    every = np.ones(images(tree), bool)
    k, ess, log_p = (selected(tree, f"evidence/{name}", every) for name in ("pareto_k", "ess", "log_evidence"))
    count = int(tree["evidence"].attrs.get("num_particles", 0))
    share = ess / count if count else np.full(ess.shape, np.nan)
    return _Weights(_judged(k, share), share, count, np.isfinite(log_p), False)


def _judged(k: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Weights that do not vary have no tail to fit: the guide is the posterior there."""
    return np.where(np.isfinite(k), k, np.where(share > CONSTANT, -np.inf, np.nan))


def evidence_k(tree: xr.DataTree) -> np.ndarray:
    """k-hat of every image's evidence, -inf where its weights do not vary."""
    return _of_evidence(tree).k


def _verdict(trusted: dict[str, tuple[float, int]], resampled: bool) -> str:
    """One sentence for the reader who reads only one."""
    moments = "The importance-resampled moments" if resampled else "The guide's moments"
    parts = " and ".join(f"{100 * share:.0f}% of the {n} {name} images" for name, (share, n) in trusted.items())
    worst = min(share for share, _ in trusted.values())
    advice = (
        ""
        if worst >= 0.9
        else "; variances and correlations of the other images may be the guide's and not the model's: "
        "resample, train with importance weighting, or audit against a reference"
    )
    return f"{moments} can be trusted for {parts}{advice}."


@style.styled
def plot_trust(dataset: xr.Dataset) -> style.Picture:
    """Cumulative distributions over images of k-hat and of the effective share of the draws."""
    figure = style.figure(style.FULL, 2.4)
    axes = figure.subplots(1, 2)
    which = dataset["image_set"].values.astype(str)
    threshold = dataset.attrs["threshold"]
    k = dataset["image_k"].values
    finite = k[np.isfinite(k)]
    low, high = min(finite.min(initial=0.0), 0.0) - 0.05, min(max(finite.max(initial=1.0), 1.0), 4.0) + 0.05
    for name in dataset["set"].values:
        here = which == name
        for axis, values in ((axes[0], k[here]), (axes[1], dataset["image_effective_share"].values[here])):
            # An image without a value counts among those beyond the right edge.
            ordered = np.sort(np.nan_to_num(values, nan=np.inf, neginf=low))
            share = np.arange(1, ordered.size + 1) / ordered.size
            colour = style.SET_COLOURS[str(name)]
            axis.step(ordered, share, where="post", color=colour, label=f"{name}, n = {ordered.size}")
    axes[0].axvspan(threshold, high, color=style.RED, alpha=0.12, lw=0)
    axes[0].axvline(threshold, color=style.RED, lw=0.8, ls="--")
    axes[0].set(xlabel="Pareto k-hat of the importance weights", xlim=(low, high))
    axes[1].set(xlabel="effective sample size (share of draws)", xscale="log")
    for axis in axes:
        axis.set(ylabel="cumulative share of images", ylim=(0, 1.02))
    axes[1].legend(loc="lower right")
    style.letters(axes)
    n = ", ".join(
        f"{int(count)} {name}" for name, count in zip(dataset["set"].values, dataset["trusted_n"].values, strict=True)
    )
    caption = (
        f"{dataset.attrs['verdict']} a: Pareto k-hat of {dataset.attrs['weights']} importance weights an image; shaded, above "
        f"{threshold:.2f}, not to be trusted. b: effective sample size. n = {n} images."
    )
    return style.Picture(figure, caption)
