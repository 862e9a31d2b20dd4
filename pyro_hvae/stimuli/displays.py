"""From drawn luminance to a labelled set of patches, through the transform of a run where one is given."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.patches import PatchData, patch_dataset, side_of
from pyro_hvae.stimuli.seeds import train_and_test_generators
from pyro_hvae.stimuli.whitening import Whitening
from pyro_hvae.storage.guards import check_promises, content_of
from pyro_hvae.storage.seals import check_seal

RAW = "luminance, background = 1"
WHITENED = "whitened"
UNITS = {
    "orientation": "degrees counter-clockwise from horizontal",
    "angle": "degrees",
    "frequency": "cycles/pixel",
    "phase": "degrees",
    "mask_phase": "degrees",
    "contrast": "1",
    "mask_contrast": "1",
    "thickness": "pixels",
    "slant": "degrees",
    "scale": "1",
    "diameter": "pixels",
    "inner_diameter": "pixels",
    "sd": "pixels",
    "surround_ratio": "1",
    "surround_weight": "1",
    "width": "pixels",
    "height": "pixels",
    "length": "pixels",
    "offset": "pixels",
    "x_position": "pixels right of the centre",
    "y_position": "pixels above the centre",
}

Values = Sequence[float] | float
"""A factor of a set: its values, or the only one."""
Names = Sequence[str] | str


def stimulus_set(
    luminance: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    kind: str,
    options: Mapping[str, Any],
    transform: Whitening | None = None,
    seed: int | None = None,
    family: np.ndarray | str = "",
    split: str = "test",
) -> xr.Dataset:
    """Dataset of drawn images in the patch contract, with `labels` (one value an image each) as coordinates.

    `luminance` (image, size, size) is relative to the background, which is 1. With `transform`, `x` is what a
    photograph of the display would have become: exposure by the background (under `exposure="absolute"` the background
    has the median luminance of the training photographs), logarithm, histogram, whitening; else it is the luminance.
    The attribute `unit` says which; `kind`, `seed` and `provenance` (JSON) say where it comes from. Raises
    `HVAEError` for a transform of another size, or an empty set.
    """
    n, size = luminance.shape[:2]
    if n == 0:
        raise HVAEError(f"{kind}: no images; give at least one value of every option.")
    x = luminance.reshape(n, -1)
    if transform is not None:
        check_size(transform, size)
        x = seen_through(x, transform)
    dataset = patch_dataset(x, split=split, source=kind, family=family)
    dataset = dataset.assign_coords(
        {name: ("image", np.asarray(values), _unit(name)) for name, values in labels.items()}
    )
    provenance = {"kind": kind, "options": dict(options), "transform": transform.options if transform else None}
    return dataset.assign_attrs(
        kind=kind,
        unit=RAW if transform is None else WHITENED,
        seed=-1 if seed is None else int(seed),
        provenance=json.dumps(provenance),
    )


def seen_through(luminance: np.ndarray, transform: Whitening) -> np.ndarray:
    """What displays `(…, pixel)` of luminance relative to their background, 1, are after the transform of a run."""
    reference = transform.intensity.reference if transform.intensity.exposure == "absolute" else 1.0
    return transform(transform.match_intensity(luminance * reference, median=1.0))


def _unit(name: str) -> dict[str, str]:
    return {"units": UNITS[name]} if name in UNITS else {}


def check_size(transform: Whitening, size: int) -> None:
    """`HVAEError` unless the transform is for patches of side `size`."""
    if transform.size != size:
        raise HVAEError(f"size is {size}, and the transform is for {transform.size}-pixel patches; they must agree.")


def train_and_test(
    make: Callable[[str, int, np.random.Generator], xr.Dataset],
    *,
    train: int,
    test: int,
    seed: int,
    size: int,
    transform: Whitening | None = None,
    channels: int = 1,
) -> PatchData:
    """`PatchData` of two sets drawn by `make(split, count, generator)` from independent streams; either may be empty."""
    counts = {"train": train, "test": test}
    for name, count in counts.items():
        if count < 0:
            raise HVAEError(f"{name} is {count}; expected a number of images from 0 on.")
    if not any(counts.values()):
        raise HVAEError("train and test are both 0; ask for some images.")
    streams = train_and_test_generators(seed)
    full = {name: make(name, max(n, 1), rng) for (name, n), rng in zip(counts.items(), streams, strict=True)}
    sets = {name: dataset.isel(image=slice(counts[name])) for name, dataset in full.items()}
    attrs = sets["test"].attrs
    provenance = json.loads(attrs["provenance"]) | {"unit": attrs["unit"], "seed": seed, **counts}
    return PatchData(sets["train"], sets["test"], transform, size, provenance, channels)


@checked
def as_patch_data(dataset: xr.Dataset, transform: Whitening | None = None) -> PatchData:
    """The set as the test half of a `PatchData` whose training half is empty, for `save` and `pyro-hvae export`."""
    size = side_of(dataset.sizes["pixel"], "the set")
    provenance = json.loads(dataset.attrs.get("provenance", "{}")) | {
        name: dataset.attrs[name] for name in ("kind", "unit", "seed") if name in dataset.attrs
    }
    return PatchData(dataset.isel(image=slice(0)), dataset, transform, size, provenance)


@checked
def read_transform(path: str | os.PathLike) -> Whitening:
    """The transform of a run directory (`transform.nc` in it), of a file of `PatchData.save`, or of such a `.nc` file.

    Raises `HVAEError` where there is none.
    """
    path = Path(path)
    file = path / "transform.nc" if path.is_dir() else path
    if not file.is_file():
        raise HVAEError(f"{file}: no such file; give a run directory of whitened images, or a file of patches.")
    mend = "give another run or file of patches, or make it again"
    check_seal(file, mend)
    try:
        with xr.open_datatree(file, engine="netcdf4") as tree:
            check_promises(tree, file, mend)
            patches = "schema" in tree.attrs
            node = tree.children.get("transform") if patches else tree
            dataset = node.to_dataset().load() if node is not None else None
    except HVAEError:
        raise
    except Exception as error:  # the netCDF and HDF5 layers raise many kinds on damaged files
        raise HVAEError(
            f"{file}: not a netCDF file, or a damaged one ({type(error).__name__}: {error}); {mend}."
        ) from error
    if dataset is None:
        raise HVAEError(
            f"{file}: its patches arrived preprocessed, so it holds no transform; give another run or file."
        )
    with content_of(file, mend):
        return Whitening.from_dataset(dataset)


def product(**values: Sequence[Any] | Any) -> dict[str, np.ndarray]:
    """Every combination of the values, the last name varying fastest: one flat array a name.

    A single number may stand for a list of one. Raises `HVAEError` for an empty list or values that are not finite.
    """
    lists = {name: np.atleast_1d(np.asarray(value)) for name, value in values.items()}
    for name, array in lists.items():
        if array.size == 0 or array.ndim > 1 or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            raise HVAEError(f"{name} is {values[name]!r}; expected at least one value, each a finite number.")
    grids = np.meshgrid(*lists.values(), indexing="ij")
    return {name: grid.ravel() for name, grid in zip(lists, grids, strict=True)}


def within(name: str, values: Any, low: float, high: float) -> None:
    """`HVAEError` where a value lies outside [low, high]."""
    array = np.atleast_1d(values)
    if not ((array >= low) & (array <= high)).all():
        raise HVAEError(f"{name} is {values!r}; expected values between {low:g} and {high:g}.")


def axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres, as columns right of the centre and rows above the centre of a size×size patch, each (size, size)."""
    size = whole_number("size", size, 2)
    offset = np.arange(size) - (size - 1) / 2
    return np.broadcast_to(offset, (size, size)), np.broadcast_to(-offset[:, None], (size, size))
