"""What comes when after the onset of an image, and whether figures induce contours that are not there (physiology files)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.analysis.unit_responses import LayerResponses, stimuli
from pyro_hvae.storage.physiology_file import physiology_sites

COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE)
ANSWERS = 0.5  # a unit answers a line whose change is at least this part of the largest change of its layer
EARLY = 1.0  # time constants


def time_course(tree: xr.DataTree) -> xr.Dataset:
    """Courses of the posterior means of each layer after the onset of an image, in time constants of the dynamics.

    The response of a layer to an image is the root mean square, over the units that respond to gratings, of how far their
    means have moved since the onset. Quantities, by layer, medians over natural images: ``latency``, the time to half of the
    last response, linear between the times kept; ``early``, the response at one time constant over the last. ``induced``, by
    layer, median over units and figures: ``(R - R0) / (|R| + |R0|)`` of the last responses R to the illusory contour and R0 to
    its control with the inducers turned outward, of the units that answer the contour drawn as a line, signed by that answer. 0
    where a unit sees nothing but the image in its field, 1 where it answers the illusory contour alone.
    """
    group = stimuli(tree, "time_course")
    kind, time = group["kind"].values.astype(str), group["time"].values.astype(float)
    layers = physiology_sites(tree)
    rows: dict[str, list] = {name: [] for name in ("latency", "early", "induced")}
    counts: dict[str, list[int]] = {"latency": [], "induced": []}
    courses, notes = [], []
    shown = "natural" if (kind == "natural").any() else "complete"
    if shown != "natural":
        notes.append("no natural images in the file: courses are those of the complete figures")
    for site in layers:
        moved = group[f"{site}_mean"].values.astype(float)
        moved = moved - moved[0]
        used = LayerResponses(tree, site).responsive
        used = used if used.any() else np.ones_like(used)
        course = np.sqrt((moved[:, kind == shown][..., used] ** 2).mean(-1))  # (time, image)
        courses.append(course / np.maximum(course[-1].mean(), 1e-30))
        latencies = np.array([_half(time, one) for one in course.T])
        rows["latency"].append(median_and_interval(latencies[np.isfinite(latencies)]))
        at = np.array([np.interp(EARLY, time, one) for one in course.T])
        rows["early"].append(median_and_interval(at / np.maximum(course[-1], 1e-30)))
        counts["latency"].append(course.shape[1])
        last = {name: moved[-1, kind == name] for name in ("line", "illusory", "rotated")}  # (figure, unit)
        line = last["line"]
        answers = np.abs(line) >= ANSWERS * np.abs(line).max()
        sign = np.sign(line[answers])
        r, r0 = sign * last["illusory"][answers], sign * last["rotated"][answers]
        rows["induced"].append(median_and_interval((r - r0) / np.maximum(np.abs(r) + np.abs(r0), 1e-30)))
        counts["induced"].append(int(answers.sum()))
    variables: dict[str, xr.Variable] = {}
    for name, title, unit, n in (
        ("latency", "time to half of the response", "time constants", counts["latency"]),
        ("early", f"response after {EARLY:g} time constant over the last", "1", counts["latency"]),
        ("induced", "answer to the illusory contour against its control", "1", counts["induced"]),
    ):
        values, intervals = zip(*rows[name], strict=True)
        variables |= quantity(name, ["layer"], values, title=title, unit=unit, n=n, interval=intervals)
    variables["course"] = xr.Variable(("layer", "time", "image"), np.stack(courses))
    return result(tree, "time_course", variables, {"layer": layers, "time": time}, notes)


def _half(time: np.ndarray, course: np.ndarray) -> float:
    """When a course first reaches half of its last value; NaN where that is nothing."""
    half = 0.5 * course[-1]
    if not half > 0:
        return np.nan
    after = int(np.argmax(course >= half))
    if after == 0:
        return float(time[0])
    low, high = course[after - 1], course[after]
    return float(time[after - 1] + (half - low) / (high - low) * (time[after] - time[after - 1]))


@style.styled
def plot_time_course(dataset: xr.Dataset) -> style.Picture:
    """Left: responses against time, each layer by its last; right: what illusory contours induce."""
    figure = style.figure(2 * style.COLUMN, 2.2)
    left, right = figure.subplots(1, 2)
    layers = [str(layer) for layer in dataset["layer"].values]
    for site, colour in zip(layers, COLOURS, strict=False):
        course = dataset["course"].sel(layer=site).values
        left.plot(dataset["time"], course, color=colour, lw=0.3, alpha=0.3)
        left.plot(dataset["time"], course.mean(1), "o-", ms=2.5, color=colour, label=site)
    left.set(xlabel="time after onset, time constants", ylabel="response over its last", xscale="symlog")
    left.legend(frameon=False)
    for i, (site, colour) in enumerate(zip(layers, COLOURS, strict=False)):
        value, (low, high) = (
            dataset["induced"].sel(layer=site).item(),
            dataset["induced_interval"].sel(layer=site).values,
        )
        right.plot([i, i], [low, high], color=colour)
        right.plot(i, value, "o", color=colour)
    right.axhline(0, color=style.GREY, lw=0.8)
    right.set(xticks=range(len(layers)), xticklabels=layers, ylim=(-1, 1), xlim=(-0.6, len(layers) - 0.4),
              ylabel="illusory contour over control")  # fmt: skip
    style.letters((left, right))
    parts = "; ".join(
        f"{site}: latency {dataset['latency'].sel(layer=site).item():.2f} time constants, induced "
        f"{dataset['induced'].sel(layer=site).item():+.2f}"
        for site in layers
    )
    images, pairs = int(dataset["latency_n"][0]), ", ".join(str(int(n)) for n in dataset["induced_n"].values)
    return style.Picture(
        figure,
        "Langevin dynamics of the model's posterior after the onset of an image. Left: thin lines are images "
        f"(n = {images}), thick ones their mean. Right: medians and 95% intervals over units and figures, where the unit "
        f"answers the contour drawn as a line (n = {pairs}). {parts}.",
    )
