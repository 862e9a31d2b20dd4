"""How fast training gets where: recipes compared on held-out patches, step by step.

    python benchmarks/recipes.py --images van_hateren --textures brodatz --out runs/recipes [--recipes "fast, ladder" …]

For every recipe the held-out ELBO, the dimensions in use, localized fields, KL of z2, how well texture families can be told
from z2 (against the patch norm, which is contrast, and pixels), and for how many images the guide's posterior can be
believed, over the steps. A recipe that was stopped goes on where it was. For the linear Normal
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
from pyro_hvae.analysis import active_dimensions, decode_family, gabor_fits
from pyro_hvae.errors import HVAEError
from pyro_hvae.published import Training
from pyro_hvae.stimuli import PatchData, concatenate, natural_patches, texture_patches
from pyro_hvae.storage.pareto_limits import GOOD_K
from pyro_hvae.training.config import fill_in
from pyro_hvae.training.run_directory import RunDirectory

RESULTS = Path(__file__).parent / "results" / "recipes.json"
FEATURES = ("pixels", "norm", "power_spectrum", "z1_mean", "z2_mean")


@dataclass(frozen=True)
class Recipe:
    """How a pair is started and trained."""

    preset: str = "TDVAE20"
    guide: str | None = None
    recipe: str = "published"
    """Of the package, by name; what stands below is then left to it."""
    guide_options: tuple[tuple[str, str], ...] = ()
    """Of the ladder guide, where they are not the defaults."""
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


def _fast(steps: int = 8000, **options: Any) -> Recipe:
    return Recipe(recipe="fast", steps=steps, **options)


_THIRD = dict(steps=6666, learning_rate="0:1e-3,4000:1e-3,6666:1e-4", beta="0:0.1,3333:1")
_EXACT = dict(preset="LinearVAE20", families=("normal",), beta=None, gradient="rao_blackwell", start="linear_regime")
RECIPES = {
    "fast, ladder": _fast(guide="ladder"),
    "fast, ladder, longer": _fast(50_000, guide="ladder"),
    "fast, ladder reading the image": _fast(guide="ladder", guide_options=(("reads", "image"),)),
    "fast, ladder reading the image, full": _fast(guide="ladder", guide_options=(("reads", "image"), ("top", "full"))),
    "fast, ladder, full": _fast(guide="ladder", guide_options=(("top", "full"),)),
    "fast": _fast(16_000),
    "fast, LinearVAE": _fast(preset="LinearVAE20"),
    "fast, LinearVAE, ladder": _fast(preset="LinearVAE20", guide="ladder"),
    "fast, LinearVAE Normal, ladder": _fast(preset="LinearVAE20", guide="ladder", families=("normal",)),
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


TRUSTED_IMAGES, TRUSTED_DRAWS = 200, 1000


def measure(vae: hvae.HVAE, data: PatchData, textures: str) -> dict[str, float]:
    """Dimensions in use, localized fields, texture decoding, and trust in the guide's posterior."""
    sets = [data.test.isel(image=slice(1000))]
    if textures != "none":
        labelled = texture_patches(  # through the natural map, as all rows of docs/recipes.md
            20, textures, transform=data.transform, train=4000, test=2000, seed=1, intensity="natural"
        )
        sets += [labelled.train, labelled.test]
    tree = hvae.export_posterior(vae, concatenate(*sets), moment_draws=8, prior_samples=2, transform=data.transform)
    counts = active_dimensions(tree)["count"]
    found = {f"active_{site}": float(counts.sel(site=site)) for site in counts["site"].values}
    found["localized"] = float(gabor_fits(tree)["localized_count"])
    x = torch.from_numpy(data.test["x"].values[:TRUSTED_IMAGES])
    evidence = hvae.evidence_importance_sampling(vae, x, TRUSTED_DRAWS, seed=0)
    found["log_evidence"] = float(evidence["log_evidence"].mean())
    found["k_below_0.7"] = float((evidence["pareto_k"] < GOOD_K).mean())
    found["median_k"] = float(evidence["pareto_k"].median())
    found["median_ess"] = float(evidence["ess"].median()) / TRUSTED_DRAWS
    if textures != "none":
        features = [f for f in FEATURES if f != "z2_mean" or "z2" in vae.latents]
        accuracy = decode_family(tree, features, repeats=3)["accuracy"]
        accuracy = accuracy.mean([d for d in accuracy.dims if d != "feature"])
        found |= {f"decode_{f}": float(accuracy.sel(feature=f)) for f in features}
    return found


def folder(name: str, out: Path, seed: int = 0) -> Path:
    return out / (name.replace(", ", "-").replace(" ", "_") + (f"-seed{seed}" if seed else ""))


def begin(recipe: Recipe, data: PatchData, out: Path, seed: int, resumed: bool) -> hvae.HVAE:
    """The pair as the recipe starts it; where a checkpoint is about to be loaded, without the start."""
    if recipe.after is None:
        start = recipe.start if recipe.recipe == "published" else None
        return hvae.build(
            recipe.preset, guide=recipe.guide, families=recipe.families, recipe=recipe.recipe, data=data, seed=seed,
            start="default" if resumed else start,
            guide_options=dict(recipe.guide_options),
        )  # fmt: skip
    torch.manual_seed(seed)
    return hvae.start_from_energies(
        hvae.load(folder(recipe.after, out)), torch.from_numpy(data.train["x"].values[:4000])
    )


def options(recipe: Recipe, vae: hvae.HVAE) -> dict[str, Any]:
    """What ``fit`` is told. Schedules are fixed for the whole run here, since it is trained in stages."""
    if recipe.recipe == "published":
        beta = None if recipe.beta is None else {"z2": recipe.beta}
        objective = hvae.ELBO(gradient=recipe.gradient)
        return dict(
            batch=recipe.batch, learning_rate=recipe.learning_rate, beta=beta, clip=recipe.clip, objective=objective
        )
    whole = fill_in(vae, Training(steps=recipe.steps))
    return dict(learning_rate=whole.learning_rate, beta=dict(whole.beta))


def train(
    name: str, recipe: Recipe, data: PatchData, textures: str, out: Path, stages: int, seed: int
) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Train in stages; measure after each. Also returns how the pair was started."""
    run_folder = folder(name, out, seed)
    table = run_folder / "stages.json"
    rows = json.loads(table.read_text()) if table.exists() else []
    vae = None
    for stage in range(len(rows), stages):
        resumed = (run_folder / "config.json").exists()
        began = time.process_time()
        vae = begin(recipe, data, out, seed, resumed)
        started = time.process_time() - began
        if stage == 0 and recipe.after is not None:
            print(f"{name}: as started: {json.dumps(measure(vae, data, textures))}", flush=True)
        began = time.process_time()
        run = hvae.fit(
            vae, data, **options(recipe, vae), seed=seed,
            steps=recipe.steps * (stage + 1) // stages, out=run_folder, resume=resumed,
            compile=True, log_every=100, evaluate_every=10**9, checkpoint_every=500, device="auto",
        )  # fmt: skip
        if run.interrupted:
            raise SystemExit(f"{name}: interrupted at step {run.step}; the same command goes on")
        last = run.history.isel(evaluation=-1)
        row = {"step": run.step, "cpu_s": time.process_time() - began, "start_cpu_s": started}
        row |= {key: float(last[key]) for key in run.history if key.startswith("test_")}
        rows.append(row | measure(vae, data, textures))
        table.write_text(json.dumps(rows, indent=1))
        print(name, json.dumps({k: round(v, 3) for k, v in rows[-1].items()}), flush=True)
    return rows, RunDirectory.open(run_folder).config.get("starts", [])


def table(results: dict[str, Any]) -> None:
    """The recorded results in Markdown, as in docs/recipes.md."""
    columns = {
        "held-out ELBO": ("test_elbo", ".1f"),
        "active z1": ("active_z1", ".0f"),
        "localized": ("localized", ".0f"),
        "active z2": ("active_z2", ".0f"),
        "KL z2": ("test_kl_z2", ".1f"),
        "z2 decodes": ("decode_z2_mean", ".2f"),
        "z1": ("decode_z1_mean", ".2f"),
        "norm": ("decode_norm", ".2f"),
        "pixels": ("decode_pixels", ".2f"),
        "log p(x)": ("log_evidence", ".1f"),
        "k-hat < 0.7": ("k_below_0.7", ".0%"),
        "median ESS": ("median_ess", ".1%"),
    }
    print("| recipe | steps | CPU min | " + " | ".join(columns) + " |\n|---" + "|--:" * (len(columns) + 2) + "|")
    for name, result in results.items():
        label, minutes = name, 0.0
        for row in result.get("stages", []):
            minutes += (row["cpu_s"] + row.get("start_cpu_s", 0)) / 60
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--table", action="store_true", help="print what was measured as a table, and measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        return table(json.loads(RESULTS.read_text()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.recipes:
        recipe = RECIPES[name]
        data = patches(arguments.images, recipe.contrast, arguments.train_patches, arguments.out)
        result = {"recipe": asdict(recipe), "images": Path(arguments.images).name, "torch": torch.__version__}
        if recipe.families == ("normal",):
            result["optimum"] = ppca_optimum(data, 0.4, 2000)
        try:
            result["stages"], result["starts"] = train(
                name, recipe, data, arguments.textures, arguments.out, arguments.stages, arguments.seed
            )
        except HVAEError as error:
            result["failed"] = str(error)
            print(f"{name}: failed: {error}")
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # another process may have written
        results[name + (f" (seed {arguments.seed})" if arguments.seed else "")] = result
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
