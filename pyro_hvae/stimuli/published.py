"""The patches that the authors of [C22] published (Zenodo 6644895, 10245168): already preprocessed, with labels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.patches import PatchData, patch_dataset, side_of
from pyro_hvae.stimuli.seeds import train_and_test_generators
from pyro_hvae.stimuli.sources import Published, open_source


@checked
def published_patches(
    path: str | os.PathLike, *, train: int | None = None, test: int | None = None, seed: int = 0
) -> PatchData:
    """Read a pickle, `.npz` or `.nc` file with `train_images`, `train_labels`, `test_images`, `test_labels`.

    Images are flattened square patches (image, pixel), preprocessed already, so `transform` is None; labels (optional;
    one per image, or one-hot) become `family`. `train` and `test` keep a random subset of that many, drawn with `seed`.
    Pickles are read by `read_pickle`, which runs nothing of them. Raises `HVAEError` naming the file and what is wrong.
    """
    opened = open_source(Path(path), embedded={}, size=1, gamma="auto", downsample=None)
    if not isinstance(opened.content, Published):
        raise HVAEError(
            f"{path}: not a file of published patches; expected a .pkl, .npz or .nc file with train_images."
        )
    return from_published(opened.content, size=None, train=train, test=test, seed=seed)


def from_published(
    published: Published, *, size: int | None, train: int | None, test: int | None, seed: int
) -> PatchData:
    """`PatchData` of an opened file; `HVAEError` where its patches are not of side `size` (None: any)."""
    path, sets = published.path, []
    for split, count, rng in zip(("train", "test"), (train, test), train_and_test_generators(seed), strict=True):
        where = f"{path}: {split}_images"
        images = _images(published.arrays[f"{split}_images"], where)
        side = side_of(images.shape[1], where)
        if size is None:
            size = side
        if side != size:
            raise HVAEError(f"{where}: patches of {side}×{side} pixels, and {size}×{size} expected.")
        family = _families(published.arrays.get(f"{split}_labels"), len(images), f"{path}: {split}_labels")
        if count is not None:
            if count > len(images):
                raise HVAEError(f"{where}: {count:,} asked for, {len(images):,} there.")
            keep = np.sort(rng.choice(len(images), count, replace=False))
            images, family = images[keep], family[keep]
        sets.append(patch_dataset(images, split=split, source=path.stem, family=family))
    assert size is not None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {
        "kind": "published",
        "source": str(path),
        "sources": [{"name": path.name, "sha256": digest, "split": "as in the file"}],
        "options": {"size": size, "seed": seed},
        "train": sets[0].sizes["image"],
        "test": sets[1].sizes["image"],
    }
    return PatchData(sets[0], sets[1], None, size, provenance)


def _images(value: Any, where: str) -> np.ndarray:
    images = np.asarray(value)
    if images.dtype.kind not in "uif" or images.ndim not in (2, 3) or not len(images):
        raise HVAEError(f"{where}: type {images.dtype}, shape {images.shape}; expected numbers (image, pixel).")
    images = images.reshape(len(images), -1).astype(np.float32)
    if not np.isfinite(images).all():
        raise HVAEError(f"{where}: holds NaN or infinite values.")
    return images


def _families(value: Any, n: int, where: str) -> np.ndarray:
    """Family names as strings: whole numbers without decimals, one-hot rows as the index of their one."""
    if value is None or np.size(value) == 0:
        return np.full(n, "")
    labels = np.asarray(value)
    if labels.size == n:
        labels = labels.reshape(n)
    elif labels.ndim == 2 and len(labels) == n and ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all():
        labels = labels.argmax(axis=1)
    else:
        raise HVAEError(f"{where}: shape {labels.shape}; expected one label for each of {n} images, or one-hot rows.")
    if labels.dtype.kind == "f" and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    return np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels.astype(str)
