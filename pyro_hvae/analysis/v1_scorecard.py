"""Distributions of the properties of z1 units beside those of neurons of macaque V1 (physiology files)."""

from __future__ import annotations

import textwrap

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.surround_suppression import STRONGLY
from pyro_hvae.analysis.tuning import size_tuning
from pyro_hvae.analysis.unit_responses import LayerResponses, layers, per_degree, stimuli
from pyro_hvae.analysis.v1_histograms import HISTOGRAMS, Histogram
from pyro_hvae.errors import HVAEError

BOOTSTRAPS = 1000
FEWEST = 10  # units that have a property, for it to be scored


def v1_scorecard(tree: xr.DataTree) -> xr.Dataset:
    """For each property of :data:`~pyro_hvae.analysis.v1_histograms.HISTOGRAMS`, how alike z1 and V1 are distributed.

    ``similarity``: 1 - D / D_max, with D the Kolmogorov-Smirnov distance of the two histograms and D_max the largest that any
    distribution over these bins has from the neurons' (normalised as in Marques et al. 2021): 1 for the same, 0 for the
    farthest. As many units are drawn with replacement as there are neurons; mean and 95% interval over 1000 such draws.
    ``ceiling``: the same for the neurons against themselves, what a perfect model would reach. ``score``:
    similarity over ceiling. Properties that fewer than 10 units have are named and left out.

    :raises HVAEError: where no unit of z1 responds, or no property can be scored.
    """
    notes: list[str] = []
    found = layers(tree, notes)
    if "z1" not in found:
        raise HVAEError(f"no unit of z1 responds to gratings by its {tree.attrs['response']}; measure another response")
    units = properties(found["z1"])
    kept, similar, top, histograms = [], [], [], {}
    for seed, (name, histogram) in enumerate(HISTOGRAMS.items()):
        values = units[name][np.isfinite(units[name])]
        if values.size < FEWEST:
            notes.append(f"{histogram.title}: {values.size} units have it, too few to be scored")
            continue
        kept.append(name)
        histograms[name] = histogram.of(values)
        similar.append(_bootstrap(histograms[name], histogram, seed=seed))
        top.append(_bootstrap(np.array(histogram.counts) / histogram.n, histogram))
    if not kept:
        raise HVAEError("no property of z1 can be scored: too few units have one")
    if any(HISTOGRAMS[name].scaled for name in kept):
        notes.append(
            f"frequencies and sizes hang on the declared {per_degree(tree):g} pixels per degree, which no photograph says"
        )
    rows = np.array(similar)
    ceilings = np.array(top)
    n = [int(np.isfinite(units[name]).sum()) for name in kept]
    variables: dict[str, xr.Variable] = {}
    for name, title, values in (
        ("similarity", "similarity to V1", rows),
        ("ceiling", "ceiling of the similarity", ceilings),
        ("score", "similarity over ceiling", rows / ceilings.mean(1, keepdims=True)),
    ):
        interval = np.percentile(values, [2.5, 97.5], axis=1).T
        variables |= quantity(name, ["property"], values.mean(1), title=title, unit="1", interval=interval, n=n)
    overall = (rows / ceilings.mean(1, keepdims=True)).mean(0)
    variables |= quantity("mean_score", [], overall.mean(), title="mean score", unit="1", n=len(kept),
                          interval=np.percentile(overall, [2.5, 97.5]))  # fmt: skip
    for name in kept:
        variables[f"{name}_units"] = xr.Variable(f"{name}_bin", histograms[name])
    made = result(tree, "v1_scorecard", variables, {"property": kept}, notes)
    return made.assign_attrs(response=str(tree.attrs["response"]), pixels_per_degree=per_degree(tree))


def properties(layer: LayerResponses) -> dict[str, np.ndarray]:
    """The properties of every unit of a layer ``(unit,)``, NaN where it does not respond or has none."""
    scale = per_degree(layer.tree)
    sizes = size_tuning(layer.curves("size"), stimuli(layer.tree, "size")["diameter"].values)
    suppressed = sizes.suppression > STRONGLY
    ratio = layer.frequency.ratio
    found = {
        "preferred_orientation": (layer.orientation.preferred + 22.5) % 180 - 22.5,
        "peak_frequency": layer.frequency.preferred * scale,
        "frequency_selective": np.isfinite(ratio).astype(float),
        "frequency_ratio": ratio,
        "suppression": sizes.suppression,
        "strongly_suppressed": suppressed.astype(float),
        "summation": np.where(suppressed, sizes.summation, np.nan) / scale,
        "surround": np.where(suppressed, sizes.surround, np.nan) / scale,
        "surround_ratio": np.where(suppressed, sizes.surround / sizes.summation, np.nan),
    }
    return {name: np.where(layer.responsive, values, np.nan) for name, values in found.items()}


def _bootstrap(shares: np.ndarray, neurons: Histogram, draws: int = BOOTSTRAPS, seed: int = 0) -> np.ndarray:
    """Similarities to the neurons of samples, as many as there are neurons, from a distribution over their bins."""
    samples = np.random.default_rng(seed).multinomial(neurons.n, shares / shares.sum(), draws) / neurons.n
    return similarity(samples, np.array(neurons.counts) / neurons.n)


def similarity(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """1 - D(p, q) / max D(·, q) of histograms along the last axis, which sum to 1."""
    distance = np.abs(np.cumsum(p, -1) - np.cumsum(q, -1)).max(-1)
    first, last = np.zeros(len(q)), np.zeros(len(q))
    first[0] = last[-1] = 1.0
    farthest = max(np.abs(np.cumsum(end) - np.cumsum(q)).max() for end in (first, last))
    return 1 - distance / farthest


@style.styled
def plot_v1_scorecard(dataset: xr.Dataset) -> style.Picture:
    """A histogram a property, units against neurons, and the scores."""
    kept = [str(name) for name in dataset["property"].values]
    figure = style.figure(style.FULL, 4.6)
    axes = figure.subplots(2, 5).ravel()
    for axis, name in zip(axes, kept, strict=False):
        histogram = HISTOGRAMS[name]
        bins = np.arange(len(histogram.counts) + 1)
        axis.stairs(np.array(histogram.counts) / histogram.n, bins, fill=True, color=style.GREY, alpha=0.5)
        axis.stairs(dataset[f"{name}_units"].values, bins, color=style.BLUE, lw=1.2)
        every = max(1, len(bins) // 3)
        axis.set_xticks(bins[::every], [f"{e:.3g}" for e in histogram.edges[::every]])
        unit = (
            "" if histogram.unit == "1" else f" ({histogram.unit.replace('degrees', 'deg').replace('degree', 'deg')})"
        )
        axis.set(xlabel=_wrapped(histogram.title + unit))
        axis.set_title(f"{dataset['score'].sel(property=name).item():.2f}", loc="right")
    axes[0].set(ylabel="share of cells or units")
    if len(kept) > 5:
        axes[5].set(ylabel="share of cells or units")
    last = axes[len(kept)]
    interval = dataset["similarity_interval"].values
    y = np.arange(len(kept))[::-1]
    last.hlines(y, interval[:, 0], interval[:, 1], color=style.BLUE)
    last.plot(dataset["similarity"], y, "o", ms=3, color=style.BLUE)
    last.plot(dataset["ceiling"], y, "|", ms=7, color="black")
    last.set(xlim=(0, 1.02), xlabel="similarity (|: ceiling)", yticks=y)
    last.set_yticklabels(["abcdefghi"[i] for i in range(len(kept))])
    for axis in axes[len(kept) + 1 :]:
        axis.set_axis_off()
    style.letters(axes[: len(kept)])
    low, high = dataset["mean_score_interval"].values
    papers = "; ".join(dict.fromkeys(HISTOGRAMS[name].source for name in kept))
    caption = (
        f"Units of z1 (blue) and neurons of macaque V1 (grey): {papers}. On the right of each panel, similarity over ceiling; "
        f"mean {dataset['mean_score'].item():.2f} [{low:.2f}, {high:.2f}]. Frequencies and sizes at a declared "
        f"{dataset.attrs['pixels_per_degree']:g} pixels per degree. The response is the "
        f"{dataset.attrs['response'].replace('_', ' ')} above that at a uniform field."
    )
    return style.Picture(figure, caption)


def _wrapped(text: str, width: int = 22) -> str:
    return "\n".join(textwrap.wrap(text, width))
