"""Synthesised texture images on disk, one file each, and the patches cut from them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.lib.stride_tricks import sliding_window_view

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.controls import control as named_control
from pyro_hvae.stimuli.displays import check_size
from pyro_hvae.stimuli.intensity import IntensityMap
from pyro_hvae.stimuli.patches import PatchData, patch_dataset
from pyro_hvae.stimuli.seeds import train_and_test_generators
from pyro_hvae.stimuli.texture_preprocessing import (
    check_texture_preprocessing,
    intensity_maps,
    recorded,
    texture_transform,
)
from pyro_hvae.stimuli.whitening import Whitening
from pyro_hvae.storage.writing import replacing

CHUNK = 8192  # patches in memory at once


@dataclass(frozen=True)
class SynthesisedImage:
    """One file of a folder of synthesised images."""

    path: Path
    family: str
    number: int

    @property
    def name(self) -> str:
        """`family-number`."""
        return self.path.stem

    def luminance(self) -> np.ndarray:
        """The image (y, x), float32, not negative."""
        return np.maximum(self._read()["image"], 0)

    def losses(self) -> np.ndarray:
        """Loss before every outer step, and at the end."""
        return self._read()["losses"]

    def _read(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return {name: archive[name] for name in ("image", "losses")}
        except Exception as error:  # zip and numpy raise many kinds on damaged files
            raise HVAEError(
                f"{self.path}: not a synthesised image, or a damaged one ({type(error).__name__}: {error}); delete it and "
                "synthesise again: images that are there are not made twice."
            ) from error


def image_path(folder: Path, family: str, number: int) -> Path:
    """Where an image is kept."""
    return folder / f"{family}-{number:03d}.npz"


def write_image(path: Path, image: np.ndarray, losses: Sequence[float]) -> None:
    """Write one synthesised image, complete or not at all."""
    with replacing(path, overwrite=True, schema=None) as partial, open(partial, "wb") as file:
        np.savez(file, image=image.astype(np.float32), losses=np.asarray(losses, np.float64))


def read_manifest(folder: Path) -> dict[str, Any]:
    """`manifest.json` of a folder of synthesised images: families, images a family, options, examples."""
    try:
        return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HVAEError(f"{folder}: not a folder of synthesised images (manifest.json: {error}).") from error


def synthesised_images(folder: str | os.PathLike) -> list[SynthesisedImage]:
    """The images of a folder in which synthesis is complete; `HVAEError` names what is missing."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    images = [
        SynthesisedImage(image_path(folder, family, number), family, number)
        for family in manifest["families"]
        for number in range(manifest["images"])
    ]
    missing = [image.name for image in images if not image.path.is_file()]
    if missing:
        raise HVAEError(
            f"{folder}: {len(missing)} of {len(images)} images are not there yet ({', '.join(missing[:4])} …); run the "
            "synthesis again with the same options: it goes on where it stopped."
        )
    return images


@checked
def synthesised_patches(
    images: str | os.PathLike,
    *,
    out: str | os.PathLike,
    transform: Whitening,
    size: int = 20,
    train: int = 64_000,
    test: int = 6_400,
    test_fraction: float = 1 / 3,
    centre: bool = True,
    control: str = "none",
    intensity: str = "own",
    whitening: str = "natural",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Labelled patches of a folder of synthesised texture images, preprocessed and written to `out`.

    `images`
        A folder made by `pyro_hvae.synthesis`. The last `test_fraction` of the images of every family (at least one)
        are for testing, the others for training.
    `train`, `test`
        Numbers of patches, the same for every family and for every image of a family up to one, at different random
        places.
    `centre`, `control`
        As for `texture_patches`, applied to each image.
    `intensity`, `whitening`
        As for `texture_patches`: fitted on the training images of each family, and on the training patches.

    Memory does not grow with the number of patches: 8192 are held at once, and one image. `source` names the image.
    Raises `HVAEError` for a folder where images are missing, a transform of another size, an unknown choice, more patches
    than places.
    """
    check_texture_preprocessing(intensity, whitening)
    check_size(transform, size)
    if not 0 < test_fraction < 1:
        raise HVAEError(f"test_fraction is {test_fraction}; expected a number between 0 and 1.")
    named_control(control)
    folder = Path(images)
    manifest = read_manifest(folder)
    per_family = manifest["images"]
    if per_family < 2:
        raise HVAEError(f"{folder}: one image a family; training and test sets need at least one each.")
    held_out = min(per_family - 1, max(1, round(per_family * test_fraction)))
    everything = synthesised_images(folder)
    side = everything[0].luminance().shape
    images_of, plans = {}, {}
    for split, total, rng in zip(("train", "test"), (train, test), train_and_test_generators(seed), strict=True):
        images_of[split] = [i for i in everything if (i.number >= per_family - held_out) == (split == "test")]
        plans[split] = _plan(images_of[split], total, side, size, split, rng)
    reads = {
        family: [image.luminance for image in images_of["train"] if image.family == family]
        for family in manifest["families"]
    }
    maps = intensity_maps(intensity, reads, transform)

    def matched(split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return _matched(images_of[split], plans[split], size, maps, centre, control, seed)

    used = texture_transform(intensity, whitening, maps, lambda: (x for _, x in matched("train")), transform)
    chunks = {split: _whitened(images_of[split], split, used, matched(split)) for split in plans}
    counts = {split: len(plan) for split, plan in plans.items()}
    options = {
        "size": size,
        "test_fraction": test_fraction,
        "centre": centre,
        "control": control,
        "intensity": intensity,
        "whitening": whitening,
        "seed": seed,
        "transform": transform.options,
    }
    provenance = {"kind": "synthesised", "synthesis": manifest, "options": options, **counts}
    nothing = np.empty((0, size**2))
    none = {split: recorded(patch_dataset(nothing, split=split), intensity, whitening) for split in plans}
    empty = PatchData(none["train"], none["test"], used, size, provenance)
    return empty.write(out, chunks, overwrite=overwrite)


def _plan(
    images: list[SynthesisedImage], total: int, shape: tuple[int, ...], size: int, split: str, rng: np.random.Generator
) -> np.ndarray:
    """Image index, row and column (patch, 3) of every patch, in random order."""
    families = sorted({image.family for image in images})
    each = total // len(families)
    if each < 1:
        raise HVAEError(f"{split}={total} is less than one patch for each of {len(families)} families.")
    rows, columns = (n - size + 1 for n in shape)
    per_image = len(images) // len(families)
    if min(rows, columns) < 1 or -(-each // per_image) > rows * columns:
        raise HVAEError(
            f"{each:,} {split} patches of each family asked for, and its {per_image} image(s) of {shape[0]}×{shape[1]} "
            f"pixels hold {max(0, rows) * max(0, columns) * per_image:,} different {size}×{size} patches; synthesise "
            "more images, or ask for fewer."
        )
    plan = []
    for family in families:
        members = [index for index, image in enumerate(images) if image.family == family]
        for order, index in enumerate(members):
            count = each // per_image + (order < each % per_image)
            places = rng.choice(rows * columns, count, replace=False)
            plan.append(np.stack([np.full(count, index), *np.divmod(places, columns)], axis=1))
    joined = np.concatenate(plan).astype(np.int32)
    return joined[rng.permutation(len(joined))]


def _matched(
    images: list[SynthesisedImage],
    plan: np.ndarray,
    size: int,
    maps: Mapping[str, IntensityMap],
    centre: bool,
    control: str,
    seed: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parts of the plan with their matched patches (patch, pixel)."""
    alter = named_control(control)
    for start in range(0, len(plan), CHUNK):
        part = plan[start : start + CHUNK]
        x = np.empty((len(part), size**2), np.float32)
        for index in np.unique(part[:, 0]):
            image = images[index]
            matched = maps[image.family](image.luminance())
            if centre:
                matched -= matched.mean()
            if alter:
                stream = np.random.default_rng([seed, *image.name.encode()])
                matched = alter(matched, stream).astype(np.float32)
            here = part[:, 0] == index
            windows = sliding_window_view(matched, (size, size))
            x[here] = windows[part[here, 1], part[here, 2]].reshape(-1, size**2)
        yield part, x


def _whitened(
    images: list[SynthesisedImage],
    split: str,
    transform: Whitening,
    matched: Iterator[tuple[np.ndarray, np.ndarray]],
) -> Iterator[xr.Dataset]:
    names = np.array([image.name for image in images])
    families = np.array([image.family for image in images])
    for part, x in matched:
        yield patch_dataset(
            transform(x), split=split, source=names[part[:, 0]], family=families[part[:, 0]],
            row=part[:, 1], column=part[:, 2],
        )  # fmt: skip
