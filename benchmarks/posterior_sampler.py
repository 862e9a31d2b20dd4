"""What real posteriors cost: effective draws a second of samplers, and seconds for many images at R-hat < 1.01 and ESS >= 400.

    OMP_NUM_THREADS=2 python benchmarks/posterior_sampler.py --images 100

Writes benchmarks/results/posterior_sampler.json. Images are the held-out embedded photographs of each reference.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import pyro_hvae as hvae
from pyro_hvae.export.moments import Moments, Request
from pyro_hvae.export.references import references
from pyro_hvae.export.sampled import ESS, R_HAT, SampledMoments, Sampling
from pyro_hvae.sampling.chain_statistics import chain_statistics
from pyro_hvae.sampling.gibbs import gibbs
from pyro_hvae.sampling.posterior_chains import ChainStarter, Plain
from pyro_hvae.training.run_directory import RunDirectory

RESULTS = Path(__file__).parent / "results" / "posterior_sampler.json"
PAIRS = ("TDVAE20", "TDVAE20-ladder")


def product_rate(seconds: float = 2.0) -> float:
    """Multiply-adds a second of float32 matrix products of the sizes of the model's network."""
    a, b = torch.randn(1024, 500), torch.randn(500, 900)
    a @ b
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        a @ b
        count += 1
    return count * 1024 * 500 * 900 / (time.perf_counter() - began)


def at_scale(name: str, images: int, sampling: Sampling) -> dict:
    """One export's worth of sampling, as ``export_posterior(sampler="hmc")`` does it, without the file."""
    vae = hvae.load_reference(name).requires_grad_(False)
    data = RunDirectory.open(references()[name]).held_out()
    data = data.isel(image=np.arange(images) * data.sizes["image"] // images)
    torch.manual_seed(0)
    with torch.no_grad():
        rate = product_rate()
        guide = Moments(vae, data, Request(0, 1, 64, ()), torch.device("cpu"))
        made = SampledMoments(guide, sampling, 10**6)  # compiled, as for many images
        started = made.starter.start(guide.images(data.isel(image=slice(2))), sampling.chains, sampling.warmup)
        began = time.perf_counter()
        started.sweep(adapt=True)
        compiling = time.perf_counter() - began
        wall, cpu, statistics = 0.0, 0.0, []
        for start in range(0, images, made.chunk):
            chunk = data.isel(image=slice(start, start + made.chunk))
            t, c = time.perf_counter(), time.process_time()
            groups = made.of(chunk)
            wall, cpu = wall + time.perf_counter() - t, cpu + time.process_time() - c
            statistics.append(groups["sample_stats"])
    found = {v: np.concatenate([s[v].values for s in statistics]) for v in statistics[0].data_vars}
    model = vae.model
    network = sum(p.numel() for p in model.conditionals.parameters() if p.dim() == 2)
    sweeps = sampling.chains * (sampling.num_samples + sampling.warmup)
    # Of a sweep: value and gradient at each of 1 + L points, p(z1 | z2) once, u and its pull twice (three products of 450²).
    leaps = 4
    products = sweeps * ((1 + leaps) * 2 * network + network + 2 * 3 * model.dims[0] ** 2)
    return {
        "pair": name, "images": images, "chains": sampling.chains, "num_samples": sampling.num_samples,
        "warmup": sampling.warmup, "compile_seconds": compiling, "seconds": wall, "cpu_seconds": cpu,
        "seconds_per_1000_images": 1000 * wall / images, "cpu_seconds_per_1000_images": 1000 * cpu / images,
        "share_of_product_floor": products * images / rate / wall,
        "r_hat_mean_below_1.01": float((found["r_hat_mean"] < R_HAT).mean()),
        "ess_mean_at_least_400": float((found["ess_mean"] >= ESS).mean()),
        "converged": float(found["converged"].mean()),
        "r_hat_mean_worst": float(found["r_hat_mean"].max()), "r_hat_median": float(np.median(found["r_hat"])),
        "ess_mean_worst": float(found["ess_mean"].min()), "ess_mean_median": float(np.median(found["ess_mean"])),
        "ess_tail_median": float(np.median(found["ess_tail"])), "divergences": int(found["divergences"].sum()),
        "memory_by_u": float(made.starter.decoupling.memory), "product_gflops": 2e-9 * rate,
    }  # fmt: skip


def per_second(name: str, images: int, which: str) -> dict:
    """Worst effective sample size of the means of z1 and z2, a second and image, after warm-up; uncompiled all of them."""
    vae = hvae.load_reference(name).requires_grad_(False)
    x = torch.from_numpy(RunDirectory.open(references()[name]).held_out()["x"].values[:images].copy())
    torch.manual_seed(0)
    warmup, draws = 150, 100
    if which == "gibbs":
        began = time.process_time()
        tree = gibbs(vae.model, x, num_samples=draws, warmup=draws, chains=4, seed=0)
        seconds = (time.process_time() - began) / 2
        kept = {site: tree["posterior"][site].values for site in ("z1", "z2")}
    else:
        with torch.no_grad():
            starter = ChainStarter(vae)
            if which == "joint":
                start = starter._guessed(x, 4), starter._guessed(x, 64)
                state = Plain(vae.model, x, *start, warmup)
            else:
                state = starter.start(x, 4, warmup)
            for _ in range(warmup):
                state.sweep(adapt=True)
            found = []
            began = time.process_time()
            for _ in range(draws):
                state.sweep(adapt=False)
                found.append(state.sites())
            seconds = time.process_time() - began
        kept = {site: np.stack([f[site].numpy() for f in found], 1) for site in ("z1", "z2")}
    ess = {site: np.median(chain_statistics(z)["ess_mean"].min(-1)) for site, z in kept.items()}
    r_hat = max(float(np.median(chain_statistics(z)["r_hat_mean"].max(-1))) for z in kept.values())
    rate = {f"{site}_ess_per_cpu_second": float(value * images / seconds) for site, value in ess.items()}
    return {"pair": name, "sampler": which, "images": images, "cpu_seconds": seconds, "r_hat_mean": r_hat} | rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--compared", type=int, default=8, help="images on which samplers are compared")
    parser.add_argument("--num-samples", type=int, default=350)
    parser.add_argument("--warmup", type=int, default=150)
    arguments = parser.parse_args()
    results: dict = {"torch": torch.__version__, "threads": torch.get_num_threads(), "at_scale": [], "samplers": []}
    for name in PAIRS:
        results["at_scale"].append(
            at_scale(name, arguments.images, Sampling(arguments.num_samples, arguments.warmup, 4, 0))
        )
        print(json.dumps(results["at_scale"][-1], indent=1), flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for name in PAIRS:
        for which in ("collapsed", "joint", "gibbs"):
            results["samplers"].append(per_second(name, arguments.compared, which))
            print(json.dumps(results["samplers"][-1]), flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
