"""How much of each guide's posterior is real: files of guides against the file of a sampler, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.chain_convergence import sampled
from pyro_hvae.analysis.reading import selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import Z95, jackknife, mean_and_se
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import images, sites

LEAST_PAIRS = 3
SCATTERED = 3000  # unit pairs drawn of each guide
TINY = 1e-14
COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY)


def posterior_agreement(trees: Sequence[xr.DataTree]) -> xr.Dataset:
    """Means, variances and noise correlations of guides against those of the model's own posterior.

    One of the files is a sampler's (`pyro-hvae export RUN --sampler hmc`), the first such one is the truth; the others hold the
    same images. Only images whose chains converged count, and only active dimensions where any are.

    Returns
    -------
    Dataset, each the mean over images with its s.e.; over ``guide`` and ``site``:

    ``mean_error``
        root mean square over dimensions and images of (mean - true mean) / true sd, less the sampler's Monte-Carlo error.
    ``log_sd_ratio``
        mean over dimensions of log(sd / true sd): negative where the posterior is too narrow.

    over ``guide``, of the correlation coefficients r of all pairs of z1 units that both files correlate (NaN where there
    are none):

    ``agreement``
        correlation over pairs of r with the true r, both as they are.
    ``real``
        their squared correlation, pooled over images, freed of the noise of the sampler by its two halves (but not of the
        guide's, which more ``moment_draws`` lower): the share of the guide's correlation structure that is in the truth.
    ``slope``
        regression of r on the true r through the origin: how much of the size of the true correlations is there.

    ``from_z2 (source)``: mean share of z1's variance that comes through z2, of the sampler and each guide.

    Raises
    ------
    HVAEError
        Where no file is a sampler's, no other is of the same images and layers, or no image converged.
    """
    truth = next((tree for tree in trees if sampled(tree)), None)
    if truth is None:
        raise HVAEError("no file is of a sampler; make one with `pyro-hvae export RUN --sampler hmc`")
    notes: list[str] = []
    guides: dict[str, xr.DataTree] = {}
    for tree in trees:
        if tree is truth:
            continue
        name = _name(tree, guides)
        if reason := _differs(truth, tree):
            notes.append(f"{name} left out: {reason}")
        else:
            guides[name] = tree
    if not guides:
        raise HVAEError(
            f"no other file can be set against {_name(truth, {})}: {'; '.join(notes) or 'it is the only one'}"
        )
    converged = selected(truth, "sample_stats/converged", np.ones(images(truth), bool)) == 1
    if not converged.any():
        raise HVAEError("the sampler converged for no image; sample for longer (num_samples, warmup)")
    if not converged.all():
        notes.append(f"{int((~converged).sum())} of {converged.size} images left out: their chains have not met")
    chosen = np.flatnonzero(converged)
    variables = _moments(truth, guides, chosen)
    variables |= _correlations(truth, guides, chosen, notes)
    coords = {"guide": list(guides), "site": sites(truth), "source": ["sampler", *guides]}
    return result(truth, "posterior_agreement", variables, coords, notes).assign_attrs(images=int(chosen.size))


def _name(tree: xr.DataTree, taken: dict[str, xr.DataTree]) -> str:
    """Its file's name, else its guide's; numbered where that is taken."""
    name = str(tree.attrs.get("file", "")).rsplit(".", 1)[0] or str(tree.attrs.get("guide", "")) or "guide"
    return name if name not in taken else f"{name} ({len(taken) + 1})"


def _differs(truth: xr.DataTree, tree: xr.DataTree) -> str:
    """Why a file cannot be set against the truth; empty where it can."""
    if sampled(tree):
        return "it is a sampler's, too"
    if sites(tree) != sites(truth) or any(
        tree["posterior_moments"][f"{s}_mean"].shape != truth["posterior_moments"][f"{s}_mean"].shape
        for s in sites(truth)
    ):
        return "its images or layers are others in number"
    ours, theirs = (np.asarray(t["observed_data/x"].values) for t in (truth, tree))
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=1e-4):
        return "its images are others"
    maps = [
        np.asarray(t["constant_data/A"].values)
        for t in (truth, tree)
        if "constant_data" in t.children and "A" in t["constant_data"]
    ]
    if len(maps) == 2 and not np.allclose(maps[0], maps[1], atol=1e-5):
        return "it is of another generative model, whose posterior is another"
    return ""


def _active(truth: xr.DataTree) -> dict[str, np.ndarray]:
    """Dimensions that count, of each layer."""
    found = {}
    known = "A" in truth.children.get("constant_data", {}) and "z1_kl" in truth["posterior_moments"]
    activity = active_dimensions(truth) if known else xr.Dataset()
    for site in sites(truth):
        mask = activity[f"{site}_active"].values if f"{site}_active" in activity else np.zeros(0, bool)
        found[site] = np.flatnonzero(mask) if mask.any() else np.arange(truth["posterior_moments"].sizes[f"{site}_dim"])
    return found


def _moments(truth: xr.DataTree, guides: dict[str, xr.DataTree], chosen: np.ndarray) -> dict[str, xr.Variable]:
    active = _active(truth)
    rows: dict[str, list] = {"mean_error": [], "log_sd_ratio": []}

    def of(tree: xr.DataTree, site: str, name: str) -> np.ndarray:
        return selected(tree, f"posterior_moments/{site}_{name}", chosen)[:, active[site]]

    for tree in guides.values():
        errors, ratios = [], []
        for site in sites(truth):
            variance = np.maximum(of(truth, site, "variance"), TINY)
            noise = of(truth, site, "mean_se") ** 2 if f"{site}_mean_se" in truth["posterior_moments"] else 0.0
            square = (((of(tree, site, "mean") - of(truth, site, "mean")) ** 2 - noise) / variance).mean(1)
            errors.append(
                jackknife(np.stack([square, np.ones_like(square)], 1), lambda s: np.sqrt(max(s[0] / s[1], 0.0)))
            )
            ratios.append(mean_and_se(0.5 * np.log(np.maximum(of(tree, site, "variance"), TINY) / variance).mean(1)))
        rows["mean_error"].append(errors)
        rows["log_sd_ratio"].append(ratios)
    made: dict[str, xr.Variable] = {}
    for name, title, unit in (
        ("mean_error", "error of posterior means", "true sd"), ("log_sd_ratio", "log sd over true sd", "log ratio"),
    ):  # fmt: skip
        table = np.array(rows[name], dtype=float)  # (guide, site, value and s.e.)
        made |= quantity(
            name, ["guide", "site"], table[..., 0], title=title, unit=unit, n=chosen.size, se=table[..., 1]
        )
    shares: list[Any] = []
    for tree in (truth, *guides.values()):
        if "z1_variance_from_z2" not in tree["posterior_moments"]:
            shares.append((np.nan, np.nan))
            continue
        share = of(tree, "z1", "variance_from_z2") / np.maximum(of(tree, "z1", "variance"), TINY)
        shares.append(mean_and_se(share.mean(1)))
    values, each = zip(*shares, strict=True)
    return made | quantity(
        "from_z2",
        ["source"],
        values,
        title="share of z1's variance that comes through z2",
        unit="1",
        n=chosen.size,
        se=each,
    )


def _pairs(tree: xr.DataTree, name: str, units: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Coefficients of pairs of units, ``(image, ..., pair)``."""
    moments = tree["posterior_moments"]
    places = np.searchsorted(np.asarray(moments["unit"].values), units)
    matrices = selected(tree, f"posterior_moments/{name}", chosen)
    i, j = np.triu_indices(len(units), 1)
    return np.nan_to_num(matrices[..., places[i], places[j]])


def _centred(r: np.ndarray) -> np.ndarray:
    return r - r.mean(-1, keepdims=True)


def _correlations(
    truth: xr.DataTree, guides: dict[str, xr.DataTree], chosen: np.ndarray, notes: list[str]
) -> dict[str, xr.Variable]:
    nan = (np.nan, np.nan)
    rows: dict[str, list[Any]] = {"agreement": [], "real": [], "slope": []}
    points = np.full((len(guides), 2, SCATTERED), np.nan, np.float32)
    rng = np.random.default_rng(0)
    for k, (name, tree) in enumerate(guides.items()):
        units = _common_units(truth, tree)
        if units.size * (units.size - 1) // 2 < LEAST_PAIRS:
            notes.append(f"{name}: the sampler's file and it correlate no {LEAST_PAIRS} unit pairs in common (--units)")
            for row in rows.values():
                row.append(nan)
            continue
        r, true = _pairs(tree, "z1_correlation", units, chosen), _pairs(truth, "z1_correlation", units, chosen)
        halves = _pairs(truth, "z1_correlation_half", units, chosen)
        a, b, c, d = _centred(r), _centred(true), *(_centred(halves[:, half]) for half in (0, 1))
        norm = np.sqrt((a**2).sum(1) * (b**2).sum(1))
        each = np.divide((a * b).sum(1), norm, out=np.full(len(a), np.nan), where=norm > TINY)
        rows["agreement"].append(mean_and_se(each[np.isfinite(each)]) if np.isfinite(each).any() else nan)
        # Halves have no noise in common: their products are on average those of the truth.
        sums = np.stack([(a * b).mean(1), (a * a).mean(1), (c * d).mean(1)], 1)
        rows["real"].append(_ratio(sums, lambda s: np.sign(s[0]) * s[0] ** 2 / (s[1] * s[2])))
        sums = np.stack([(r * true).mean(1), (halves[:, 0] * halves[:, 1]).mean(1)], 1)
        rows["slope"].append(_ratio(sums, lambda s: s[0] / s[1]))
        picked = rng.choice(r.size, min(SCATTERED, r.size), replace=False)
        points[k, :, : picked.size] = true.ravel()[picked], r.ravel()[picked]
    made: dict[str, xr.Variable] = {"points": xr.Variable(("guide", "axis", "point"), points)}
    for name, title, unit in (
        ("agreement", "agreement of noise correlations", "correlation over unit pairs"),
        ("real", "share of noise-correlation structure that is real", "squared correlation"),
        ("slope", "size of noise correlations against the true ones", "slope"),
    ):
        values, errors = zip(*rows[name], strict=True)
        made |= quantity(name, ["guide"], values, title=title, unit=unit, n=chosen.size, se=errors)
    return made


def _common_units(truth: xr.DataTree, tree: xr.DataTree) -> np.ndarray:
    both = [t["posterior_moments"] for t in (truth, tree)]
    if any("z1_correlation" not in moments for moments in both) or "z1_correlation_half" not in both[0]:
        return np.zeros(0, int)
    ours, theirs = (np.asarray(moments["unit"].values, dtype=int) for moments in both)
    # Places are looked up by bisection, so units must be in order; files in another order are not compared.
    ordered = bool((np.diff(ours) > 0).all() and (np.diff(theirs) > 0).all())
    return np.intersect1d(ours, theirs) if ordered else np.zeros(0, int)


def _ratio(sums: np.ndarray, statistic: Callable[[np.ndarray], Any]) -> tuple[float, float]:
    if sums[:, 1:].sum(0).min() <= TINY:
        return np.nan, np.nan
    value, error = jackknife(sums, statistic)
    return float(value), float(error)


@style.styled
def plot_posterior_agreement(dataset: xr.Dataset) -> style.Picture:
    """Errors of means, ratios of standard deviations, what of the correlations is real, and the coefficients themselves."""
    guides = [str(name) for name in dataset["guide"].values]
    layers = [str(name) for name in dataset["site"].values]
    figure = style.figure(style.FULL, 4.6)
    axes = figure.subplots(2, 2).ravel()
    places = np.arange(len(guides))
    for axis, name, label in (
        (axes[0], "mean_error", "error of the mean (true sd)"), (axes[1], "log_sd_ratio", "log(sd / true sd)"),
    ):  # fmt: skip
        for k, site in enumerate(layers):
            at = dataset.sel(site=site)
            axis.errorbar(
                places + 0.12 * (k - (len(layers) - 1) / 2), at[name].values, Z95 * np.nan_to_num(at[f"{name}_se"].values),
                fmt="os^D"[k % 4], ms=4, lw=1, capsize=2, color=(style.BLUE, style.ORANGE, style.GREEN)[k % 3], label=site,
            )  # fmt: skip
        axis.axhline(0, color=style.GREY, lw=0.8, ls=":")
        axis.set(ylabel=label)
    axes[0].legend()
    for k, (name, label) in enumerate((("agreement", "agreement"), ("real", "real share"), ("slope", "slope"))):
        axes[2].errorbar(
            places + 0.15 * (k - 1), dataset[name].values, Z95 * np.nan_to_num(dataset[f"{name}_se"].values),
            fmt="osD"[k], ms=4, lw=1, capsize=2, color=(style.BLUE, style.ORANGE, style.GREEN)[k], label=label,
        )  # fmt: skip
    axes[2].axhline(1, color=style.GREY, lw=0.8, ls=":")
    axes[2].axhline(0, color=style.GREY, lw=0.8, ls=":")
    axes[2].set(ylabel="noise correlations of z1")
    axes[2].legend()
    for axis in axes[:3]:
        axis.set_xticks(places, guides)
        axis.set_xlim(-0.6, len(guides) - 0.4)
    drawn = False
    for k, name in enumerate(guides):
        true, r = dataset["points"].values[k]
        if np.isfinite(true).any():
            axes[3].plot(true, r, ".", ms=2, alpha=0.4, color=COLOURS[k % len(COLOURS)], label=name, rasterized=True)
            drawn = True
    if drawn:
        low, high = axes[3].get_xlim()
        axes[3].plot([low, high], [low, high], color=style.GREY, lw=0.8, ls=":")
        axes[3].legend(markerscale=3)
    axes[3].set(xlabel="coefficient of the sampler", ylabel="coefficient of the guide")
    style.letters(axes)
    caption = (
        "Guides against the model's own posterior, sampled. a: error of posterior means in true standard deviations. "
        "b: logarithm of standard deviations over the true ones, negative where too narrow. c: noise correlations of z1 unit "
        "pairs: their correlation with the true ones, the share of their structure that is real, their size. d: pairs of an "
        f"image, at most {SCATTERED} a guide. Bars ± 1.96 s.e. n = {dataset.attrs['images']} images."
    )
    return style.Picture(figure, caption)
