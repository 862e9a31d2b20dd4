"""Time and memory of the whole report at the size of a paper: four models, 5,000 texture and 5,000 natural images each.

    python benchmarks/report_scale.py --dir scratch

Posterior files are planted (their numbers are made up, their sizes and layout are real): TDVAE20 and SkipVAE20 with the
noise correlations of 100 z1 units, ChainVAE20 and LinearVAE20 without noise correlations. Needs neither torch nor pyro.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr

from pyro_hvae.analysis.gabor import gabor
from pyro_hvae.report import analyse
from pyro_hvae.storage.posterior_file import ROOT_ATTRIBUTES, PosteriorWriter

SIDE, Z1, Z2, UNITS, DRAWS, CHUNK = 20, 450, 20, 100, 64, 500
ACTIVE = 314
FAMILIES = ("bubbles", "carpet", "leather", "oat", "soil")
MODELS = {
    "TDVAE20": ("MarkovModel", "TopDownGuide"),
    "ChainVAE20": ("MarkovModel", "BottomUpGuide"),
    "SkipVAE20": ("SkipModel", "TopDownGuide"),
    "LinearVAE20": ("LinearModel", "MeanFieldGuide"),
}


def plant(path: Path, preset: str, natural: int, texture: int, seed: int) -> None:
    """Write a posterior file of ``natural`` and ``texture`` images, chunk by chunk."""
    rng = np.random.default_rng(seed)
    model, guide = MODELS[preset]
    layers = ["z1"] if preset == "LinearVAE20" else ["z1", "z2"]
    weights = generative_map(rng)
    drive = rng.normal(size=(Z2, Z1)) / np.sqrt(Z2)
    attrs = dict.fromkeys(ROOT_ATTRIBUTES, "") | {
        "preset": preset, "model": model, "guide": guide, "objective": "ELBO", "particles": 1, "seed": seed,
        "configuration": {"posterior": {"draws": 0, "resample": None, "moment_draws": DRAWS}},
    }  # fmt: skip
    family = np.array([""] * natural + [FAMILIES[k % len(FAMILIES)] for k in range(texture)])
    split = np.where(np.arange(len(family)) % 3 == 2, "test", "train")
    with PosteriorWriter(path, {k: v for k, v in attrs.items() if k != "created"}) as writer:
        for start in range(0, len(family), CHUNK):
            here = slice(start, min(start + CHUNK, len(family)))
            writer.append(images(layers, guide, family[here], split[here], weights, drive, rng))
        constants: dict = {"A": (("pixel", "z1_dim"), weights), "c": ("pixel", np.zeros(SIDE**2)), "sigma": ((), 0.4)}
        if "z2" in layers:
            constants["z2_field"] = (("z2_dim", "pixel"), drive @ weights.T)
            constants["z2_to_z1_location"] = (("z2_dim", "z1_dim"), 0.1 * drive)
            constants["z2_to_z1_log_scale"] = (("z2_dim", "z1_dim"), drive)
        samples = rng.laplace(size=(500, Z1)) @ weights.T
        prior = {"x_mean": (("sample", "pixel"), samples)}
        writer.write({"constant_data": xr.Dataset(constants), "prior_predictive": xr.Dataset(prior)})


def generative_map(rng: np.random.Generator) -> np.ndarray:
    """A: Gabors of unit norm and as many columns next to nothing as a trained model leaves, ``(pixel, z1_dim)``."""
    p = np.zeros((ACTIVE, 8))
    p[:, :2], p[:, 2] = rng.uniform(2, SIDE - 3, (ACTIVE, 2)), rng.uniform(0, np.pi, ACTIVE)
    p[:, 3], p[:, 4:6] = rng.uniform(0.1, 0.35, ACTIVE), np.log(rng.uniform(1.5, 3.0, (ACTIVE, 2)))
    p[:, 6:] = rng.normal(size=(ACTIVE, 2))
    fields = gabor(p, SIDE) + 0.02 * rng.normal(size=(ACTIVE, SIDE**2))
    fields /= np.linalg.norm(fields, axis=1, keepdims=True)
    return np.concatenate([fields.T, 1e-5 * rng.normal(size=(SIDE**2, Z1 - ACTIVE))], 1)


def images(
    layers: list[str],
    guide: str,
    family: np.ndarray,
    split: np.ndarray,
    weights: np.ndarray,
    drive: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, xr.Dataset]:
    """The per-image groups of one chunk: z2 tells the family, and scales z1."""
    n = len(family)
    z2 = rng.normal(size=(n, Z2))
    for k, name in enumerate(FAMILIES):
        z2[family == name, k] += 2.0
    z1 = rng.laplace(size=(n, Z1)) * np.exp(0.3 * z2 @ drive)
    mean = z1 @ weights.T
    x = mean + 0.4 * rng.normal(size=mean.shape)
    share = 0.0 if guide == "BottomUpGuide" else 0.2
    moments = {"z1_mean": z1, "z1_variance": np.full_like(z1, 0.1), "z1_kl": rng.gamma(2.0, 0.3, z1.shape)}
    if "z2" in layers:
        moments |= {"z2_mean": z2, "z2_variance": np.full_like(z2, 0.2), "z2_kl": rng.gamma(2.0, 0.3, z2.shape)}
        moments["z1_variance_from_z2"] = np.full_like(z1, 0.1 * share)
    posterior = xr.Dataset({name: (("image", f"{name[:2]}_dim"), values) for name, values in moments.items()})
    if share and "z2" in layers:
        noise = rng.normal(size=(n, DRAWS, Z2)) * (1 + np.abs(z2[:, None]))
        conditional = noise @ drive[:, :UNITS]
        conditional -= conditional.mean(1, keepdims=True)
        conditional /= np.linalg.norm(conditional, axis=1, keepdims=True)
        r = share * (conditional.transpose(0, 2, 1) @ conditional)
        r[:, range(UNITS), range(UNITS)] = 1.0
        posterior["z1_correlation"] = (("image", "unit", "unit_bis"), r)
        posterior = posterior.assign_coords(unit=np.arange(UNITS), unit_bis=np.arange(UNITS))
    reconstruction = -250 + 10 * rng.normal(size=n)
    kl = {f"{name}_kl": ("image", moments[f"{name}_kl"].sum(1)) for name in layers}
    elbo = reconstruction - sum(values for _, values in kl.values())
    pixel = ("image", "pixel")
    return {
        "posterior_moments": posterior,
        "posterior_predictive": xr.Dataset({"x_mean": (pixel, mean), "x_variance": (pixel, np.full_like(mean, 0.2))}),
        "bound": xr.Dataset({"elbo": ("image", elbo), "reconstruction": ("image", reconstruction)} | kl),
        "observed_data": xr.Dataset({"x": (pixel, x)}),
        "constant_data": xr.Dataset(coords={"family": ("image", family), "split": ("image", split)}),
    }


def main() -> int:
    """Plant, analyse, print seconds and peak memory; exit status 1 beyond 5 minutes or 4 GiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="where the files (1.5 GB) and the report go")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--natural", type=int, default=5000)
    parser.add_argument("--texture", type=int, default=5000)
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    paths = [arguments.dir / f"{preset}.nc" for preset in arguments.models]
    for seed, (preset, path) in enumerate(zip(arguments.models, paths, strict=True)):
        if not path.exists():
            plant(path, preset, arguments.natural, arguments.texture, seed)
    started, cpu = time.perf_counter(), time.process_time()
    page = analyse(paths, arguments.dir / "report", overwrite=True)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    loaded = sorted({"torch", "pyro"} & set(sys.modules))
    print(
        f"{page}: {seconds:.0f} s ({cpu:.0f} s of processor time), peak {gib:.2f} GiB, torch or pyro: {loaded or 'none'}"
    )
    return int(seconds > 300 or gib > 4)


if __name__ == "__main__":
    raise SystemExit(main())
