"""What docs/physiology.md says of the trained pair that ships: its measurement, and four guides of its model side by side.

    python benchmarks/physiology.py [--out runs/physiology] [--steps 1500] [--pictures] [--train GUIDE]

1. `pyro-hvae physiology --reference TDVAE20-ladder`, timed; its numbers.
2. The model of that pair as it is under the guides that the package knows: its own ladder guide, and top-down, bottom-up
   (Chain) and mean-field ones trained for --steps on it alone. Of each the share of the posterior variance of z1 that comes
   through z2, the change of that variance with contrast, and the bound.

Writes `benchmarks/results/physiology.json`; with --pictures also the pictures of docs/physiology.md. Restartable: a guide that
is trained is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import pyro_hvae as hvae
from pyro_hvae.analysis import contrast_uncertainty, layer_dependence
from pyro_hvae.cli import main as command
from pyro_hvae.physiology import measure_physiology
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.stimuli import PatchData, natural_patches
from pyro_hvae.storage.physiology_file import open_physiology

ROOT = Path(__file__).parents[1]
REFERENCE = "TDVAE20-ladder"
PUBLISHED = "TDVAE20"  # the top-down guide as published, trained together with a model of its own for 8000 steps
GUIDES = ("ladder", "top_down", "bottom_up", "mean_field")
PICTURES = tuple(PHYSIOLOGY_ANALYSES)
DPI = 110
IMAGES = 200  # held-out patches on which guides are compared
UNITS = 100  # of each layer, those that answer gratings most, whose variance is followed with contrast


def measured(out: Path) -> dict[str, Any]:
    """The command on the reference, and every number of its report."""
    folder = out / REFERENCE
    started, worked = time.monotonic(), time.process_time()
    if command(["physiology", "--reference", REFERENCE, "--out", str(folder), "--overwrite"]):
        raise SystemExit("the measurement failed")
    seconds, worked = time.monotonic() - started, time.process_time() - worked
    report = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    keys = ("analysis", "name", "value", "se", "interval", "n", "unit")
    return {
        "seconds": round(seconds),
        "cpu_seconds": round(worked),
        "results": [{k: e[k] for k in keys if k in e} for e in report["results"]],
    }


def guides(out: Path, data: PatchData, steps: int) -> dict[str, Any]:
    """Guides of one model, each trained for it, on the same held-out patches."""
    found: dict[str, Any] = {}
    for name in GUIDES:
        vae = hvae.load_reference(REFERENCE)
        if name != "ladder":
            train(name, vae.with_guide(name), out, data, steps)
            vae = hvae.load(out / f"{name}-{steps}")
        found[name] = compared(vae, data)
        print(name, {k: round(v, 4) for k, v in found[name].items()}, flush=True)
    found[PUBLISHED] = compared(hvae.load_reference(PUBLISHED), data)
    return found


def compared(vae: hvae.HVAE, data: PatchData) -> dict[str, float]:
    """What the table of guides says of one of them."""
    images = data.test.isel(image=slice(IMAGES))
    tree = hvae.export_posterior(vae, images, moment_draws=64, prior_samples=1, receptive_fields=0)
    share = layer_dependence(tree)
    shown = measure_physiology(vae, images=images, transform=data.transform, parts=["natural_contrast"], units=UNITS)
    contrast = contrast_uncertainty(shown)
    elbo = tree["bound"]["elbo"].values
    found = {"elbo": float(elbo.mean()), "elbo_se": float(elbo.std(ddof=1) / np.sqrt(elbo.size))}
    found |= {"share": share["share"].item(), "share_se": share["share_se"].item()}
    for site in ("z1", "z2"):
        at = contrast.sel(layer=site)
        found |= {f"slope_{site}": at["slope"].item(), f"slope_{site}_se": at["slope_se"].item()}
    return found


def train(name: str, vae: hvae.HVAE, out: Path, data: PatchData, steps: int) -> None:
    """A guide alone, on its model as it is, unless that is done already."""
    folder = out / f"{name}-{steps}"
    if (folder / "checkpoints" / f"step-{steps:08d}.safetensors").exists():
        return
    hvae.fit(
        vae, data, recipe="published", objective=hvae.ELBO(), steps=steps, batch=200, learning_rate=1e-3, beta=1.0,
        train="guide", out=folder, overwrite=folder.exists(), evaluate_every=steps, progress=False,
    )  # fmt: skip


def pictures(out: Path) -> None:
    """The pictures of docs/physiology.md, which show no photographs: stimuli and filters alone."""
    target = ROOT / "docs" / "figures" / "physiology"
    target.mkdir(parents=True, exist_ok=True)
    with open_physiology(out / REFERENCE / "physiology.nc") as tree:
        for name in PICTURES:
            analysis = PHYSIOLOGY_ANALYSES[name]
            analysis.plot(analysis.run(tree)).figure.savefig(target / f"{name}.png", dpi=DPI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/physiology"))
    parser.add_argument("--steps", type=int, default=1500, help="of each guide (1500)")
    parser.add_argument("--train", choices=GUIDES[1:], help="train this guide alone, and end")
    parser.add_argument("--pictures", action="store_true", help="draw those of docs/physiology.md as well")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "patches.nc"
    if not file.exists():
        natural_patches(train=200_000, test=5000).save(file)  # those of the reference, and so its transform
    data = PatchData.load(file)
    if arguments.train:
        train(
            arguments.train,
            hvae.load_reference(REFERENCE).with_guide(arguments.train),
            arguments.out,
            data,
            arguments.steps,
        )
        return
    found = {
        "reference": REFERENCE,
        "steps": arguments.steps,
        "guides": guides(arguments.out, data, arguments.steps),
        "measured": measured(arguments.out),
    }
    (ROOT / "benchmarks" / "results" / "physiology.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8"
    )
    if arguments.pictures:
        pictures(arguments.out)


if __name__ == "__main__":
    main()
