"""What docs/contrast.md says of contrast as a cause: pairs with and without c, on the embedded photographs, side by side.

    python benchmarks/contrast.py [--out runs/contrast] [--steps 1500] [--seeds 1] [--only NAME ...]

Each pair is trained by the fast recipe over --steps. Of each: the held-out bound and its terms, the yardsticks on the same
patches, the change of z1's posterior variance with contrast, how much of the log norm of a patch each layer tells (ridge
regression, held out), the share of z2's modulation of z1 that is the same for all units, and texture families decoded from z2
against the patch norm. Writes `benchmarks/results/contrast.json`, row by row; rows and runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_score

import pyro_hvae as hvae
from pyro_hvae.analysis import contrast_uncertainty, decode_family, modulation_fields
from pyro_hvae.physiology import measure_physiology
from pyro_hvae.stimuli import PatchData, natural_patches, texture_patches
from pyro_hvae.stimuli.patches import concatenate
from pyro_hvae.storage.writing import write_atomically

RESULTS = Path(__file__).parent / "results" / "contrast.json"
IMAGES, SHOWN, UNITS, TEXTURES = 2000, 64, 100, 1500
PENALTIES = np.logspace(-3, 4, 15)


@dataclass(frozen=True)
class System:
    """A preset under a guide."""

    preset: str
    guide: str
    options: dict[str, Any] = field(default_factory=dict)


SYSTEMS = {
    "LinearVAE20, ladder": System("LinearVAE20", "ladder"),
    "EA-LinearVAE20, ladder given c": System("EA-LinearVAE20", "ladder"),
    "TDVAE20, ladder": System("TDVAE20", "ladder"),
    "EA-TDVAE20, ladder given c": System("EA-TDVAE20", "ladder"),
    "EA-TDVAE20, ladder without c": System("EA-TDVAE20", "ladder", {"dependent": False}),
    "TDVAE20, top-down": System("TDVAE20", "top_down"),
    "EA-TDVAE20, top-down given c": System("EA-TDVAE20", "top_down"),
    "EA-LinearVAE20, as published": System("EA-LinearVAE20", "mean_field"),
}


def trained(name: str, data: PatchData, out: Path, steps: int, seed: int) -> hvae.HVAE:
    """The pair of a row, from its run directory where it is finished."""
    system, folder = SYSTEMS[name], out / f"{name.replace(', ', '-').replace(' ', '-')}-{steps}-{seed}"
    begun = any((folder / "checkpoints").glob("step-*.safetensors"))
    vae = hvae.build(
        system.preset, guide=system.guide, guide_options=system.options, recipe="fast", data=data, seed=seed
    )
    run = hvae.fit(vae, data, steps=steps, out=folder, resume=begun, overwrite=not begun, seed=seed, device="cpu")
    if run.interrupted:
        raise SystemExit(f"{folder}: stopped at step {run.step}")
    return run.vae


def told(features: np.ndarray, wanted: np.ndarray) -> float:
    """R² of ridge regression, mean over five held-out folds."""
    return float(cross_val_score(RidgeCV(PENALTIES), features, wanted, cv=5, scoring="r2").mean())


def row(vae: hvae.HVAE, data: PatchData, textures: xr.Dataset) -> dict[str, Any]:
    """What is said of a pair."""
    natural = data.test.isel(image=slice(IMAGES))
    options: dict[str, Any] = dict(moment_draws=16, prior_samples=1, receptive_fields=0)
    tree = hvae.export_posterior(vae, concatenate(natural, textures), transform=data.transform, **options)
    own = slice(natural.sizes["image"])
    bound, moments = tree["bound"].isel(image=own), tree["posterior_moments"].isel(image=own)
    elbo = bound["elbo"].values
    found: dict[str, Any] = {"elbo": float(elbo.mean()), "elbo_se": float(elbo.std(ddof=1) / np.sqrt(elbo.size))}
    found |= {name: float(bound[name].mean()) for name in bound if str(name).endswith("_kl")}
    wanted = 0.5 * np.log((natural["x"].values.astype(float) ** 2).mean(1))
    for site in vae.sites:
        mean = moments[f"{site}_mean"].values.astype(float)
        features = np.log(mean) if site == "c" else np.abs(mean) if site == "z1" else np.c_[mean, mean**2]
        found[f"{site}_tells_norm"] = told(features, wanted)
    shown = measure_physiology(
        vae, images=natural.isel(image=slice(SHOWN)), transform=data.transform, parts=["natural_contrast"], units=UNITS
    )
    slopes = contrast_uncertainty(shown)
    for site in slopes["layer"].values:
        found[f"{site}_variance_slope"] = float(slopes["slope"].sel(layer=site))
        found[f"{site}_variance_slope_se"] = float(slopes["slope_se"].sel(layer=site))
    if "z2" in vae.sites:
        fields = modulation_fields(tree)
        found["common"] = float(fields["common"])
        decoding = decode_family(tree)["accuracy"]
        found |= {f"families_{f}": float(decoding.sel(feature=f)) for f in decoding["feature"].values}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/contrast"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--train", type=int, default=40_000, help="training patches")
    arguments = parser.parse_args()
    data = natural_patches(20, train=arguments.train, test=IMAGES)
    sets = texture_patches(20, transform=data.transform, train=TEXTURES, test=TEXTURES)
    textures = concatenate(sets.train, sets.test)
    results = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    if "yardsticks" not in results:
        found = hvae.yardsticks(data.train, data.test, sigma=0.4)["log_density"]
        results["yardsticks"] = {
            str(name): float(found.sel(yardstick=name).mean()) for name in found["yardstick"].values
        }
    for seed in range(arguments.seeds):
        for name in arguments.only:
            rows = results.setdefault(name, {})
            if f"{arguments.steps}/{seed}" not in rows:
                rows[f"{arguments.steps}/{seed}"] = row(
                    trained(name, data, arguments.out, arguments.steps, seed), data, textures
                )
                text = json.dumps(results, indent=1) + "\n"
                write_atomically(RESULTS, lambda file, text=text: file.write_text(text, encoding="utf-8"))
            shown = rows[f"{arguments.steps}/{seed}"]
            print(name, {key: round(value, 3) for key, value in shown.items()}, flush=True)


if __name__ == "__main__":
    main()
