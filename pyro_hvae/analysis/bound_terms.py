"""The evidence lower bound and its terms, un-annealed, on natural and texture images (Vas 2024)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import complete_images, image_sets, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.trust import evidence_k
from pyro_hvae.analysis.uncertainty import Z95, binomial_interval, mean_and_se
from pyro_hvae.analysis.yardsticks import above_yardsticks, draw_above_yardsticks
from pyro_hvae.storage.pareto_limits import GOOD_K
from pyro_hvae.storage.posterior_file import sites


def bound_terms(tree: xr.DataTree) -> xr.Dataset:
    """Mean over images of the ELBO, the reconstruction term and the KL divergence of every site, in nats per image.

    Where the file has yardsticks (`pyro-hvae yardstick`), other densities fitted to the same training patches, the differences
    say which of them the model beats on the same held-out images. ELBO and log evidence are both lower bounds of the model's
    log p(x): above a yardstick they show that the model is better, below it they do not show that it is worse.

    Returns
    -------
    Dataset with ``bound (set, term)`` and its s.e. over images; ``set`` is ``natural`` and ``texture``, those present, ``term``
    is ``elbo``, ``reconstruction`` (E_q[log p(x|z)]) and ``zl_kl`` for every layer, then those of other sites.
    ``imbalance (set)`` is the mean of ``elbo - reconstruction + sum of KL``, zero but for Monte Carlo error of the
    export. Where the file has the group ``evidence``, over the images that it was estimated for: ``evidence (set)`` (log p(x)
    in nats per image), ``evidence_gap``
    (evidence - ELBO, an estimate of KL[q(z|x) || p(z|x)]) and ``evidence_trusted`` (share of images with k-hat below 0.7).
    The estimate is a lower bound in expectation. Where k-hat is above 0.7 it may lie far below log p(x), and its standard error
    is too small; a note says for how many images. Where it has the group ``yardsticks``: ``yardstick_log_density``,
    ``elbo_minus_yardstick`` and ``evidence_minus_yardstick (yardstick)``, paired over the natural images that have both.

    Raises
    ------
    HVAEError
        Where no image has finite terms.
    """
    notes: list[str] = []
    layers = [f"{name}_kl" for name in sites(tree)]
    others = [str(name) for name in tree["bound"].data_vars if str(name).endswith("_kl") and name not in layers]
    terms = ["elbo", "reconstruction", *layers, *others]
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
    coords = {"set": list(sets), "term": terms}
    above, names = above_yardsticks(tree, usable, notes)
    if names:
        variables, coords = variables | above, coords | {"yardstick": names}
    return result(tree, "bound_terms", variables, coords, notes)


def _evidence(tree: xr.DataTree, sets: dict[str, np.ndarray], notes: list[str]) -> dict[str, xr.Variable]:
    """Mean log evidence, how far the ELBO lies below it, and for how many images k-hat trusts the estimate."""
    group = tree["evidence"].to_dataset()
    every = np.ones(group.sizes["image"], bool)
    log_p, elbo = (selected(tree, path, every) for path in ("evidence/log_evidence", "bound/elbo"))
    k = evidence_k(tree) if {"pareto_k", "ess"} <= set(group) else None
    rows: dict[str, list] = {"evidence": [], "evidence_gap": [], "evidence_trusted": []}
    trusted = 0
    for mask in sets.values():
        here = mask & np.isfinite(log_p)
        for name, values in (("evidence", log_p[here]), ("evidence_gap", (log_p - elbo)[here])):
            rows[name].append(mean_and_se(values) if values.size else (np.nan, np.nan))
        if k is not None:
            hits = int((k[here] < GOOD_K).sum())
            rows["evidence_trusted"].append(binomial_interval(hits, int(here.sum())))
            trusted += hits
    counts = [int((mask & np.isfinite(log_p)).sum()) for mask in sets.values()]
    variables: dict[str, xr.Variable] = {}
    for name, title in (("evidence", "log evidence"), ("evidence_gap", "log evidence minus ELBO")):
        values, errors = zip(*rows[name], strict=True)
        variables |= quantity(name, ["set"], values, title=title, unit="nats per image", n=counts, se=errors)
    total = sum(counts)
    method, particles = group.attrs.get("estimator", "a method not recorded"), group.attrs.get("num_particles", "")
    notes.append(f"log evidence of {total} images by {method}{f' ({particles} samples an image)' if particles else ''}")
    if k is not None:
        shares, intervals = zip(*rows["evidence_trusted"], strict=True)
        variables |= quantity(
            "evidence_trusted", ["set"], shares, title=f"images whose evidence has k-hat below {GOOD_K}",
            unit="share of images", n=counts, interval=intervals,
        )  # fmt: skip
        if trusted < total:
            notes.append(
                f"log evidence: Pareto k-hat is not below {GOOD_K} for {total - trusted} of {total} images; there it is only a "
                "lower bound, which may lie far below log p(x), with an error larger than the standard error says"
            )
    return variables


def _title(term: str) -> str:
    return {"elbo": "ELBO", "reconstruction": "E[log p(x|z)]"}.get(term, f"KL of {term.removesuffix('_kl')}")


@style.styled
def plot_bound_terms(dataset: xr.Dataset) -> style.Picture:
    """The bound and its terms, each on its own scale, natural and texture images side by side."""
    terms = [str(term) for term in dataset["term"].values]
    sets = [str(name) for name in dataset["set"].values]
    beside = "yardstick" in dataset.dims
    figure = style.figure(style.FULL, 3.6 if beside else 1.9)
    grid = figure.add_gridspec(1 + beside, len(terms))
    axes = [figure.add_subplot(grid[0, column]) for column in range(len(terms))]
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
    yardsticks = ""
    if beside:
        axes.append(figure.add_subplot(grid[1, :]))
        yardsticks = draw_above_yardsticks(axes[-1], dataset)
    style.letters(axes)
    n = ", ".join(f"{int(dataset['bound_n'].sel(set=name).values[0])} {name}" for name in sets)
    evidence = ""
    if "evidence" in dataset:
        counted = sum(dataset["evidence_n"].values)
        evidence = f" Dash: log evidence, of {counted} images"
        if "evidence_trusted" in dataset:
            weak = counted - round(float((dataset["evidence_trusted"] * dataset["evidence_n"]).sum()))
            evidence += f", a lower bound only for {weak} of them (Pareto k-hat not below {GOOD_K})" if weak else ""
        evidence += "."
    caption = (
        "Evidence lower bound, un-annealed, and its terms: ELBO = E[log p(x|z)] minus the KL of every layer. Points: mean over "
        f"images; bars: 95% interval (± 1.96 s.e.).{evidence} n = {n} images.{yardsticks}"
    )
    return style.Picture(figure, caption)
