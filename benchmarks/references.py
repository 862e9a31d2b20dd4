"""The trained pairs that ship: trained on the embedded photographs, packed into ``data/reference/``.

    python benchmarks/references.py [--only NAME …] [--out runs/references]

Restartable: a finished run is not trained again. The photographs are those inside scikit-image and scikit-learn, of which
``data/README.md`` states the terms; the held-out patches that are packed come from two in the public domain (CC0).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pyro_hvae as hvae
from pyro_hvae.stimuli import PatchData, concatenate, natural_patches, texture_patches
from pyro_hvae.training.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "reference"
REFERENCES: dict[str, dict[str, Any]] = {
    "TDVAE20-ladder": {"name": "TDVAE20", "guide": "ladder"},
    "TDVAE20": {"name": "TDVAE20"},
    "LinearVAE20": {"name": "LinearVAE20", "guide": "ladder"},
    "LinearVAE20n": {"name": "LinearVAE20", "guide": "ladder", "families": ("normal",)},
    "ChainVAE20": {"name": "ChainVAE20"},
    "SkipVAE20": {"name": "SkipVAE20"},
}
STEPS, PATCHES, HELD_OUT = 8000, 200_000, 100
LIMIT = 6_000_000  # bytes of a reference
NOTE = (
    "Photographs: camera, chelsea (CC0) and motorcycle (Middlebury 2014 stereo benchmark) of scikit-image; china "
    "(danielbuechele, CC BY 2.0) and flower (vultilion, CC BY 2.0) of scikit-learn. Held-out patches: coffee (CC0) and rocket "
    "(public domain). Five photographs are few: fields are Gabor-like, but held-out patches are less likely than under pairs "
    "trained on a database of natural images. To reproduce a published figure, train on one."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(REFERENCES), choices=REFERENCES, metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/references"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "patches.nc"
    if not file.exists():
        natural_patches(train=PATCHES, test=5000).save(file)
    data = PatchData.load(file)
    textures = texture_patches(20, transform=data.transform, train=42, test=18)
    for name in arguments.only:
        options, folder = REFERENCES[name], arguments.out / name
        resumed = bool(list((folder / "checkpoints").glob("step-*.safetensors")))
        if not resumed or RunDirectory.open(folder).latest().step < STEPS:
            start = "default" if resumed else None
            vae = hvae.build(**options, recipe="fast", data=data, seed=0, start=start)
            run = hvae.fit(
                vae, data, steps=STEPS, out=folder, seed=0, resume=resumed, overwrite=not resumed and folder.exists(),
                log_every=200, checkpoint_every=500,
            )  # fmt: skip
            if run.interrupted:
                raise SystemExit(f"{name}: interrupted at step {run.step}; the same command goes on")
        shutil.rmtree(SHIPPED / name, ignore_errors=True)
        packed = hvae.pack(folder, SHIPPED / name, held_out=HELD_OUT, licence="CC-BY-4.0", note=NOTE)
        images = concatenate(data.test.isel(image=slice(30)), textures.train, textures.test)
        posterior = packed / "posterior.nc"
        hvae.export_posterior(
            hvae.load(packed), images, path=posterior, prior_samples=16, receptive_fields=0, evidence=500, evidence_images=40,
        ).close()  # fmt: skip
        size = sum(f.stat().st_size for f in packed.iterdir())
        if size > LIMIT:
            posterior.unlink()
        print(f"{name}: {size / 1e6:.2f} MB{', without its posterior file' if size > LIMIT else ''}", flush=True)


if __name__ == "__main__":
    main()
