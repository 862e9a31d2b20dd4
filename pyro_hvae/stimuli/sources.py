"""Where photographs come from: those that scikit-image and scikit-learn install, folders, files, arrays.

Embedded photographs (`data/README.md` has the same table with their licences). All are 8-bit sRGB; every one is
averaged over 2×2 pixels in linear luminance, which halves quantisation steps and JPEG's and demosaicing's traces at the
finest scale, where whitening would amplify them.

========== ============ ======= =========================================================
name       package      used    why
========== ============ ======= =========================================================
camera     scikit-image train   outdoor scene: man, lawn, buildings
chelsea    scikit-image train   animal: fur and whiskers
china      scikit-learn train   outdoor scene: pagoda and trees
coffee     scikit-image test    indoor scene: cup on a wooden table
flower     scikit-learn train   plant: petals and blurred leaves
motorcycle scikit-image train   indoor scene, many edges (left one of the stereo pair)
rocket     scikit-image test    outdoor scene: sky and lattice masts
brick      scikit-image texture homogeneous
grass      scikit-image texture homogeneous
gravel     scikit-image texture homogeneous
========== ============ ======= =========================================================

Held out are the two whose whitened variance is closest to the training photographs' average.

Left out: astronaut (studio backdrop clipped to black), coins (objects laid out on a stand), the second motorcycle
(same scene), moon and hubble_deep_field (astronomy), cell, ihc, microaneurysms, retina, phantom (medical), clock_motion
(motion blur), page and text (print), horse, color, logo, chessboard_* (drawings), lfw_subset (25-pixel faces), and
everything that scikit-image would download.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pyro_hvae.arguments import whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.pickles import read_pickle
from pyro_hvae.stimuli.readers import IMAGE_SUFFIXES, read_arrays, read_luminance, to_luminance

EMBEDDED_DOWNSAMPLE = 2
EMBEDDED_NATURAL = {
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
EMBEDDED_TEST = frozenset({"coffee", "rocket"})
EMBEDDED_TEXTURES = {name: ("skimage", f"data/{name}.png") for name in ("brick", "grass", "gravel")}
PICKLE_SUFFIXES = (".pkl", ".pickle", ".p")
ARRAY_SUFFIXES = (".npy", ".npz", ".nc")
PUBLISHED_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph, read when it is asked for."""

    name: str
    origin: Path | np.ndarray
    gamma: str = "auto"
    downsample: int = 1
    channel: str = "luminance"

    def luminance(self, size: int) -> np.ndarray:
        """Linear luminance (y, x) float32; `HVAEError` unless it varies and holds a `size`×`size` patch."""
        where = str(self.origin) if isinstance(self.origin, Path) else self.name
        if isinstance(self.origin, Path):
            image = read_luminance(self.origin, self.gamma, self.channel)
        else:
            image = to_luminance(self.origin, self.gamma, where, self.channel)
        f = self.downsample
        if f > 1:
            rows, columns = (n // f for n in image.shape)
            image = image[: rows * f, : columns * f].reshape(rows, f, columns, f).mean(axis=(1, 3))
        if min(image.shape) < size:
            after = f" after downsampling by {f}" if f > 1 else ""
            raise HVAEError(f"{where}: {image.shape[0]}×{image.shape[1]} pixels{after}; a patch has {size}×{size}.")
        if image.min() == image.max():
            raise HVAEError(f"{where}: every pixel is {image.flat[0]:g}, so there is nothing to learn; leave it out.")
        return image

    def sha256(self) -> str:
        """Digest of the file, or of the array's bytes."""
        if isinstance(self.origin, Path):
            with open(self.origin, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(np.ascontiguousarray(self.origin).tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class PatchStack:
    """Patches cut elsewhere, not preprocessed: luminance (image, y, x)."""

    name: str
    luminance: np.ndarray


@dataclass(frozen=True, eq=False)
class Published:
    """Patches that arrive already preprocessed, as the authors published theirs; keys of `PUBLISHED_KEYS`."""

    path: Path
    arrays: dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """What a source turned out to be. `ignored` names what else a folder holds: other files, subfolders."""

    content: list[Photograph] | PatchStack | Published
    ignored: tuple[str, ...] = ()


def open_source(
    source: str | os.PathLike | np.ndarray,
    *,
    embedded: dict[str, tuple[str, str]],
    size: int,
    gamma: str,
    downsample: int | None,
) -> Opened:
    """Find out what `source` is. Photographs come sorted by name, numbers in names by value.

    `source`: "embedded"; a folder of images; an image file; a `.npy`, `.npz` or `.nc` file or an array holding one
    image (y, x[, channel]), a stack (image, y, x[, channel]) or cut patches (image, size, size) or (image, size²); or a
    pickle, `.npz` or `.nc` file with `train_images` and `test_images`, which is taken as already preprocessed.
    """
    if downsample is not None:
        downsample = whole_number("downsample", downsample, 1)
    if isinstance(source, np.ndarray):
        return Opened(_from_array("array", source, size, gamma, downsample or 1))
    if source == "embedded":
        factor = EMBEDDED_DOWNSAMPLE if downsample is None else downsample
        return Opened([Photograph(n, _installed(*where), gamma, factor) for n, where in sorted(embedded.items())])
    if not str(source):  # as a path it would be the working directory
        raise HVAEError("image source '' is neither 'embedded' nor an existing folder or file.")
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, gamma, downsample or 1)
    if not path.exists():
        raise HVAEError(f"image source {str(source)!r} is neither 'embedded' nor an existing folder or file.")
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        return Opened(_published(path, read_pickle(path)))
    if suffix not in ARRAY_SUFFIXES:
        return Opened([Photograph(path.stem, path, gamma, downsample or 1)])
    arrays = read_arrays(path)
    if "train_images" in arrays:
        return Opened(_published(path, arrays))
    if len(arrays) != 1:
        raise HVAEError(
            f"{path}: holds {sorted(arrays)}; expected one array of images, or {', '.join(PUBLISHED_KEYS)}."
        )
    return Opened(_from_array(path.stem, next(iter(arrays.values())), size, gamma, downsample or 1))


def _installed(package: str, file: str) -> Path:
    """A photograph that a package installs; never downloads, and does not import the package."""
    spec = find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    path = next((Path(folder) / file for folder in folders if (Path(folder) / file).is_file()), None)
    if path is None:
        raise HVAEError(f"the installed {package} does not hold {file}; reinstall it, or give a folder of photographs.")
    return path


def _from_folder(folder: Path, gamma: str, downsample: int) -> Opened:
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    images = sorted((p for p in files if p.suffix.lower() in IMAGE_SUFFIXES), key=_natural_order)
    inner = [f"{p.name}/" for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not images:
        below = f"; subfolders are not read, give one of them: {', '.join(sorted(inner))}" if inner else ""
        raise HVAEError(f"{folder}: no images here; expected files ending in {', '.join(IMAGE_SUFFIXES)}{below}.")
    stems = [p.stem for p in images]
    names = [p.stem if stems.count(p.stem) == 1 else p.name for p in images]
    photographs = [Photograph(name, p, gamma, downsample) for name, p in zip(names, images, strict=True)]
    return Opened(photographs, tuple(sorted([*inner, *(p.name for p in files if p not in set(images))])))


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """imk2 before imk10: neighbouring numbers are neighbouring scenes."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"(\d+)", path.name.lower())]


def _from_array(name: str, array: np.ndarray, size: int, gamma: str, downsample: int) -> list[Photograph] | PatchStack:
    colour = array.ndim in (3, 4) and array.shape[-1] in (3, 4) and array.shape[-1] != size
    if array.ndim - colour == 2:
        if not colour and array.shape[1] == size**2:
            return PatchStack(name, array.reshape(-1, size, size))
        return [Photograph(name, array, gamma, downsample)]
    if array.ndim - colour != 3 or not len(array):
        raise HVAEError(
            f"{name}: an array of shape {array.shape}; expected an image (y, x[, channel]), a stack "
            f"(image, y, x[, channel]), or patches (image, {size}, {size}) or (image, {size**2})."
        )
    if array.shape[1:] == (size, size):
        return PatchStack(name, array)
    return [Photograph(f"{name}[{i}]", image, gamma, downsample) for i, image in enumerate(array)]


def _published(path: Path, arrays: Any) -> Published:
    if not isinstance(arrays, dict) or not {"train_images", "test_images"} <= arrays.keys():
        found = sorted(map(str, arrays)) if isinstance(arrays, dict) else f"a {type(arrays).__name__}"
        raise HVAEError(f"{path}: holds {found}; expected a dict with {', '.join(PUBLISHED_KEYS)}.")
    return Published(path, {key: arrays[key] for key in PUBLISHED_KEYS if key in arrays})
