"""Floors of texture decoding, and patch norms against natural ones, under every choice of preprocessing.

    python benchmarks/texture_floors.py                                              # embedded photographs
    python benchmarks/texture_floors.py --images van_hateren --textures brodatz      # folders

A row a choice: how often the texture family is told from pixels, from the patch norm (contrast alone) and the power spectrum
(`decode_family`, with its 95% interval), and the median norm of test patches of every family over that of held-out natural
patches. Choices are those of `texture_patches`: whose histogram is matched to the unit normal, whose covariance whitens.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import xarray as xr

from pyro_hvae.analysis import decode_family
from pyro_hvae.stimuli import PatchData, natural_patches, texture_patches
from pyro_hvae.stimuli.patches import concatenate
from pyro_hvae.stimuli.texture_preprocessing import INTENSITIES, WHITENINGS

FLOORS = ("pixels", "norm", "power_spectrum")


def floors(textures: PatchData, seed: int) -> list[str]:
    """Accuracy and 95% interval of every floor."""
    patches = concatenate(textures.train, textures.test)
    groups = {"observed_data": xr.Dataset({"x": patches["x"].variable}), "constant_data": patches.drop_vars("x")}
    found = decode_family(xr.DataTree.from_dict(groups), FLOORS, seed=seed)
    ends = found["accuracy_interval"].values
    return [f"{a:.2f} [{low:.2f}, {high:.2f}]" for a, (low, high) in zip(found["accuracy"].values, ends, strict=True)]


def relative_norms(textures: PatchData, natural: PatchData) -> dict[str, float]:
    """Median patch norm of each family over the median of natural patches."""
    norm, family = np.linalg.norm(textures.test["x"], axis=1), textures.test["family"].values
    usual = np.median(np.linalg.norm(natural.test["x"], axis=1))
    return {str(name): float(np.median(norm[family == name]) / usual) for name in np.unique(family)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="embedded", help="natural photographs: embedded, or a folder")
    parser.add_argument("--textures", default="embedded", help="texture photographs: embedded, or a folder")
    parser.add_argument("--size", type=int, default=20, help="side of a patch, in pixels")
    parser.add_argument("--train", type=int, default=4000, help="training patches of textures")
    parser.add_argument("--test", type=int, default=2000, help="test patches of textures")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    natural = natural_patches(arguments.size, arguments.images, train=64_000, test=6_400, seed=arguments.seed)
    assert natural.transform is not None
    for row, (whitening, intensity) in enumerate(itertools.product(WHITENINGS, INTENSITIES)):
        textures = texture_patches(
            arguments.size, arguments.textures, transform=natural.transform, train=arguments.train, test=arguments.test,
            seed=arguments.seed, intensity=intensity, whitening=whitening,
        )  # fmt: skip
        norms = relative_norms(textures, natural)
        if not row:
            names = ", ".join(name.replace("_", " ") for name in norms)
            print(f"{len(norms)} families, chance {1 / len(norms):.2f}; median norm in the order {names}\n")
            print("| intensity | whitening | pixels | patch norm | power spectrum | median norm / natural |")
            print("|---|---|---|---|---|---|")
        cells = [intensity, whitening, *floors(textures, arguments.seed), ", ".join(f"{n:.2f}" for n in norms.values())]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
