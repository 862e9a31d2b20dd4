"""When to believe a sampler: R-hat, effective sample sizes and divergences of its chains, image by image."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import image_sets, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import binomial_interval, median_and_interval
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import CHAIN_STATISTICS, images

R_HAT, ESS = 1.01, 400


def sampled(tree: xr.DataTree) -> bool:
    """Whether the moments of a posterior file are a sampler's and not a guide's."""
    return "sample_stats" in tree.children and "converged" in tree["sample_stats"]


def chain_convergence(tree: xr.DataTree) -> xr.Dataset:
    """For which share of images the chains of the sampler have met.

    Numbers of an image are the worst over all its latents: R-hat and effective sample size (Vehtari et al. 2021). An image has
    converged where the split R-hat of every mean is below 1.01, its effective sample size at least 400, and the rank-normalised
    R-hat, which also sees spreads and tails, below 1.05: the worst of a thousand such numbers is above 1.01 by chance alone.

    Returns
    -------
    Dataset with, over ``set`` (``natural`` and ``texture``, those present): ``converged`` (share of images, 95% Wilson
    interval), medians over images of ``r_hat_mean``, ``r_hat``, ``ess_mean``, ``ess_bulk``, ``ess_tail`` (interval by order
    statistics), ``divergent`` (share of images with a divergent trajectory); per image ``image_r_hat``, ``image_ess``,
    ``image_set``; and the attribute ``verdict`` (one plain sentence).

    Raises
    ------
    HVAEError
        Where the file's moments are a guide's.
    """
    if not sampled(tree):
        raise HVAEError("the file is of a guide, which has no chains; sample with `pyro-hvae export RUN --sampler hmc`")
    every = np.ones(images(tree), bool)
    found = {name: selected(tree, f"sample_stats/{name}", every) for name in CHAIN_STATISTICS}
    sets = image_sets(tree)
    n = [int(mask.sum()) for mask in sets.values()]
    variables: dict[str, xr.Variable] = {}
    shares = {
        "converged": (found["converged"] == 1, "images whose chains have met"),
        "divergent": (found["divergences"] > 0, "images with a divergent trajectory"),
    }
    for name, (flags, title) in shares.items():
        values, bounds = zip(
            *(binomial_interval(int(flags[mask].sum()), int(mask.sum())) for mask in sets.values()), strict=True
        )
        variables |= quantity(name, ["set"], values, title=title, unit="share of images", n=n, interval=bounds)
    for name, title in (
        ("r_hat_mean", "split R-hat of means"), ("r_hat", "rank-normalised R-hat"),
        ("ess_mean", "effective sample size of means"),
        ("ess_bulk", "bulk effective sample size"), ("ess_tail", "tail effective sample size"),
    ):  # fmt: skip
        values, bounds = zip(*(median_and_interval(found[name][mask]) for mask in sets.values()), strict=True)
        title = f"{title}, worst latent of the median image"
        variables |= quantity(name, ["set"], values, title=title, unit="1", n=n, interval=bounds)
    which = np.where(sets.get("natural", ~every), "natural", "texture")
    for name, column in (("image_r_hat", "r_hat_mean"), ("image_ess", "ess_mean")):
        variables[name] = xr.Variable("image", found[column])
    variables["image_set"] = xr.Variable("image", which)
    parts = [
        f"{100 * float(share):.0f}% of the {count} {name} images"
        for name, share, count in zip(sets, variables["converged"].values, n, strict=True)
    ]
    verdict = f"The chains of the sampler have met for {' and '.join(parts)}."
    apart = np.flatnonzero(found["converged"] != 1)
    notes = [verdict]
    if apart.size:
        more = f" and {apart.size - 20} more" if apart.size > 20 else ""
        notes.append(f"not converged: images {', '.join(map(str, apart[:20]))}{more}; sample for longer")
    return result(tree, "chain_convergence", variables, {"set": list(sets)}, notes).assign_attrs(verdict=verdict)


@style.styled
def plot_chain_convergence(dataset: xr.Dataset) -> style.Picture:
    """Cumulative distributions over images of the worst R-hat and effective sample size of a mean."""
    figure = style.figure(style.FULL, 2.4)
    axes = figure.subplots(1, 2)
    which = dataset["image_set"].values.astype(str)
    for name in map(str, dataset["set"].values):
        for axis, values in zip(axes, (dataset["image_r_hat"].values, dataset["image_ess"].values), strict=True):
            ordered = np.sort(values[which == name])
            share = np.arange(1, ordered.size + 1) / ordered.size
            axis.step(ordered, share, where="post", color=style.SET_COLOURS[name], label=f"{name}, n = {ordered.size}")
    for axis, limit, label in zip(
        axes, (R_HAT, ESS), ("worst split R-hat of a mean", "smallest effective sample size of a mean"), strict=True
    ):
        axis.axvline(limit, color=style.RED, lw=0.8, ls="--")
        axis.set(xlabel=label, ylabel="cumulative share of images", ylim=(0, 1.02))
    axes[1].legend(loc="lower right")
    style.letters(axes)
    n = ", ".join(f"{int(c)} {s}" for s, c in zip(dataset["set"].values, dataset["converged_n"].values, strict=True))
    caption = (
        f"{dataset.attrs['verdict']} Worst latent of an image. a: R-hat. b: effective sample size. n = {n} images."
    )
    return style.Picture(figure, caption)
