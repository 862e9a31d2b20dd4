"""How much of a guide's posterior is real: guide, importance-resampled guide and reference on the same images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import jackknife, mean_and_se
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.audit_file import audit_sites, validate_audit
from pyro_hvae.storage.pareto_limits import GOOD_K

APPROXIMATIONS = ("guide", "resampled")
TINY = 1e-14  # variances below are rounding: float32 coefficients that are all the same
SCATTERED = 4000  # points in each scatter plot


def guide_audit(tree: xr.DataTree, *, max_r_hat: float = 1.05) -> xr.Dataset:
    """Compare the moments of guide and importance-resampled guide with those of the reference, image by image.

    Let r be the correlation coefficients of all pairs of the chosen z1 units under the posterior of one image ([C22]'s
    noise correlations). Each source knows its own r up to sampling noise; its reliability is the correlation over pairs of
    its two halves, stepped up to the whole by Spearman-Brown, 2 h / (1 + h).

    Returns
    -------
    Dataset with, over ``source`` (``guide``, ``resampled``), each the mean over images with its s.e.:

    ``agreement``
        correlation over unit pairs of r with the reference's r.
    ``ceiling``
        square root of the reference's reliability: the agreement that the true r would reach.
    ``real``
        squared correlation over pairs of r with the true r, both freed of sampling noise and pooled over images: the share
        of the source's correlation structure that is in the truth. 1 where the two are the same up to scale and offset, 0
        where they have nothing to do with each other, negative where they are opposed.
    ``slope``
        regression of r on the true r through the origin: how much of the size of the true correlations is there.
    ``z1_mean_error``, ``z1_log_sd_ratio`` (and of every other layer)
        root mean square over dims of (mean - reference mean) / reference sd; and mean over dims of
        log(sd / reference sd), negative where the posterior is too narrow.

    Per image: ``image_agreement``, ``image_reliability (source, image)`` (and ``reference``), ``converged``. For the
    figure: example matrices and a sample of points.

    Images whose chains have not met (``r_hat`` above ``max_r_hat``) are left out. Where a source has no correlations at all
    (LinearVAE's guide), its agreement and share are NaN and a note says so.

    Raises
    ------
    HVAEError
        Where the tree is no audit, or the reference converged for no image.
    """
    validate_audit(tree)
    everything = {source: tree[source].to_dataset() for source in (*APPROXIMATIONS, "reference")}
    r_hat = everything["reference"]["r_hat"].values
    converged = r_hat <= max_r_hat
    notes = []
    if not converged.any():
        raise HVAEError(
            f"the reference converged for none of {converged.size} images (smallest R-hat {r_hat.min():.3f}, "
            f"allowed {max_r_hat}); audit with more warm-up and samples"
        )
    if not converged.all():
        notes.append(f"{int((~converged).sum())} of {converged.size} images left out: R-hat above {max_r_hat}")
    groups = {source: group.isel(image=np.flatnonzero(converged)) for source, group in everything.items()}
    pareto_k = groups["resampled"]["pareto_k"].values
    if weak := int((~(pareto_k < GOOD_K)).sum()):
        notes.append(
            f"resampled: Pareto k-hat is not below {GOOD_K} for {weak} of {pareto_k.size} images: not to be trusted"
        )
    variables = _correlations(groups, notes)
    for site in audit_sites(tree):
        variables |= _moments(groups, site)
    variables["converged"] = xr.Variable("all_images", converged)
    variables["pareto_k"] = xr.Variable("image", pareto_k)
    variables |= _for_the_figure(groups)
    return result(tree, "guide_audit", variables, {"source": list(APPROXIMATIONS)}, notes)


def _pairs(group: xr.Dataset) -> np.ndarray:
    """Correlation coefficients of unit pairs, ``(half, image, pair)``."""
    matrix = group["z1_correlation"].values.astype(float)
    i, j = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., i, j]


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Covariance over the last axis."""
    return ((a - a.mean(-1, keepdims=True)) * (b - b.mean(-1, keepdims=True))).mean(-1)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a / b``, NaN where b is not positive."""
    return np.divide(a, b, out=np.full(np.shape(b), np.nan), where=b > TINY)


def _reliability(halves: np.ndarray) -> np.ndarray:
    """Spearman-Brown reliability of the mean of two halves ``(half, image, pair)``, per image."""
    a, b = halves
    shared = _covariance(a, b)
    return _ratio(2 * shared, 0.5 * (_covariance(a, a) + _covariance(b, b)) + shared)


def _correlations(groups: dict[str, xr.Dataset], notes: list[str]) -> dict[str, xr.Variable]:
    halves = {source: _pairs(group) for source, group in groups.items()}
    whole = {source: both.mean(0) for source, both in halves.items()}
    # Products of the two halves have no noise in common: on average they are what noiseless products would be.
    variance = {source: _covariance(*both) for source, both in halves.items()}
    power = (halves["reference"][0] * halves["reference"][1]).mean(-1)
    truth, reliability = whole["reference"], {source: _reliability(both) for source, both in halves.items()}
    images, pairs = truth.shape
    if pairs < 3:
        raise HVAEError(f"agreement over unit pairs needs at least 3 of them, this audit has {pairs}; audit more units")
    table: dict[str, list[tuple[float, float]]] = {"agreement": [], "ceiling": [], "real": [], "slope": []}
    agreements = []
    for source in APPROXIMATIONS:
        r = whole[source]
        if (_covariance(r, r) <= TINY).all():
            notes.append(f"{source}: z1 is independent given the image, there are no correlations to agree with")
        shared = _covariance(r, truth)
        agreements.append(_ratio(shared, np.sqrt(_covariance(r, r) * _covariance(truth, truth))))
        table["agreement"].append(_mean(agreements[-1]))
        table["ceiling"].append(_mean(np.sqrt(np.clip(reliability["reference"], 0, None))))
        table["real"].append(_pooled(_explained, shared, variance[source], variance["reference"]))
        table["slope"].append(_pooled(lambda s: _ratio(s[0], s[1]), (r * truth).mean(-1), power))
    variables: dict[str, xr.Variable] = {}
    for name, title in (
        ("agreement", "agreement of z1 correlations with the reference"),
        ("ceiling", "ceiling of the agreement"),
        ("real", "share of the correlation structure that is real"),
        ("slope", "size of the correlations, relative to the reference"),
    ):
        values, errors = zip(*table[name], strict=True)
        variables |= quantity(name, ["source"], values, title=title, unit="1", n=images, se=errors)
    by_source = {"image_agreement": agreements, "image_reliability": [reliability[s] for s in APPROXIMATIONS]}
    variables |= {name: xr.Variable(("source", "image"), np.stack(values)) for name, values in by_source.items()}
    variables["reference_reliability"] = xr.Variable("image", reliability["reference"])
    return variables


def _explained(sums: np.ndarray) -> np.ndarray:
    """Squared correlation with the sign of the covariance."""
    return _ratio(sums[0] * abs(sums[0]), sums[1] * sums[2] if (sums[1:] > 0).all() else np.zeros(()))


def _pooled(statistic: Callable[[np.ndarray], np.ndarray], *terms: np.ndarray) -> tuple[float, float]:
    value, se = jackknife(np.stack(terms, 1), statistic)
    return float(value), float(se)


def _mean(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    mean, se = mean_and_se(known) if known.size else (np.nan, np.nan)
    return float(mean), float(se)


def _moments(groups: dict[str, xr.Dataset], site: str) -> dict[str, xr.Variable]:
    """How far means and standard deviations of one layer are from the reference's."""
    mean = {source: group[f"{site}_mean"].mean("half").values for source, group in groups.items()}
    sd = {source: np.sqrt(group[f"{site}_variance"].mean("half").values) for source, group in groups.items()}
    errors, ratios = [], []
    for source in APPROXIMATIONS:
        errors.append(np.sqrt((((mean[source] - mean["reference"]) / sd["reference"]) ** 2).mean(-1)))
        with np.errstate(divide="ignore"):  # a resampled posterior of a single proposal has no spread
            ratios.append(np.log(sd[source] / sd["reference"]).mean(-1))
    n = len(mean["reference"])
    variables: dict[str, xr.Variable] = {}
    for name, title, unit, per_image in (
        ("mean_error", f"error of the {site} mean", "posterior s.d.", errors),
        ("log_sd_ratio", f"log ratio of the {site} s.d.", "1", ratios),
    ):
        values, se = zip(*map(_mean, per_image), strict=True)
        variables |= quantity(f"{site}_{name}", ["source"], values, title=title, unit=unit, n=n, se=se)
        variables[f"image_{site}_{name}"] = xr.Variable(("source", "image"), np.stack(per_image))
    return variables


def _for_the_figure(groups: dict[str, xr.Dataset]) -> dict[str, xr.Variable]:
    """One image's correlation matrices, and unit pairs of all images (a random few thousand)."""
    sources = (*APPROXIMATIONS, "reference")
    matrices = np.stack([groups[s]["z1_correlation"].mean("half").values for s in sources])
    strongest = np.argsort([np.abs(_pairs(groups["reference"])[:, i]).mean() for i in range(matrices.shape[1])])
    example = int(strongest[len(strongest) // 2])
    points = np.stack([_pairs(groups[s]).mean(0).ravel() for s in sources])
    shown = np.random.default_rng(0).permutation(points.shape[1])[:SCATTERED]
    sds = np.stack([np.sqrt(groups[s]["z1_variance"].mean("half").values).ravel() for s in sources])
    shown_sds = np.random.default_rng(0).permutation(sds.shape[1])[:SCATTERED]
    return {
        "example_correlation": xr.Variable(("compared", "unit", "unit_bis"), matrices[:, example]),
        "pair_correlation": xr.Variable(("compared", "pair"), points[:, shown]),
        "z1_sd": xr.Variable(("compared", "point"), sds[:, shown_sds]),
        "compared": xr.Variable("compared", list(sources)),
    }


@style.styled
def plot_guide_audit(dataset: xr.Dataset) -> style.Picture:
    """Correlation matrices of one image side by side; coefficients and spreads against the reference; agreement by image."""
    figure = style.figure(style.FULL, 4.6)
    axes = figure.subplots(2, 3)
    matrices = np.stack([_without_diagonal(matrix) for matrix in dataset["example_correlation"].values])
    top = float(np.nanmax(np.abs(matrices), initial=0.01))
    for axis, source, matrix in zip(axes[0], dataset["compared"].values, matrices, strict=True):
        shown = axis.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
        axis.set(title=str(source), xlabel="z1 unit", ylabel="z1 unit", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[0], label="posterior correlation", shrink=0.8)
    colours = dict(zip(APPROXIMATIONS, (style.ORANGE, style.BLUE), strict=True))
    for axis, name, label in (
        (axes[1, 0], "pair_correlation", "posterior correlation"),
        (axes[1, 1], "z1_sd", "posterior s.d. of z1"),
    ):
        values = dataset[name].values
        for row, source in enumerate(APPROXIMATIONS):
            axis.plot(values[-1], values[row], ".", ms=1.5, alpha=0.4, color=colours[source], rasterized=True)
        low, high = np.nanmin(values), np.nanmax(values)
        axis.plot([low, high], [low, high], color=style.GREY, lw=0.6)
        axis.set(xlabel=f"{label}, reference", ylabel="guide (orange), resampled (blue)")
    ceiling = float(dataset["ceiling"][0])
    for source in APPROXIMATIONS:
        values = np.sort(dataset["image_agreement"].sel(source=source).values)
        values = values[np.isfinite(values)]
        if values.size:
            share = np.arange(1, values.size + 1) / values.size
            axes[1, 2].step(values, share, where="post", color=colours[source], label=source)
    axes[1, 2].axvline(ceiling, color=style.GREY, ls=":", label="ceiling")
    axes[1, 2].set(
        xlabel="agreement of correlations\nwith the reference",
        ylabel="cumulative share of images",
        xlim=(-1, 1.02),
        ylim=(0, 1.02),
    )
    axes[1, 2].legend(loc="upper left")
    style.letters([axes[0, 0], axes[0, 1], axes[0, 2], *axes[1]])
    parts = [
        f"{source}: agreement {at['agreement'].item():.2f} ± {at['agreement_se'].item():.2f}, "
        f"real share {at['real'].item():.2f} ± {at['real_se'].item():.2f}, size {at['slope'].item():.2f} ± "
        f"{at['slope_se'].item():.2f}"
        for source in APPROXIMATIONS
        for at in [dataset.sel(source=source)]
    ]
    units = dataset.sizes["unit"]
    caption = (
        f"a-c: noise correlations of {units} z1 units for one image (diagonal left out). d: coefficients of unit pairs "
        "against the reference, all images. e: standard deviations of z1. f: correlation over "
        f"unit pairs of each image's coefficients with the reference's; dotted: the ceiling, {ceiling:.2f}, that the "
        f"reference's own noise sets. {'; '.join(parts)} (± s.e. over images). n = {int(dataset['agreement_n'][0])} images, "
        f"{units * (units - 1) // 2} pairs each."
    )
    return style.Picture(figure, caption)


def _without_diagonal(matrix: np.ndarray) -> np.ndarray:
    return np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
