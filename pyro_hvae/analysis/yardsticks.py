"""Bound and evidence beside the yardsticks: paired differences over images, and a sentence that says which are beaten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import natural_images, selected
from pyro_hvae.analysis.results import quantity
from pyro_hvae.analysis.uncertainty import Z95, mean_and_se

NATS = "nats per image"


def above_yardsticks(
    tree: xr.DataTree, usable: np.ndarray, notes: list[str]
) -> tuple[dict[str, xr.Variable], list[str]]:
    """How far ELBO and log evidence lie above every yardstick of the file, over the natural images that have both.

    ``usable`` is a mask of the images that may count. Returns variables along ``yardstick`` and the yardsticks' names; nothing
    where the file has none, or none for these images. Adds the verdict to ``notes``.
    """
    if "yardsticks" not in tree.children or "log_density" not in tree["yardsticks"]:
        return {}, []
    names = [str(name) for name in tree["yardsticks"].to_dataset()["yardstick"].values]
    every = np.ones(usable.size, bool)
    density, elbo = (selected(tree, path, every) for path in ("yardsticks/log_density", "bound/elbo"))
    mask, _ = natural_images(tree, usable & np.isfinite(density).all(1) & np.isfinite(elbo))
    if not mask.any():
        return {}, []
    mean, se = mean_and_se(density[mask])
    variables = quantity(
        "yardstick_log_density", ["yardstick"], mean, title="yardstick", unit=NATS, n=int(mask.sum()), se=se
    )
    bounds = {"elbo": ("ELBO", elbo)}
    if "evidence" in tree.children and "log_evidence" in tree["evidence"]:
        bounds["evidence"] = ("log evidence", selected(tree, "evidence/log_evidence", every))
    for name, (title, values) in bounds.items():
        here = mask & np.isfinite(values)
        if not here.any():
            continue
        mean, se = mean_and_se(values[here, None] - density[here])
        variables |= quantity(
            f"{name}_minus_yardstick", ["yardstick"], mean, title=f"{title} minus yardstick", unit=NATS, n=int(here.sum()),
            se=se,
        )  # fmt: skip
        notes.append(verdict(title, names, mean, se) + f" ({int(here.sum())} images)")
    return variables, names


def verdict(bound: str, names: Sequence[str], difference: np.ndarray, se: np.ndarray) -> str:
    """Which yardsticks a bound is above, and which not: a difference counts where it exceeds 1.96 standard errors."""

    def listing(chosen: np.ndarray) -> str:
        return ", ".join(
            f"{name} ({value:+.1f} ± {error:.1f})".replace("-", "\u2212")
            for name, value, error, take in zip(names, difference, se, chosen, strict=True)
            if take
        )

    clear = np.abs(difference) > Z95 * se
    parts = [
        f"{words} {listing(which)}"
        for words, which in (
            ("beats", clear & (difference > 0)),
            ("does not beat", clear & (difference < 0)),
            ("cannot be told apart from", ~clear),
        )
        if which.any()
    ]
    return f"By its {bound} (nats an image) the model {'; '.join(parts)}"


def draw_above_yardsticks(axis: Axes, dataset: xr.Dataset) -> str:
    """One row a yardstick: ELBO and log evidence less its log density. Returns what the caption must say."""
    names = [str(name) for name in dataset["yardstick"].values]
    rows = np.arange(len(names))[::-1]
    drawn = [("elbo", "o", style.GREEN, "dots"), ("evidence", "D", style.BLUE, "diamonds")]
    drawn = [entry for entry in drawn if f"{entry[0]}_minus_yardstick" in dataset]
    for shift, (name, marker, colour, _) in zip((0.12, -0.12), drawn, strict=False):
        value, se = dataset[f"{name}_minus_yardstick"].values, dataset[f"{name}_minus_yardstick_se"].values
        bar = None if np.isnan(se).any() else Z95 * se
        axis.errorbar(value, rows + shift, xerr=bar, fmt=marker, ms=3.5, capsize=2, color=colour)
    axis.axvline(0, color=style.GREY, lw=0.8, zorder=0)
    labels = [
        f"{name}  {value:.1f}" for name, value in zip(names, dataset["yardstick_log_density"].values, strict=True)
    ]
    axis.set(
        yticks=rows, yticklabels=labels, ylim=(-0.6, len(names) - 0.4), xlabel="nats per image above the yardstick"
    )
    kinds = {"elbo": "ELBO", "evidence": "log evidence"}
    what = " and ".join(f"{kinds[name]} ({word})" for name, _, _, word in drawn)
    n = int(dataset["yardstick_log_density_n"].values[0])
    return (
        f" Last panel: {what} less the log density of the same natural images under densities fitted to the training patches "
        f"(mean beside the name), paired over images; right of the line the model is better. n = {n} images."
    )
