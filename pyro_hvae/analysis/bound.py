"""The evidence lower bound and its terms, un-annealed, on natural and texture images (Vas 2024)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.common import (
    Z95,
    binomial_interval,
    complete_images,
    image_sets,
    mean_and_se,
    quantity,
    result,
    selected,
)
from pyro_hvae.analysis.verdict import GOOD_K
from pyro_hvae.files import sites


def bound_terms(tree: xr.DataTree) -> xr.Dataset:
    """Mean over images of the ELBO, the reconstruction term and the KL divergence of every layer, in nats per image.

    Returns
    -------
    Dataset with ``bound (set, term)`` and its s.e. over images; ``set`` is ``natural`` and ``texture``, those present, ``term``
    is ``elbo``, ``reconstruction`` (E_q[log p(x|z)]) and ``zl_kl`` for every layer. ``imbalance (set)`` is the mean of
    ``elbo - reconstruction + sum of KL``, zero but for Monte Carlo error of the export. Where the file has the group
    ``evidence``: ``evidence (set)`` (log p(x) in nats per image), ``evidence_gap`` (evidence - ELBO, an estimate of
    KL[q(z|x) || p(z|x)])
    and ``evidence_trusted`` (share of images with k-hat below 0.7).

    Raises
    ------
    HVAEError
        Where no image has finite terms.
    """
    notes: list[str] = []
    terms = ["elbo", "reconstruction", *(f"{name}_kl" for name in sites(tree))]
    usable = complete_images(tree, [f"bound/{term}" for term in terms], notes)
    sets = {name: members & usable for name, members in image_sets(tree).items() if (members & usable).any()}
    values = {name: np.stack([selected(tree, f"bound/{t}", mask) for t in terms], 1) for name, mask in sets.items()}
    estimates = [mean_and_se(value) for value in values.values()]
    mean, se = (np.stack(column) for column in zip(*estimates, strict=True))
    counts = np.array([[len(value)] for value in values.values()])
    n = np.broadcast_to(counts, mean.shape)
    variables = quantity("bound", ["set", "term"], mean, title="bound", unit="nats per image", n=n, se=se)
    variables["imbalance"] = xr.Variable(
        "set", mean[:, 0] - mean[:, 1] + mean[:, 2:].sum(1), {"units": "nats per image"}
    )
    if "evidence" in tree.children and "log_evidence" in tree["evidence"]:
        variables |= _evidence(tree, sets, notes)
    return result(tree, "bound_terms", variables, {"set": list(sets), "term": terms}, notes)


def _evidence(tree: xr.DataTree, sets: dict[str, np.ndarray], notes: list[str]) -> dict[str, xr.Variable]:
    """Mean log evidence, how far the ELBO lies below it, and for how many images k-hat trusts the estimate."""
    variables: dict[str, xr.Variable] = {}
    finite = complete_images(tree, ["evidence/log_evidence"], notes)
    rows: dict[str, list[tuple[float, float]]] = {"evidence": [], "evidence_gap": []}
    shares, intervals, counts = [], [], []
    for mask in sets.values():
        here = mask & finite
        evidence = selected(tree, "evidence/log_evidence", here)
        for name, values in (("evidence", evidence), ("evidence_gap", evidence - selected(tree, "bound/elbo", here))):
            rows[name].append(tuple(map(float, mean_and_se(values))) if len(values) else (np.nan, np.nan))  # type: ignore[arg-type]
        counts.append(len(evidence))
        k = (
            selected(tree, "evidence/pareto_k", here)
            if "pareto_k" in tree["evidence"]
            else np.full(len(evidence), np.nan)
        )
        share, interval = binomial_interval(int((k < GOOD_K).sum()), int(np.isfinite(k).sum()))
        shares.append(share)
        intervals.append(interval)
    for name, title in (("evidence", "log evidence"), ("evidence_gap", "log evidence minus ELBO")):
        values, errors = zip(*rows[name], strict=True)
        variables |= quantity(name, ["set"], values, title=title, unit="nats per image", n=counts, se=errors)
    if "pareto_k" in tree["evidence"]:
        variables |= quantity(
            "evidence_trusted", ["set"], shares, title="images whose evidence has k-hat below 0.7", unit="share of images",
            n=counts, interval=intervals,
        )  # fmt: skip
    return variables


def _title(term: str) -> str:
    return {"elbo": "ELBO", "reconstruction": "E[log p(x|z)]"}.get(term, f"KL of {term.removesuffix('_kl')}")


@style.styled
def plot_bound_terms(dataset: xr.Dataset) -> style.Picture:
    """The bound and its terms, each on its own scale, natural and texture images side by side."""
    terms = [str(term) for term in dataset["term"].values]
    sets = [str(name) for name in dataset["set"].values]
    figure = style.figure(style.FULL, 1.9)
    axes = figure.subplots(1, len(terms))
    for axis, term in zip(axes, terms, strict=True):
        for place, name in enumerate(sets):
            at = dataset.sel(set=name, term=term)
            value, error = at["bound"].item(), Z95 * at["bound_se"].item()
            bar = None if np.isnan(error) else error
            axis.errorbar(place, value, bar, fmt="o", ms=4, capsize=2, color=style.SET_COLOURS[name])
        axis.set(xticks=range(len(sets)), xticklabels=sets, xlim=(-0.6, len(sets) - 0.4), title=_title(term))
        axis.margins(y=0.3)
    axes[0].set_ylabel("nats per image")
    if "evidence" in dataset:
        for place, name in enumerate(sets):
            axes[0].plot(place, dataset["evidence"].sel(set=name), "_", ms=12, mew=1.5, color=style.SET_COLOURS[name])
    style.letters(axes)
    n = ", ".join(f"{int(dataset['bound_n'].sel(set=name).values[0])} {name}" for name in sets)
    evidence = " Dash: log evidence." if "evidence" in dataset else ""
    caption = (
        "Evidence lower bound, un-annealed, and its terms: ELBO = E[log p(x|z)] minus the KL of every layer. Points: mean over "
        f"images; bars: 95% interval (± 1.96 s.e.).{evidence} n = {n} images."
    )
    return style.Picture(figure, caption)
