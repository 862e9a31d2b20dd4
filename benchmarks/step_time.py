"""Time of a training step, against the ways others would take it: interleaved, medians of ratios.

    python benchmarks/step_time.py                      # the CPU's works; `make bench`
    python benchmarks/step_time.py --device cuda        # the GPU's; `make bench-gpu`

In every round each variant takes some steps, in an order drawn anew, and its time is divided by the reference's of the same
round: what else the machine does falls on both. ``low`` and ``high`` bound the median's 95% bootstrap interval. Results are
merged into ``benchmarks/results/latest.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from peers import HandWritten, PyroSVI, PythaeLoop, pythae_missing
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pyro_hvae as hvae
from pyro_hvae.published import Training
from pyro_hvae.training.ensemble import Stack
from pyro_hvae.training.tracing import CudaGraph, compile_step, trace
from pyro_hvae.training.training_step import TrainingStep

RESULTS = Path(__file__).parent / "results" / "latest.json"
RATE = 1e-4


class Ours:
    """Our training step as :func:`pyro_hvae.fit` takes it."""

    def __init__(self, vae: hvae.HVAE, objective: Any, x: Tensor, compiled: bool = True, precision: str = "float32"):
        parameters = dict(vae.named_parameters())
        betas = {site: torch.ones((), device=x.device) for site in vae.sites}
        self.train = TrainingStep(vae, objective, parameters, betas, Training(learning_rate=RATE, precision=precision))
        self.take: Callable[[Tensor], None] = self.train
        self.compile_seconds = None
        if compiled:
            with pyro.validation_enabled(False):
                began = time.perf_counter()
                advance = compile_step(self.train, x)
                self.compile_seconds = time.perf_counter() - began
            self.take = CudaGraph(self.train, advance) if x.is_cuda else partial(self.train, advance=advance)

    def step(self, x: Tensor) -> None:
        with pyro.validation_enabled(False):
            self.take(x)


class EnsembleOf:
    """One stacked step of several pairs."""

    def __init__(self, vaes: Sequence[hvae.HVAE], objective: Any, x: Tensor):
        with pyro.validation_enabled(False):
            members = [Ours(vae, objective, x, compiled=False).train for vae in vaes]
            self.stack = Stack(members, x, compile=True)
        self.members = len(vaes)

    def step(self, x: Tensor) -> None:
        self.stack([x] * self.members, [self.stack.draw() for _ in range(self.members)])


class OneByOne:
    """Several pairs, one step each, one after the other."""

    def __init__(self, vaes: Sequence[hvae.HVAE], objective: Any, x: Tensor):
        self.each = [Ours(vae, objective, x) for vae in vaes]

    def step(self, x: Tensor) -> None:
        for one in self.each:
            one.step(x)


class Products:
    """The floor: the matrix products of a step, and nothing else."""

    def __init__(self, vae: hvae.HVAE, objective: Any, x: Tensor):
        step = Ours(vae, objective, x, compiled=False).train
        with pyro.validation_enabled(False):
            graph = trace(step.function, x)
        self.pairs = []
        for node in graph.graph.nodes:
            if node.target in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                a, b = (n.meta["val"] for n in node.args[-2:])
                self.pairs.append([torch.empty_strided(t.shape, t.stride(), device=x.device).normal_() for t in (a, b)])

    def step(self, x: Tensor) -> None:
        for a, b in self.pairs:
            torch.mm(a, b)


@dataclass(frozen=True)
class Work:
    """What is timed: variants by name, and those that the others are divided by."""

    name: str
    batch: int
    pixels: int
    against: tuple[str, ...]
    variants: Mapping[str, Callable[[Tensor], Any]]
    steps: int = 5


def pair(name: str, device: str, seed: int = 0, **options: Any) -> hvae.HVAE:
    return hvae.build(name, start="linear_regime", seed=seed, **options).to(device)


def works(device: str) -> list[Work]:
    """What is timed on this kind of device."""
    made = lambda name, **options: pair(name, device, **options)  # noqa: E731
    elbo = hvae.ELBO()
    made_list = [
        Work("TDVAE20, batch 400, ELBO", 400, 400, ("hand-written", "hand-written, compiled"), {
            "pyro_hvae, compiled": lambda x: Ours(made("TDVAE20"), elbo, x),
            "pyro_hvae, eager": lambda x: Ours(made("TDVAE20"), elbo, x, compiled=False),
            "pyro_hvae, compiled, bfloat16": lambda x: Ours(made("TDVAE20"), elbo, x, precision="bfloat16"),
            "hand-written": lambda x: HandWritten(made("TDVAE20")),
            "hand-written, compiled": lambda x: HandWritten(made("TDVAE20"), compiled=True),
            "Pyro SVI, Trace_ELBO": lambda x: PyroSVI(made("TDVAE20"), pyro.infer.Trace_ELBO()),
            "Pyro SVI, TraceMeanField_ELBO": lambda x: PyroSVI(made("TDVAE20"), pyro.infer.TraceMeanField_ELBO()),
            "matrix products alone": lambda x: Products(made("TDVAE20"), elbo, x),
        }),
        Work("TDVAE20 with the ladder guide, batch 400, ELBO", 400, 400, ("published guide",), {
            "published guide": lambda x: Ours(made("TDVAE20"), elbo, x),
            "published guide, rao_blackwell": lambda x: Ours(made("TDVAE20"), hvae.ELBO(gradient="rao_blackwell"), x),
            "ladder guide, rao_blackwell": lambda x: Ours(
                made("TDVAE20", guide="ladder"), hvae.ELBO(gradient="rao_blackwell"), x
            ),
            "ladder guide, drawn": lambda x: Ours(made("TDVAE20", guide="ladder"), elbo, x),
        }),
        Work("TDVAE40, batch 128, ELBO", 128, 1600, ("hand-written",), {
            "pyro_hvae, compiled": lambda x: Ours(made("TDVAE40"), elbo, x),
            "hand-written": lambda x: HandWritten(made("TDVAE40")),
            "matrix products alone": lambda x: Products(made("TDVAE40"), elbo, x),
        }, steps=3),
        Work("TDVAE20, batch 400, importance-weighted, K = 10", 400, 400, ("hand-written, nothing shared",), {
            "pyro_hvae, compiled": lambda x: Ours(made("TDVAE20"), hvae.ImportanceWeightedELBO(10), x),
            "hand-written, nothing shared": lambda x: HandWritten(made("TDVAE20"), particles=10, sharing="none"),
            "hand-written, bottom-up shared": lambda x: HandWritten(made("TDVAE20"), particles=10, sharing="bottom_up"),
            "hand-written, product split": lambda x: HandWritten(made("TDVAE20"), particles=10, sharing="split"),
            "Pyro SVI, RenyiELBO": lambda x: PyroSVI(
                made("TDVAE20"), pyro.infer.RenyiELBO(0, num_particles=10, vectorize_particles=True)
            ),
        }, steps=1),
        Work("host cost: TDVAE of 16 pixels, batch 20, ELBO", 20, 16, ("hand-written", "Pyro SVI, Trace_ELBO"), {
            "pyro_hvae, compiled": lambda x: Ours(tiny(device), elbo, x),
            "pyro_hvae, eager": lambda x: Ours(tiny(device), elbo, x, compiled=False),
            "hand-written": lambda x: HandWritten(tiny(device)),
            "hand-written, compiled": lambda x: HandWritten(tiny(device), compiled=True),
            "Pyro SVI, Trace_ELBO": lambda x: PyroSVI(tiny(device), pyro.infer.Trace_ELBO()),
        }, steps=50),
        Work("4 small TDVAEs (16 pixels, batch 20), ELBO", 20, 16, ("one after the other",), {
            "one after the other": lambda x: OneByOne([tiny(device, s) for s in range(4)], elbo, x),
            "fit_ensemble": lambda x: EnsembleOf([tiny(device, s) for s in range(4)], elbo, x),
        }, steps=25),
    ]  # fmt: skip
    if pythae_missing() is None:
        options = dict(noise=1.0, families=("normal",))
        made_list.append(Work("LinearVAE20, Normal, batch 400, ELBO", 400, 400, ("pythae, VAE",), {
            "pyro_hvae, compiled": lambda x: Ours(made("LinearVAE20", **options), elbo, x),
            "pythae, VAE": lambda x: PythaeLoop(made("LinearVAE20", **options)),
        }))  # fmt: skip
    if device == "cuda":
        for preset, batch, pixels in (("TDVAE20", 400, 400), ("TDVAE40", 128, 1600)):
            for k in (1, 10, 50):
                bound = elbo if k == 1 else hvae.ImportanceWeightedELBO(k)
                name = f"{preset}, batch {batch}, K = {k}, on a GPU"
                made_list.append(Work(name, batch, pixels, ("matrix products alone",), {
                    "pyro_hvae, compiled": lambda x, p=preset, b=bound: Ours(made(p), b, x),
                    "pyro_hvae, compiled, tf32": lambda x, p=preset, b=bound: Ours(made(p), b, x, precision="tf32"),
                    "pyro_hvae, compiled, bfloat16": lambda x, p=preset, b=bound: Ours(made(p), b, x, precision="bfloat16"),
                    "matrix products alone": lambda x, p=preset, b=bound: Products(made(p), b, x),
                }))  # fmt: skip
        made_list.append(Work("8 × TDVAE20, batch 400, ELBO", 400, 400, ("one after the other",), {
            "one after the other": lambda x: OneByOne([made("TDVAE20", seed=s) for s in range(8)], elbo, x),
            "fit_ensemble": lambda x: EnsembleOf([made("TDVAE20", seed=s) for s in range(8)], elbo, x),
        }))  # fmt: skip
    return made_list


def tiny(device: str, seed: int = 0) -> hvae.HVAE:
    """A pair so small that only what the host does takes time."""
    torch.manual_seed(seed)
    sizes = dict(pixels=16, dims=(6, 3))
    guide = hvae.TopDownGuide(**sizes, hidden_x=((8,), (5,)), hidden_z=((5,),), hidden_joint=((8,),))
    return hvae.HVAE(hvae.MarkovModel(**sizes, hidden=((7,),)), guide).to(device)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(work: Work, device: str, rounds: int) -> list[dict[str, Any]]:
    """Ratios of every variant to the reference."""
    x = torch.randn(work.batch, work.pixels, generator=torch.Generator().manual_seed(0)).to(device)
    variants = {name: make(x) for name, make in work.variants.items()}
    for variant in variants.values():
        for _ in range(5):
            variant.step(x)
    times: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            wait(device)
            began = time.perf_counter()
            for _ in range(work.steps):
                variants[name].step(x)
            wait(device)
            times[name].append((time.perf_counter() - began) / work.steps)
    rows = []
    for against in work.against:
        print(f" ratios to {against}")
        for name, taken in times.items():
            ratios = np.array(taken) / np.array(times[against])
            medians = np.median(np.random.default_rng(0).choice(ratios, (2000, rounds)), axis=1)
            low, high = np.quantile(medians, [0.025, 0.975])
            row = {"work": work.name, "variant": name, "against": against, "median_ratio": round(float(np.median(ratios)), 4),
                   "low": round(float(low), 4), "high": round(float(high), 4), "runs": rounds, "device": device,
                   "median_ms": round(1e3 * float(np.median(taken)), 3)}  # fmt: skip
            if isinstance(variants[name], Ours) and variants[name].compile_seconds is not None:
                row["compile_s"] = round(variants[name].compile_seconds, 1)
            rows.append(row)
            print(
                f"  {name:38s} {row['median_ms']:9.2f} ms   {row['median_ratio']:.3f} [{low:.3f}, {high:.3f}]",
                flush=True,
            )
    return rows


def flops() -> list[dict[str, Any]]:
    """Floating-point operations of a step of TDVAE20, batch 400; noise-free."""
    x = torch.randn(400, 400)
    counts = []
    for name, variant in (
        ("pyro_hvae, ELBO", Ours(pair("TDVAE20", "cpu"), hvae.ELBO(), x, compiled=False)),
        ("pyro_hvae, K = 10", Ours(pair("TDVAE20", "cpu"), hvae.ImportanceWeightedELBO(10), x, compiled=False)),
        ("hand-written, nothing shared, K = 10", HandWritten(pair("TDVAE20", "cpu"), particles=10, sharing="none")),
        (
            "hand-written, bottom-up shared, K = 10",
            HandWritten(pair("TDVAE20", "cpu"), particles=10, sharing="bottom_up"),
        ),
    ):
        variant.step(x)
        with FlopCounterMode(display=False) as counter:
            variant.step(x)
        counts.append({"variant": name, "gigaflops": round(counter.get_total_flops() / 1e9, 2)})
        print(f"  {name:38s} {counts[-1]['gigaflops']:.2f} GF")
    return counts


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    packages = ("pyro-hvae", "torch", "pyro-ppl", "numpy")
    found: dict[str, Any] = {name: version(name) for name in packages}
    found |= {
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def table(results: dict[str, Any]) -> None:
    """The recorded results in Markdown, as in docs/benchmarks.md."""
    last = None
    for row in results["results"]:
        head = f"{row['work']}; ratio to {row['against']}"
        if head != last:
            print(f"\n| {head} | ms a step | ratio | 95% interval |\n|---|--:|--:|---|")
            last = head
        print(
            f"| {row['variant']} | {row['median_ms']:.4g} | {row['median_ratio']:.3f} | {row['low']:.3f} to {row['high']:.3f} |"
        )
    print("\n| floating-point operations of a step (TDVAE20, batch 400) | GF |\n|---|--:|")
    for row in results.get("flops", []):
        print(f"| {row['variant']} | {row['gigaflops']:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="works whose name holds this text")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what was measured as a table, and measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        return table(json.loads(arguments.out.read_text()))
    random.seed(0)
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if pythae_missing():
        print(f"without pythae: {pythae_missing()}")
    rows = [r for r in results.get("results", []) if r["device"] != arguments.device or arguments.only not in r["work"]]
    for work in works(arguments.device):
        if arguments.only in work.name:
            print(work.name, flush=True)
            rows += measure(work, arguments.device, arguments.rounds)
            torch.compiler.reset()
            results |= {"results": rows, f"machine_{arguments.device}": machine(arguments.device)}
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if not arguments.only:
        results["flops"] = flops()
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
