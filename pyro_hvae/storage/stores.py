"""How the posterior file is put on disk: netCDF-4 and zarr, both growing along ``image``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import netCDF4
import numpy as np
import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.abandoned import put_back
from pyro_hvae.storage.guards import check_codecs, check_promises
from pyro_hvae.storage.seals import check_seal
from pyro_hvae.storage.writing import NETCDF_LOCK

CHUNK_BYTES = 2**20  # aimed size of a chunk on disk; one image is never split
FEWEST = 64  # images in a chunk, where that many fit: the first block that is written may be small


class Store(Protocol):
    """One growing file: ``append`` along ``image``, ``write`` the rest once, ``close``."""

    def append(self, group: str, dataset: xr.Dataset) -> None: ...
    def write(self, group: str, dataset: xr.Dataset) -> None: ...
    def close(self) -> None: ...


def attribute_values(attrs: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Attributes as both formats keep them: numbers and strings as they are, None as '', everything else as JSON."""

    def plain(value: Any) -> str | int | float:
        value = value.item() if isinstance(value, np.generic) else value
        if value is None:
            return ""
        if isinstance(value, bool):
            return int(value)
        return value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)

    return {name: plain(value) for name, value in attrs.items()}


class NetCDFStore:
    """netCDF-4 with an unlimited ``image`` dim in every group."""

    def __init__(self, path: Path, attrs: Mapping[str, Any], compression: int) -> None:
        with NETCDF_LOCK:
            self._file = netCDF4.Dataset(path, "w", format="NETCDF4")
            self._file.setncatts(dict(attrs))
        self._compression = compression

    def append(self, group: str, dataset: xr.Dataset) -> None:
        dataset = dataset.compute()  # before the lock is taken: what it is computed from may be a netCDF file too
        with NETCDF_LOCK:
            target = self._file.groups.get(group) or self._file.createGroup(group)
            start = len(target.dimensions["image"]) if "image" in target.dimensions else 0
            for name, variable in dataset.variables.items():
                if "image" not in variable.dims and name in target.variables:
                    continue  # coordinates of the other dims: the first chunk wrote them
                here = tuple(slice(start, None) if dim == "image" else slice(None) for dim in variable.dims)
                self._put(target, str(name), variable, here)
            self._describe(target, dataset)

    def write(self, group: str, dataset: xr.Dataset) -> None:
        dataset = dataset.compute()
        with NETCDF_LOCK:
            target = self._file.groups.get(group) or self._file.createGroup(group)
            for name, variable in dataset.variables.items():
                if name not in target.variables:
                    self._put(target, str(name), variable, (slice(None),) * variable.ndim)
            self._describe(target, dataset)

    def close(self) -> None:
        with NETCDF_LOCK:
            if self._file.isopen():
                self._file.close()

    def _put(self, target: netCDF4.Group, name: str, variable: xr.Variable, here: tuple[slice, ...]) -> None:
        values = np.asarray(variable.values)
        if values.dtype.kind in "OUT":
            values = values.astype(object)
        for dim, size in variable.sizes.items():
            if dim not in target.dimensions:
                target.createDimension(str(dim), None if dim == "image" else size)
            elif dim != "image" and (known := len(target.dimensions[str(dim)])) != size:
                raise HVAEError(f"{target.name}/{name}: {dim} has {size} entries, in the file already {known}")
        if name not in target.variables:
            kind: Any = str if values.dtype == object else "i1" if values.dtype == bool else values.dtype
            sizes: Any = chunk_sizes(variable)
            level: Any = 0 if kind is str or not variable.ndim else self._compression
            made = target.createVariable(
                name,
                kind,
                tuple(map(str, variable.dims)),
                zlib=level > 0,
                complevel=level or 4,
                shuffle=True,
                chunksizes=sizes,
                chunk_cache=4 * CHUNK_BYTES,  # images come in order; the default keeps 16 MiB of every variable
            )
            made.setncatts(attribute_values(variable.attrs))
            if values.dtype == bool:
                made.setncattr("dtype", "bool")  # xarray's convention
        target.variables[name][here or ...] = values.astype("i1") if values.dtype == bool else values

    @staticmethod
    def _describe(target: netCDF4.Group, dataset: xr.Dataset) -> None:
        """Attributes of the group, and which of its variables are coordinates."""
        target.setncatts(attribute_values({str(name): value for name, value in dataset.attrs.items()}))
        known = set(getattr(target, "coordinates", "").split())
        names = known | {str(name) for name in dataset.coords if name not in dataset.dims}
        if names:
            target.setncattr("coordinates", " ".join(sorted(names)))


class ZarrStore:
    """zarr through xarray's own appending."""

    def __init__(self, path: Path, attrs: Mapping[str, Any], compression: int) -> None:
        import zarr

        self._path = path
        zarr.open_group(str(path), mode="w", zarr_format=2).attrs.update(dict(attrs))
        self._groups: set[str] = set()

    def append(self, group: str, dataset: xr.Dataset) -> None:
        dataset = self._plain(dataset)
        if group in self._groups:
            across = [name for name in dataset.variables if "image" not in dataset[name].dims]
            dataset.drop_vars(across).to_zarr(self._path, group=group, mode="a", append_dim="image", consolidated=False)
            return
        encoding = {
            name: {"chunks": sizes}
            for name, variable in dataset.variables.items()
            if (sizes := chunk_sizes(variable)) is not None
        }
        self._to_zarr(group, dataset, encoding)
        self._groups.add(group)

    def write(self, group: str, dataset: xr.Dataset) -> None:
        self._to_zarr(group, self._plain(dataset), {})

    def close(self) -> None:
        import zarr

        zarr.consolidate_metadata(str(self._path), zarr_format=2)

    def _to_zarr(self, group: str, dataset: xr.Dataset, encoding: Mapping[Any, Any]) -> None:
        dataset.to_zarr(self._path, group=group, mode="a", zarr_format=2, consolidated=False, encoding=encoding)

    @staticmethod
    def _plain(dataset: xr.Dataset) -> xr.Dataset:
        # Strings of one fixed width would be cut when a later chunk holds longer ones.
        text = {name: dataset[name].astype(object) for name in dataset.variables if dataset[name].dtype.kind == "U"}
        return dataset.assign({n: v for n, v in text.items() if n not in dataset.coords}).assign_coords(
            {n: v for n, v in text.items() if n in dataset.coords}
        )


STORES: dict[str, type[NetCDFStore] | type[ZarrStore]] = {"netcdf": NetCDFStore, "zarr": ZarrStore}


def chunk_sizes(variable: xr.Variable) -> tuple[int, ...] | None:
    """Whole images, as many as come to about a mebibyte, or as are written first; None for variables that do not grow.

    A chunk takes its whole size on disk, however few images there are.
    """
    if "image" not in variable.dims:
        return None
    count = max(variable.sizes["image"], 1)
    itemsize = max(variable.dtype.itemsize, 8) if variable.dtype.kind in "OUT" else variable.dtype.itemsize
    each = max(itemsize * variable.size // count, 1)
    images = max(1, min(4096, CHUNK_BYTES // each, max(count, FEWEST)))
    return tuple(images if dim == "image" else max(size, 1) for dim, size in variable.sizes.items())


def read(
    path: Path, kind: str, what: str = "posterior file", command: str = "pyro-hvae export RUN --out FILE"
) -> xr.DataTree:
    """Open without checking the schema. Raises HVAEError where it cannot be read at all, with the command that makes one."""
    mend = f"make it again with `{command}`"
    put_back(path)
    if not path.exists():
        raise HVAEError(f"there is no {what} {path}; make one with `{command}`")
    check_seal(path, mend)
    if kind == "zarr":
        check_codecs(path, mend)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            tree = xr.open_datatree(path, engine="netcdf4" if kind == "netcdf" else "zarr")
    except Exception as error:
        form = "netCDF-4" if kind == "netcdf" else "zarr"
        raise HVAEError(
            f"{path} cannot be read as {form} ({error}); it is truncated, damaged or something else: {mend}"
        ) from error
    try:
        check_promises(tree, path, mend)
    except HVAEError:
        tree.close()
        raise
    return tree


def schema_of(path: Path, what: str, command: str) -> str:
    """Root attribute ``schema`` of a file (zarr or netCDF-4, by its name), empty where it has none. Raises as :func:`read`."""
    with read(path, "zarr" if path.suffix == ".zarr" else "netcdf", what, command) as tree:
        return str(tree.attrs.get("schema", ""))
