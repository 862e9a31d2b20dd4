"""How fast training gets where: recipes compared on held-out patches, step by step.

    python benchmarks/recipes.py --images van_hateren --textures brodatz --out runs/recipes [--recipes plain linear_regime …]

For every recipe the held-out ELBO, the dimensions in use, KL of z2 and how well texture families can be told from z2, against
the patch norm (contrast) and pixels, over the steps. A recipe that was stopped goes on where it was. For the linear Normal
system the exact optimum (probabilistic PCA) is computed from the same patches. Results are collected in
``benchmarks/results/recipes.json``; ``docs/recipes.md`` tells what they mean.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyro_hvae as hvae
from pyro_hvae.analysis import active_dimensions, decode_family
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import PatchData, concatenate, natural_patches, texture_patches

RESULTS = Path(__file__).parent / "results" / "recipes.json"
FEATURES = ("pixels", "norm", "power_spectrum", "z1_mean", "z2_mean")


@dataclass(frozen=True)
class Recipe:
    """How a pair is started and trained."""

    preset: str = "TDVAE20"
    families: tuple[str, ...] | None = None
    start: str = "default"
    after: str | None = None
    """Recipe whose pair is taken up; with ``start="energies"`` its z2 is restarted."""
    gradient: str = "standard"
    contrast: str = "none"
    batch: int = 200
    learning_rate: str = "0:1e-3,14000:1e-3,20000:1e-4"
    beta: str | None = "0:0.1,10000:1"
    clip: float | None = None
    steps: int = 20_000


_THIRD = dict(steps=6666, learning_rate="0:1e-3,4000:1e-3,6666:1e-4", beta="0:0.1,3333:1")
_EXACT = dict(preset="LinearVAE20", families=("normal",), beta=None, gradient="rao_blackwell", start="linear_regime")
RECIPES = {
    "plain": Recipe(),
    "plain, a third": Recipe(**_THIRD),
    "linear regime, a third": Recipe(start="linear_regime", **_THIRD),
    "linear regime, a third, clipped": Recipe(
        start="linear_regime", clip=300.0, **_THIRD | dict(learning_rate="0:5e-4,4000:5e-4,6666:5e-5")
    ),
    "linear regime, unit norm": Recipe(
        start="linear_regime", contrast="unit_norm", clip=300.0, learning_rate="0:5e-4,14000:5e-4,20000:5e-5",
        beta="0:0.05,6000:0.05,14000:1",
    ),
    "linear regime, unit norm, rao_blackwell": Recipe(
        start="linear_regime", contrast="unit_norm", clip=300.0, learning_rate="0:5e-4,14000:5e-4,20000:5e-5",
        beta="0:0.05,6000:0.05,14000:1", gradient="rao_blackwell",
    ),
    "energies": Recipe(
        after="linear regime, a third, clipped", start="energies", clip=300.0, steps=8000,
        learning_rate="0:5e-4,5600:5e-4,8000:5e-5", beta="0:0.1,1500:0.1,4000:1",
    ),
    "unit norm, energies": Recipe(
        after="linear regime, unit norm, rao_blackwell", start="energies", contrast="unit_norm", clip=300.0, steps=10_000,
        learning_rate="0:5e-4,7000:5e-4,10000:5e-5", beta="0:0.1,2000:0.1,6000:1",
    ),
    "exact, default start": Recipe(**_EXACT | dict(start="default"), steps=12_000, learning_rate="0:1e-3,8000:1e-3,12000:1e-5"),
    "exact, linear regime": Recipe(**_EXACT, steps=8000, learning_rate="0:1e-3,4000:1e-3,6000:1e-4,8000:1e-5"),
    "exact, linear regime, clipped": Recipe(
        **_EXACT, clip=300.0, steps=14_000, learning_rate="0:4e-4,7000:4e-4,10000:1e-4,14000:1e-5"
    ),
}  # fmt: skip


def ppca_optimum(data: PatchData, noise: float, images: int) -> float:
    """Mean log-likelihood of held-out patches under the best linear Normal model of the training patches."""
    x, test = data.train["x"].values.astype(float), data.test["x"].values[:images].astype(float)
    mean, covariance = x.mean(0), np.cov(x, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, noise**2)  # Tipping and Bishop 1999, with sigma given
    white = (test - mean) @ vectors
    return float(np.mean(-0.5 * (np.log(2 * np.pi * values).sum() + (white**2 / values).sum(1))))


def patches(source: str, contrast: str, train: int, out: Path) -> PatchData:
    """Patches of a source, cut once."""
    file = out / f"patches-{contrast}.nc"
    if not file.exists():
        natural_patches(source=source, train=train, test=10_000, contrast=contrast).save(file)
    return PatchData.load(file)


def measure(vae: hvae.HVAE, data: PatchData, textures: str) -> dict[str, float]:
    """Dimensions in use, KLs, and texture decoding."""
    sets = [data.test.isel(image=slice(1000))]
    if textures != "none":
        labelled = texture_patches(20, textures, transform=data.transform, train=4000, test=2000, seed=1)
        sets += [labelled.train, labelled.test]
    tree = hvae.export_posterior(vae, concatenate(*sets), moment_draws=8, prior_samples=2, transform=data.transform)
    counts = active_dimensions(tree)["count"]
    found = {f"active_{site}": float(counts.sel(site=site)) for site in counts["site"].values}
    if textures != "none":
        features = [f for f in FEATURES if f != "z2_mean" or "z2" in vae.latents]
        accuracy = decode_family(tree, features, repeats=3)["accuracy"]
        accuracy = accuracy.mean([d for d in accuracy.dims if d != "feature"])
        found |= {f"decode_{f}": float(accuracy.sel(feature=f)) for f in features}
    return found


def folder(name: str, out: Path) -> Path:
    return out / name.replace(", ", "-").replace(" ", "_")


def begin(recipe: Recipe, data: PatchData, out: Path) -> hvae.HVAE:
    """The pair as the recipe starts it."""
    if recipe.after is None:
        return hvae.build(recipe.preset, families=recipe.families, start=recipe.start, seed=0)
    torch.manual_seed(0)
    return hvae.start_from_energies(
        hvae.load(folder(recipe.after, out)), torch.from_numpy(data.train["x"].values[:4000])
    )


def train(name: str, recipe: Recipe, data: PatchData, textures: str, out: Path, stages: int) -> list[dict[str, float]]:
    """Train in stages; measure after each."""
    run_folder = folder(name, out)
    objective = hvae.ELBO(gradient=recipe.gradient)
    table = run_folder / "stages.json"
    rows = json.loads(table.read_text()) if table.exists() else []
    for stage in range(len(rows), stages):
        vae = begin(recipe, data, out)
        if stage == 0 and recipe.after is not None:
            print(f"{name}: as started: {json.dumps(measure(vae, data, textures))}", flush=True)
        began = time.process_time()
        run = hvae.fit(
            vae, data, objective=objective, batch=recipe.batch, learning_rate=recipe.learning_rate,
            beta=None if recipe.beta is None else {"z2": recipe.beta}, clip=recipe.clip,
            steps=recipe.steps * (stage + 1) // stages, out=run_folder, resume=(run_folder / "config.json").exists(),
            compile=True, log_every=100, evaluate_every=10**9, checkpoint_every=500, device="auto",
        )  # fmt: skip
        if run.interrupted:
            raise SystemExit(f"{name}: interrupted at step {run.step}; the same command goes on")
        last = run.history.isel(evaluation=-1)
        row = {"step": run.step, "cpu_s": time.process_time() - began}
        row |= {key: float(last[key]) for key in run.history if key.startswith("test_")}
        rows.append(row | measure(vae, data, textures))
        table.write_text(json.dumps(rows, indent=1))
        print(name, json.dumps({k: round(v, 3) for k, v in rows[-1].items()}), flush=True)
    return rows


def table(results: dict[str, Any]) -> None:
    """The recorded results in Markdown, as in docs/recipes.md."""
    columns = {
        "held-out ELBO": ("test_elbo", ".1f"),
        "active z1": ("active_z1", ".0f"),
        "active z2": ("active_z2", ".0f"),
        "KL z2": ("test_kl_z2", ".1f"),
        "z2 decodes": ("decode_z2_mean", ".2f"),
        "z1": ("decode_z1_mean", ".2f"),
        "norm": ("decode_norm", ".2f"),
        "pixels": ("decode_pixels", ".2f"),
    }
    print("| recipe | steps | CPU min | " + " | ".join(columns) + " |\n|---" + "|--:" * (len(columns) + 2) + "|")
    for name, result in results.items():
        label, minutes = name, 0.0
        for row in result.get("stages", []):
            minutes += row["cpu_s"] / 60
            cells = [format(row[key], spec) if key in row else "" for key, spec in columns.values()]
            print("| " + " | ".join([label, f"{row['step']:,}", f"{minutes:.1f}", *cells]) + " |")
            label = ""
        if "failed" in result:
            print(f"| {name} | failed: {result['failed']} |" + " |" * (len(columns) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="embedded", help="photographs: embedded, or a folder")
    parser.add_argument("--textures", default="embedded", help="texture photographs: embedded, a folder, or none")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=RECIPES, metavar="NAME")
    parser.add_argument("--train-patches", type=int, default=300_000)
    parser.add_argument("--stages", type=int, default=4, help="measurements along a run")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--table", action="store_true", help="print what was measured as a table, and measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        return table(json.loads(RESULTS.read_text()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.recipes:
        recipe = RECIPES[name]
        data = patches(arguments.images, recipe.contrast, arguments.train_patches, arguments.out)
        result = {"recipe": asdict(recipe), "images": Path(arguments.images).name, "torch": torch.__version__}
        if recipe.families == ("normal",):
            result["optimum"] = ppca_optimum(data, 0.4, 2000)
        try:
            result["stages"] = train(name, recipe, data, arguments.textures, arguments.out, arguments.stages)
        except HVAEError as error:
            result["failed"] = str(error)
            print(f"{name}: failed: {error}")
        results[name] = result
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
