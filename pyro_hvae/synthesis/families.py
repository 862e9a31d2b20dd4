"""Families of textures: many synthesised images of each example, resumable, one file each."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.stimuli.examples import Example, texture_examples
from pyro_hvae.stimuli.synthesised import image_path, read_manifest, synthesised_patches, write_image
from pyro_hvae.stimuli.texture_preprocessing import check_texture_preprocessing
from pyro_hvae.stimuli.whitening import Whitening
from pyro_hvae.storage.writing import write_atomically
from pyro_hvae.synthesis.portilla_simoncelli import plenoptic, portilla_simoncelli
from pyro_hvae.synthesis.random_features import random_features, random_linear
from pyro_hvae.synthesis.result import Synthesis

METHODS: dict[str, tuple[Callable[..., Synthesis], int]] = {
    "portilla_simoncelli": (portilla_simoncelli, 30),
    "random_features": (random_features, 2000),
    "random_linear": (random_linear, 2000),
}
"""Name → function and the default number of steps."""


def synthesise(
    source: str | os.PathLike = "embedded",
    *,
    folder: str | os.PathLike,
    families: Sequence[str] = (),
    images: int = 6,
    method: str = "portilla_simoncelli",
    steps: int | None = None,
    size: int = 20,
    side: int | None = None,
    gamma: str = "auto",
    channel: str = "luminance",
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Synthesise `images` images of every family into `folder`, one file each; returns the folder.

    `source`, `families`, `size`, `side` (128 for the embedded photographs, 256 otherwise), `gamma` and `channel`: see
    `texture_examples`. `method`: `"portilla_simoncelli"` (30 steps by default), `"random_features"` or `"random_linear"`
    (2000). Interrupted at any time, the same call goes on with the first image that is missing, to the same result.
    Raises `HVAEError` where `folder` holds images made with other options.
    """
    if method not in METHODS:
        raise unknown("synthesis method", method, METHODS)
    make, default_steps = METHODS[method]
    if method == "portilla_simoncelli":
        plenoptic()
    steps = default_steps if steps is None else steps
    for name, number in (("images", images), ("steps", steps)):
        whole_number(name, number, 1)
    side = side or (128 if source == "embedded" else 256)
    examples = texture_examples(source, families=families, size=size, side=side, gamma=gamma, channel=channel)
    folder = Path(folder)
    options = dict(method=method, steps=steps, size=size, side=side, gamma=gamma, channel=channel, seed=seed)
    _keep_manifest(folder, _manifest(examples, images, options))
    started, made, total = time.monotonic(), 0, images * len(examples)
    for number in range(images):  # all families first, so that a first look at each comes early
        for example in examples:
            path = image_path(folder, example.family, number)
            if path.exists():
                continue
            result = make(example.image, steps=steps, seed=_seed_of(seed, example.family, number))
            write_image(path, result.image, result.losses)
            made += 1
            if progress:
                there = sum(1 for _ in folder.glob("*.npz"))
                left = (time.monotonic() - started) / made * (total - there)
                print(
                    f"{there}/{total} {path.stem}: loss {result.losses[0]:.3g} → {result.losses[-1]:.3g}, "
                    f"{left / 60:.0f} min left",
                    file=sys.stderr,
                    flush=True,
                )
    return folder


@checked
def synthesised_textures(
    source: str | os.PathLike = "embedded",
    *,
    out: str | os.PathLike,
    transform: Whitening,
    families: Sequence[str] = (),
    images: int = 6,
    method: str = "portilla_simoncelli",
    steps: int | None = None,
    size: int = 20,
    side: int | None = None,
    gamma: str = "auto",
    channel: str = "luminance",
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
    """Synthesise families (`synthesise`) into the folder `out` + `.images`, then cut patches (`synthesised_patches`).

    Images that are in the folder are not made again, so an interrupted call goes on when repeated, and `overwrite`
    concerns the patches only. Delete the folder when no more patches are wanted of it.
    """
    given = dict(locals())
    check_texture_preprocessing(intensity, whitening)  # before hours of synthesis
    folder = Path(f"{out}.images")
    synthesise(folder=folder, **_those_of(synthesise, given))
    cutting = _those_of(synthesised_patches, given | {"images": folder})
    return synthesised_patches(**cutting)


def _those_of(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """What of the arguments given to :func:`synthesised_textures` is an argument of the function."""
    return {name: given[name] for name in inspect.signature(function).parameters if name in given}


def _seed_of(seed: int, family: str, number: int) -> int:
    """A seed of its own for each image, whatever other families there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{family}/{number}".encode()).digest()[:7])


def _manifest(examples: list[Example], images: int, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "families": [example.family for example in examples],
        "images": images,
        "options": options,
        "examples": [
            {
                "family": example.family,
                "sha256": example.sha256,
                "period": example.period,
                "factor": example.factor,
                "fits": example.fits(options["size"]),
            }
            for example in examples
        ],
    }


def _keep_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new folder, or check that an old one says the same; the number of images may grow."""
    path = folder / "manifest.json"
    if path.exists():
        before = read_manifest(folder)
        differing = [key for key in ("families", "options", "examples") if before.get(key) != manifest[key]]
        if differing:
            raise HVAEError(
                f"{folder} holds images made with other {' and '.join(differing)}; give another path, or delete the folder."
            )
        manifest = manifest | {"images": max(manifest["images"], before["images"])}
    elif folder.exists() and any(folder.iterdir()):
        raise HVAEError(f"{folder} exists and is no folder of synthesised images; give another path.")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write_text(json.dumps(manifest, indent=1), encoding="utf-8"))
