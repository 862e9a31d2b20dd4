"""One trained generative model, one guide after the other: how near each comes to its posterior.

    python benchmarks/guides.py RUN --data patches.nc --out runs/guides [--audit 12]

RUN is a run of a two-layer pair, its model is left alone. Guides: the one it was trained with; the ladder guide in closed form,
with nothing trained; the ladder guide with what it reads trained (``train="guide"``); and the first and the last refined image
by image. For each the ELBO, log p(x) by importance sampling, Pareto k-hat and the effective sample size, of the same held-out
patches; with ``--audit N`` also moments and z1 noise correlations of N patches against a converged reference
(:func:`pyro_hvae.audit`). What was done stands in ``--out`` and is not done again; results are collected in
``benchmarks/results/guides.json``; ``docs/recipes.md`` tells what they mean.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import pyro_hvae as hvae
from pyro_hvae.analysis.guide_audit import guide_audit
from pyro_hvae.export.refinement import all_together, elbo, refine
from pyro_hvae.stimuli import PatchData
from pyro_hvae.storage.audit_file import open_audit
from pyro_hvae.storage.pareto_limits import GOOD_K

RESULTS = Path(__file__).parent / "results" / "guides.json"
REFINED = 200  # steps for each image
AUDITED = (
    "agreement", "ceiling", "real", "slope", "z1_mean_error", "z1_log_sd_ratio", "z2_mean_error", "z2_log_sd_ratio"
)  # fmt: skip


def measure(vae: hvae.HVAE, x: torch.Tensor, draws: int) -> dict[str, float]:
    """Mean ELBO and log p(x) in nats, share of images with k-hat below its limit, median k-hat and effective sample size."""
    value, _ = elbo(vae, x, 64, 0)
    evidence = hvae.evidence_importance_sampling(vae, x, draws, seed=0, **all_together(vae, x))
    return {
        "elbo": float(value.mean()),
        "log_evidence": float(evidence["log_evidence"].mean()),
        "k_below_0.7": float((evidence["pareto_k"] < GOOD_K).mean()),
        "median_k": float(evidence["pareto_k"].median()),
        "median_ess": float(evidence["ess"].median()) / draws,
    }


def trained_ladder(vae: hvae.HVAE, data: PatchData, steps: int, out: Path) -> hvae.HVAE:
    """The ladder guide that reads evidence, trained on the pair's model."""
    ladder = vae.with_guide("ladder", reads="evidence")
    options: dict[str, Any] = dict(
        objective=hvae.ELBO(gradient="rao_blackwell"), steps=steps, batch=200, clip=300.0, beta=1.0, train="guide",
        learning_rate=f"0:1e-3,{steps * 6 // 10}:1e-3,{steps}:1e-4",
    )  # fmt: skip
    resumed = (out / "config.json").exists()
    run = hvae.fit(ladder, data, out=out, resume=resumed, log_every=100, evaluate_every=10**9, seed=0, **options)
    if run.interrupted:
        raise SystemExit(f"interrupted at step {run.step}; the same command goes on")
    return ladder


def audited(vae: hvae.HVAE, images: xr.Dataset, file: Path) -> dict[str, dict[str, float]]:
    """Mean and s.e. over images of every measure of the audit, for the guide and for the guide resampled."""
    if not file.exists():
        hvae.audit(vae, images, path=file)
    with open_audit(file) as tree:
        found = guide_audit(tree)
    rows: dict[str, dict[str, float]] = {}
    for source in found["source"].values:
        at = found.sel(source=source)
        rows[str(source)] = {name: float(at[name]) for name in AUDITED if name in at}
        rows[str(source)] |= {f"{name}_se": float(at[f"{name}_se"]) for name in AUDITED if f"{name}_se" in at}
        rows[str(source)]["images"] = int(found["converged"].sum())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="patches that the run was trained on (PatchData.save)")
    parser.add_argument("--out", type=Path, default=Path("runs/guides"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=4000, help="of the ladder guide's training")
    parser.add_argument("--audit", type=int, default=0, help="patches compared with a reference; 40 s each and guide")
    arguments = parser.parse_args()
    data, vae = PatchData.load(arguments.data), hvae.load(arguments.run)
    arguments.out.mkdir(parents=True, exist_ok=True)
    x = torch.from_numpy(data.test["x"].values[: arguments.images])
    began = time.process_time()
    ladder = trained_ladder(vae, data, arguments.steps, arguments.out / "ladder")
    guides = {
        "as trained": vae,
        "as trained, refined": refine(vae, x, REFINED),
        "ladder, nothing trained": vae.with_guide("ladder"),
        "ladder, guide trained": ladder,
        "ladder, guide trained, refined": refine(ladder, x, REFINED),
    }
    rows: dict[str, Any] = {}
    for name, pair in guides.items():
        rows[name] = measure(pair, x, arguments.draws)
        print(name, {k: round(v, 3) for k, v in rows[name].items()}, flush=True)
    for name in ("as trained", "ladder, guide trained") if arguments.audit else ():
        file = arguments.out / f"audit-{name.replace(', ', '-').replace(' ', '_')}-{arguments.audit}.nc"
        rows[name]["audit"] = audited(guides[name], data.test.isel(image=slice(arguments.audit)), file)
        print(name, rows[name]["audit"], flush=True)
    results = {
        "system": vae.preset, "guide": type(vae.guide).__name__,
        "images": arguments.images, "draws": arguments.draws, "guide_steps": arguments.steps, "refined_steps": REFINED,
        "cpu_s": time.process_time() - began, "torch": torch.__version__, "guides": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
