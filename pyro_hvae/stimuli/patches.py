"""`PatchData`: preprocessed patches with their labels, transform and provenance, in memory and as one netCDF file."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.arguments import contiguous, whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.whitening import Whitening
from pyro_hvae.storage.guards import check_promises, content_of
from pyro_hvae.storage.labels import storable
from pyro_hvae.storage.seals import check_seal
from pyro_hvae.storage.stores import NetCDFStore
from pyro_hvae.storage.writing import check_directory, check_target, replacing

SCHEMA, SCHEMA_VERSION = "pyro_hvae.patches", "1"
#: How texture families were preprocessed (`texture_preprocessing.py`): attributes of a set that has them.
TEXTURE_ATTRIBUTES = ("texture_intensity", "texture_whitening")
MEND = "make it again (pyro-hvae stimuli, or PatchData.save)"
_LABELS: dict[str, Any] = {"source": "", "family": "", "split": "", "row": -1, "column": -1}


def patch_dataset(
    x: np.ndarray,
    *,
    split: str,
    source: np.ndarray | str = "",
    family: np.ndarray | str = "",
    row: np.ndarray | int = -1,
    column: np.ndarray | int = -1,
    mask: np.ndarray | None = None,
) -> xr.Dataset:
    """Dataset of flattened preprocessed patches `x` (image, pixel) with the labels of the patch contract.

    Labels are one per image or one for all; `""` and -1 stand for unknown. `mask` (image, pixel) is True where a pixel
    was shown.
    """
    n = len(x)

    def text(value: np.ndarray | str) -> tuple[str, np.ndarray]:
        return "image", np.broadcast_to(np.asarray(value, dtype=str), (n,)).copy()

    def number(value: np.ndarray | int) -> tuple[str, np.ndarray]:
        return "image", np.broadcast_to(np.asarray(value, dtype=np.int32), (n,)).copy()

    variables: dict[str, Any] = {"x": (("image", "pixel"), np.asarray(x, np.float32))}
    if mask is not None:
        variables["mask"] = (("image", "pixel"), np.asarray(mask, bool))
    labels = {"source": text(source), "family": text(family), "split": text(split)}
    return xr.Dataset(variables, coords={**labels, "row": number(row), "column": number(column)})


def concatenate(*datasets: xr.Dataset) -> xr.Dataset:
    """Join patch datasets along `image`.

    A missing text label becomes `""`, a missing position -1, any other missing label (the orientation of a photograph)
    NaN, and a missing mask True (every pixel shown). How textures were preprocessed stays an attribute; where two sets
    differ in it, both are named. Raises `HVAEError` where patch sizes differ or a dataset has no
    `x (image, pixel)`.
    """
    if not datasets:
        raise HVAEError("concatenate needs at least one dataset.")
    for dataset in datasets:
        if "x" not in dataset or dataset["x"].dims != ("image", "pixel"):
            raise HVAEError(f"not a dataset of patches: expected x (image, pixel), found {dict(dataset.sizes)}.")
    pixels = [dataset.sizes["pixel"] for dataset in datasets]
    if len(set(pixels)) > 1:
        raise HVAEError(f"patches of {pixels} pixels cannot be joined; they must have one size.")
    masked = any("mask" in dataset for dataset in datasets)
    names = dict.fromkeys([*_LABELS, *(str(n) for d in datasets for n, c in d.coords.items() if c.dims == ("image",))])
    labels = {name: np.concatenate([_label(d, name, datasets) for d in datasets]) for name in names}
    mask = None
    if masked:
        mask = np.concatenate([d["mask"].values if "mask" in d else np.ones(d["x"].shape, bool) for d in datasets])
    contract: dict[str, Any] = {name: labels.pop(name) for name in _LABELS}
    joined = patch_dataset(np.concatenate([d["x"].values for d in datasets]), mask=mask, **contract)
    choices = {name: dict.fromkeys(d.attrs[name] for d in datasets if name in d.attrs) for name in TEXTURE_ATTRIBUTES}
    return joined.assign_coords({name: ("image", values) for name, values in labels.items()}).assign_attrs(
        {name: " and ".join(values) for name, values in choices.items() if values}
    )


def _label(dataset: xr.Dataset, name: str, datasets: tuple[xr.Dataset, ...]) -> np.ndarray:
    """One label of a dataset, or what stands for it where only other ones have it."""
    if name in dataset.coords:
        return dataset[name].values
    known = next((d[name].values for d in datasets if name in d.coords), None)
    text = known is not None and known.dtype.kind in "UO"
    return np.full(dataset.sizes["image"], _LABELS.get(name, "" if text else np.nan))


@dataclass(frozen=True, eq=False)
class PatchData:
    """Preprocessed patches, ready to train and test on.

    `train`, `test`: datasets with `x (image, pixel)` float32 and the coordinates `source`, `row`, `column`, `family`,
    `split` on `image` (`docs/architecture.md`). `transform` is None for patches that arrived already preprocessed.
    `size` is the side in pixels; `provenance` holds JSON values: sources with their sha256 digests, options, seed.
    `channels` is 1 for grey patches and 2 for optic flow, whose pixels are flattened in the order (channel, y, x).
    """

    train: xr.Dataset
    test: xr.Dataset
    transform: Whitening | None
    size: int
    provenance: dict[str, Any] = field(default_factory=dict)
    channels: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole_number("size", self.size, 1))
        object.__setattr__(self, "channels", whole_number("channels", self.channels, 1))
        object.__setattr__(self, "provenance", _json_values(self.provenance))
        if not isinstance(self.transform, Whitening | None):
            raise HVAEError(f"transform is a Whitening or None, got {type(self.transform).__name__}.")
        for name, dataset in (("train", self.train), ("test", self.test)):
            if not isinstance(dataset, xr.Dataset):
                raise HVAEError(f"the {name} set is a dataset (patch_dataset makes one), got {type(dataset).__name__}.")
            if "x" not in dataset or dataset["x"].dims != ("image", "pixel"):
                raise HVAEError(f"the {name} set has no x (image, pixel); found {dict(dataset.sizes)}.")
            if dataset.sizes["pixel"] != self.channels * self.size**2:
                means = f"size={self.size}" + (f" with {self.channels} channels" if self.channels > 1 else "")
                raise HVAEError(
                    f"the {name} set has patches of {dataset.sizes['pixel']} pixels, and {means} "
                    f"means {self.channels * self.size**2}."
                )
            if (x := dataset["x"].values).dtype.kind not in "fiub":
                raise HVAEError(f"x of the {name} set holds {x.dtype}, and patches are numbers.")
            if (plain := contiguous(x)) is not x:
                dataset = dataset.assign(x=(("image", "pixel"), plain))
            object.__setattr__(self, name, storable(dataset, where=f"the {name} patches"))
        if self.transform is not None and self.transform.size != self.size:
            raise HVAEError(f"the transform is for {self.transform.size}-pixel patches, and these have {self.size}.")

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Write one netCDF-4 file with groups `train`, `test`, `transform`; atomic: complete or not there.

        Raises `HVAEError` where `path` exists and `overwrite` is False, or where the disk does not take it.
        """
        # Chunk sizes of a file read before need not fit what was selected from it.
        sets = {"/train": self.train.drop_encoding(), "/test": self.test.drop_encoding()}
        groups = {"/": xr.Dataset(attrs=self._attributes()), **sets}
        if self.transform is not None:
            groups["/transform"] = self.transform.to_dataset()
        prepare_target(path, overwrite=overwrite)
        with replacing(path, overwrite=overwrite, schema=SCHEMA) as partial:
            xr.DataTree.from_dict(groups).to_netcdf(partial, engine="netcdf4")
        return Path(path)

    def write(
        self,
        path: str | os.PathLike,
        chunks: Mapping[str, Iterable[xr.Dataset]],
        *,
        overwrite: bool = False,
    ) -> Path:
        """Write the file of `save` with the patches of `chunks` behind these `train` and `test`, one chunk in memory.

        `chunks` maps `"train"` and `"test"` to datasets of the same variables. Raises as `save` does.
        """
        prepare_target(path, overwrite=overwrite)
        with replacing(path, overwrite=overwrite, schema=SCHEMA) as partial:
            store = NetCDFStore(partial, self._attributes(), compression=0)
            try:
                for name, start in (("train", self.train), ("test", self.test)):
                    for chunk in itertools.chain([start], chunks.get(name, ())):
                        store.append(name, chunk)
                if self.transform is not None:
                    store.write("transform", self.transform.to_dataset())
            finally:
                store.close()
        return Path(path)

    def _attributes(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "size": self.size,
            "channels": self.channels,
            "provenance": json.dumps(self.provenance),
        }

    @classmethod
    def load(cls, path: str | os.PathLike) -> PatchData:
        """Read a file of `save` into memory. Raises `HVAEError` for a damaged file or one of another schema."""
        path = Path(path)
        if not path.is_file():
            raise HVAEError(f"{path}: no such file.")
        check_seal(path, MEND)
        try:
            with xr.open_datatree(path, engine="netcdf4") as tree:
                check_promises(tree, path, MEND)
                attributes = dict(tree.attrs)
                groups = {name: node.to_dataset().load() for name, node in tree.children.items()}
        except HVAEError:
            raise
        except Exception as error:  # the netCDF and HDF5 layers raise many kinds on damaged files
            raise HVAEError(
                f"{path}: not a netCDF file, or a damaged one ({type(error).__name__}: {error}); {MEND}."
            ) from error
        if attributes.get("schema") != SCHEMA or attributes.get("schema_version") != SCHEMA_VERSION:
            found = attributes.get("schema", "none"), attributes.get("schema_version", "none")
            raise HVAEError(
                f"{path}: schema {found[0]} version {found[1]}; expected {SCHEMA} version {SCHEMA_VERSION}, "
                "as PatchData.save writes it."
            )
        missing = [name for name in ("train", "test") if name not in groups]
        if missing or not {"size", "provenance"} <= attributes.keys():
            raise HVAEError(f"{path}: damaged, it lacks {', '.join(missing) or 'size or provenance'}; {MEND}.")
        with content_of(path, MEND):
            transform = Whitening.from_dataset(groups["transform"]) if "transform" in groups else None
            provenance = json.loads(attributes["provenance"])
            train, test = _as_written(groups["train"]), _as_written(groups["test"])
            channels = int(attributes.get("channels", 1))
            return cls(train, test, transform, int(attributes["size"]), provenance, channels)


def _json_values(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of patches' origin, as JSON has it: arrays as lists, paths as texts."""

    def known(value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            return value.tolist()
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        raise HVAEError(f"provenance holds JSON values (numbers, texts, lists, mappings), got {type(value).__name__}.")

    if not isinstance(provenance, Mapping):
        raise HVAEError(f"provenance is a mapping of JSON values, got {type(provenance).__name__}.")
    try:
        json.dumps(provenance)
    except (TypeError, ValueError):
        try:
            return json.loads(json.dumps(provenance, default=known))
        except (TypeError, ValueError) as error:
            raise HVAEError(
                f"provenance holds no JSON values ({error}); give numbers, texts, lists, mappings."
            ) from error
    return dict(provenance)


def check_patches_target(path: str | os.PathLike, *, overwrite: bool) -> None:
    """Refuse a path to which a file of patches cannot, or must not, be written; its directory need not exist."""
    path = Path(path)
    check_directory(path.parent)
    if path.parent.is_dir():
        check_target(path, overwrite=overwrite, schema=SCHEMA)


def prepare_target(path: str | os.PathLike, *, overwrite: bool) -> None:
    """Check the path of a file of patches and make its directory."""
    check_patches_target(path, overwrite=overwrite)
    Path(path).parent.mkdir(parents=True, exist_ok=True)


def _as_written(dataset: xr.Dataset) -> xr.Dataset:
    """Undo what netCDF does to types: strings come back as objects, booleans as bytes."""
    texts = {str(n): c for n, c in dataset.coords.items() if c.dims == ("image",) and c.dtype.kind == "O"}
    dataset = dataset.assign_coords({name: ("image", text.values.astype(str)) for name, text in texts.items()})
    return dataset.assign(mask=dataset["mask"].astype(bool)) if "mask" in dataset else dataset


def side_of(pixels: int, what: str) -> int:
    """Side of a flattened square patch; `HVAEError` where `pixels` is no square number."""
    side = math.isqrt(pixels)
    if pixels < 1 or side**2 != pixels:
        raise HVAEError(f"{what} has {pixels} pixels a patch, which is not a square number.")
    return side
