"""How costs grow: a step against K, batch and the dimensions, an export against images; exponents fitted on the log scale.

    python benchmarks/growth.py

Writes ``benchmarks/results/growth.json`` and ``docs/figures/growth.png``. Steps of TDVAE20 are taken eagerly, so that no
compilation is needed for each size; every point is the median of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, StrMethodFormatter
from step_time import Ours, machine, pair

import pyro_hvae as hvae

ROOT = Path(__file__).parents[1]
RESULTS, FIGURE = ROOT / "benchmarks" / "results" / "growth.json", ROOT / "docs" / "figures" / "growth.png"
SIZES = {
    "particles K": (1, 2, 5, 10, 20),
    "batch (images)": (50, 100, 200, 400, 800),
    "dim z1": (113, 225, 450, 900, 1800),
    "dim z2": (5, 20, 70, 140, 280),
}
IMAGES = (250, 500, 1000, 2000, 4000)


def step_at(axis: str, size: int) -> tuple[Ours, torch.Tensor]:
    """A step of TDVAE20, batch 200, with one of its sizes changed."""
    batch = size if axis == "batch (images)" else 200
    options = {"dim_z1": size} if axis == "dim z1" else {"dim_z2": size} if axis == "dim z2" else {}
    bound = hvae.ImportanceWeightedELBO(size) if axis == "particles K" else hvae.ELBO()
    x = torch.randn(batch, 400)
    return Ours(pair("TDVAE20", "cpu", **options), bound, x, compiled=False), x


def step_times(axis: str, rounds: int) -> list[float]:
    """Milliseconds a step, by size."""
    steps = [step_at(axis, size) for size in SIZES[axis]]
    for step, x in steps:
        step.step(x)
    times = np.zeros((rounds, len(steps)))
    for row in times:
        for i in random.sample(range(len(steps)), len(steps)):
            step, x = steps[i]
            began = time.perf_counter()
            step.step(x)
            row[i] = 1e3 * (time.perf_counter() - began)
    return np.median(times, axis=0).tolist()


def export_cost(images: int) -> tuple[float, float]:
    """Seconds and peak memory (GiB) of an export with the correlations of 40 units; run in a process of its own."""
    torch.set_num_threads(1)
    vae = pair("TDVAE20", "cpu")
    x = torch.randn(images, 400)
    began = time.perf_counter()
    target = RESULTS.parent / f".growth-{images}.nc"
    tree = hvae.export_posterior(vae, x, units=range(40), prior_samples=2, path=target, overwrite=True)
    tree.close()
    target.unlink()
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Slope of log cost over log size, over the larger half of the sizes: small ones are overhead."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def draw(series: dict[str, dict[str, Any]]) -> None:
    """Every cost on log axes of at least one decade, so that flat looks flat; dashed, the fitted power law."""
    figure = Figure((7.6, 4.6), layout="constrained")
    for axis, (name, s) in zip(figure.subplots(2, 3).flat, series.items(), strict=True):
        sizes, costs = np.array(s["sizes"], float), np.array(s["costs"])
        axis.loglog(sizes, costs, "o", color="#0072B2", markersize=4)
        half = len(sizes) // 2
        middle = np.exp(np.log(costs[half:]).mean())
        fitted = middle * (sizes[half:] / np.exp(np.log(sizes[half:]).mean())) ** s["exponent"]
        axis.loglog(sizes[half:], fitted, "--", color="#D55E00", linewidth=1)
        centre = np.sqrt(costs.min() * costs.max())
        reach = max(np.sqrt(costs.max() / costs.min()) * 1.3, np.sqrt(10))
        axis.set(xlabel=s["axis"], ylabel=s["unit"], ylim=(centre / reach, centre * reach))
        axis.set_title(f"{name}: exponent {s['exponent']:.2f}", fontsize=9)
        axis.xaxis.set_major_locator(FixedLocator(sizes))
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter(StrMethodFormatter("{x:g}"))
            scale.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.tick_params(labelsize=7)
        axis.minorticks_off()
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--redraw", action="store_true", help="draw what was measured, and measure nothing")
    arguments = parser.parse_args()
    if arguments.redraw:
        return draw(json.loads(RESULTS.read_text())["series"])
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    series: dict[str, dict[str, Any]] = {}
    for axis, sizes in SIZES.items():
        series[f"step over {axis.split(' (')[0]}"] = {"axis": axis, "unit": "ms a step", "sizes": sizes,
                                                       "costs": step_times(axis, arguments.rounds)}  # fmt: skip
        print(axis, series[f"step over {axis.split(' (')[0]}"]["costs"], flush=True)
    costs = []
    for images in IMAGES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            costs.append(pool.apply(export_cost, (images,)))
        print(images, "images", costs[-1], flush=True)
    for i, (name, unit) in enumerate((("export, time", "s"), ("export, memory", "peak GiB"))):
        series[name] = {"axis": "images", "unit": unit, "sizes": IMAGES, "costs": [c[i] for c in costs]}
    for s in series.values():
        s["exponent"] = exponent(list(s["sizes"]), s["costs"])
    RESULTS.write_text(json.dumps({"machine": machine("cpu"), "series": series}, indent=1) + "\n")
    draw(series)


if __name__ == "__main__":
    main()
