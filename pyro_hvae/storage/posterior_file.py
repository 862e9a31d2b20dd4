"""The posterior file: its schema, a streaming writer, reading and validation. Nothing else knows the layout.

The file is an :class:`xarray.DataTree` in ArviZ's schema: netCDF-4, or zarr where the path ends in ``.zarr``.
``docs/architecture.md`` holds the table of groups and variables; :func:`schema` is the same table as data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.abandoned import put_back, remove_abandoned
from pyro_hvae.storage.stores import STORES, Store, attribute_values, read
from pyro_hvae.storage.writing import beside, check_target, put, remove

SCHEMA = "pyro_hvae.posterior"
SCHEMA_VERSION = "1"
#: Root attributes every file carries beside ``schema`` and ``schema_version``; ``created`` is filled in by the writer.
ROOT_ATTRIBUTES = (
    "preset",
    "model",
    "guide",
    "configuration",
    "objective",
    "particles",
    "seed",
    "versions",
    "git_revision",
    "created",
)
#: Labels of images, coordinates of ``constant_data`` along ``image``; present where known.
LABELS = ("family", "split", "source", "row", "column", "radius")
#: Of files made by a sampler, per image: the worst over all latents, and whether the image converged (1) or not (0).
CHAIN_STATISTICS = (
    "r_hat", "r_hat_mean", "ess_bulk", "ess_tail", "ess_mean", "converged", "divergences", "acceptance_rate",
)  # fmt: skip

CHUNK_IN_MEMORY = 2**25  # bytes of a variable that are held at a time when a file is read in chunks


def schema(names: Sequence[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Groups and variables that every file with the stochastic layers ``names`` (``["z1", "z2"]``) has, with dims."""
    image_pixel: tuple[str, ...] = ("image", "pixel")
    table: dict[str, dict[str, tuple[str, ...]]] = {
        "posterior_moments": {},
        "posterior_predictive": {"x_mean": image_pixel, "x_variance": image_pixel},
        "prior_predictive": {"x_mean": ("sample", "pixel")},
        "bound": {"elbo": ("image",), "reconstruction": ("image",)},
        "observed_data": {"x": image_pixel},
        "constant_data": {"A": ("pixel", "z1_dim"), "c": ("pixel",), "sigma": ()},
    }
    for name in names:
        for quantity in ("mean", "variance", "kl"):
            table["posterior_moments"][f"{name}_{quantity}"] = ("image", f"{name}_dim")
        table["bound"][f"{name}_kl"] = ("image",)
    if len(names) > 1:
        table["posterior_moments"]["z1_variance_from_z2"] = ("image", "z1_dim")
    for name in names[1:]:
        table["constant_data"][f"{name}_field"] = (f"{name}_dim", "pixel")
    return table


def optional_schema(names: Sequence[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Variables that a file may have beyond :func:`schema`, with the dims they have when they are there."""
    drawn: tuple[str, ...] = ("chain", "draw", "image")
    densities = {f"{name}_log_{density}": drawn for name in names for density in "pq"}
    labels: dict[str, tuple[str, ...]] = dict.fromkeys(LABELS, ("image",))
    fields: dict[str, tuple[str, ...]] = {"z1_receptive_field": ("z1_dim", "pixel")}
    if "z2" in names:
        fields |= dict.fromkeys(("z2_to_z1_location", "z2_to_z1_log_scale"), ("z2_dim", "z1_dim"))
    return {
        "posterior": {name: (*drawn, f"{name}_dim") for name in names},
        "posterior_moments": {
            "z1_correlation": ("image", "unit", "unit_bis"),
            "z1_correlation_half": ("image", "half", "unit", "unit_bis"),
            **{f"{name}_{moment}_se": ("image", f"{name}_dim") for name in names for moment in ("mean", "variance")},
        },
        "sample_stats": {"log_weight": drawn, **dict.fromkeys(("ess", "pareto_k", *CHAIN_STATISTICS), ("image",))},
        "log_density": densities,
        "log_likelihood": {"x": drawn},
        "observed_data": dict.fromkeys(("mask", "original"), ("image", "pixel")),
        "constant_data": labels | fields,
        "evidence": dict.fromkeys(("log_evidence", "standard_error", "ess", "pareto_k"), ("image",)),
        "gap": dict.fromkeys(
            (
                "amortisation_z1",
                "amortisation_upper",
                "family_z1",
                "family_upper",
                "elbo",
                "log_evidence",
                "standard_error",
                "pareto_k",
            ),
            ("image",),
        ),
        "yardsticks": {"log_density": ("yardstick", "image")},
    }


class PosteriorWriter:
    """Write a posterior file chunk of images by chunk of images, in memory bounded by one chunk.

    Parameters
    ----------
    path
        File to make: zarr where it ends in ``.zarr``, netCDF-4 otherwise.
    attrs
        Root attributes: all of :data:`ROOT_ATTRIBUTES` but ``created``; mappings and lists are stored as JSON.
    overwrite
        Replace a posterior file that exists; nothing else is ever replaced. The earlier file stays whole until the new one
        is complete. A netCDF file that someone has open stays as it was for them; a zarr store does not, because its chunks
        are opened when they are read: close it first.
    partial
        Allow the file to lack what :func:`schema` lists; analyses that need the missing parts will not apply to it.
    compression
        zlib level 1-9 of netCDF variables, 0 for none. Not for zarr, which compresses by itself.

    Everything is written to a temporary sibling that is validated, synced and renamed on leaving the ``with`` block; an
    exception inside the block removes it, and an earlier file survives. Floating-point variables along ``image`` are
    stored as float32, constants as they are given; dims without a coordinate get an integer one.

    Raises
    ------
    HVAEError
        Where the path exists, an attribute is missing, chunks do not agree, or the result breaks the schema.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        attrs: Mapping[str, Any],
        *,
        overwrite: bool = False,
        partial: bool = False,
        compression: int = 0,
    ) -> None:
        self.path = Path(path)
        self._partial = partial
        self._overwrite = overwrite
        put_back(self.path)
        check_target(self.path, overwrite=overwrite, schema=SCHEMA)
        missing = [name for name in ROOT_ATTRIBUTES if name not in attrs and name != "created"]
        if missing:
            raise HVAEError(f"posterior file {self.path}: attrs lack {', '.join(missing)}; give '' where there is none")
        self._kind = _kind(self.path)
        if self._kind == "zarr" and compression:
            raise HVAEError("compression is for netCDF files; zarr compresses by itself: leave it at 0")
        self._temporary = beside(self.path)
        remove_abandoned(self._temporary.parent)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._header = attribute_values({"created": now, **attrs, "schema": SCHEMA, "schema_version": SCHEMA_VERSION})
        self._compression = compression
        self._store: Store
        self._per_image: dict[str, set[str]] = {}
        self._written: set[str] = set()
        self._images = 0

    def __enter__(self) -> PosteriorWriter:
        with self._named_failure():
            self._store = STORES[self._kind](self._temporary, self._header, self._compression)
        return self

    @property
    def images(self) -> int:
        """Number of images written so far."""
        return self._images

    def append(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Add a chunk of images: one Dataset a group, every variable along ``image``, as many images in each group.

        The first chunk decides which groups and variables there are; every later chunk must hold the same. The coordinate
        ``image`` is 0, 1, ... in the order of writing, whatever the chunks carry.
        """
        sizes = {name: dataset.sizes.get("image", 0) for name, dataset in groups.items()}
        if not sizes or len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise HVAEError(f"append needs groups with the same number of images, at least one; got {sizes or 'none'}")
        for group, dataset in groups.items():
            constant = [str(name) for name in dataset.data_vars if "image" not in dataset[name].dims]
            if constant:
                raise HVAEError(f"append: {group}/{constant[0]} has no 'image' dim; write it once with write() instead")
        names = {
            group: {str(name) for name, variable in dataset.variables.items() if "image" in variable.dims} - {"image"}
            for group, dataset in groups.items()
        }
        if self._per_image and names != self._per_image:
            raise HVAEError(f"append: this chunk holds {_listing(names)}, earlier ones {_listing(self._per_image)}")
        self._per_image = names
        count = next(iter(sizes.values()))
        for group, dataset in groups.items():
            numbered = dataset.assign_coords(image=np.arange(self._images, self._images + count))
            with self._named_failure():
                self._store.append(group, _labelled(numbered))
        self._images += count

    def write(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Write variables that have no ``image`` dim; each variable once."""
        for group, dataset in groups.items():
            along = [str(name) for name in dataset.variables if "image" in dataset[name].dims]
            if along:
                raise HVAEError(f"write: {group}/{along[0]} runs along 'image'; pass it in chunks to append() instead")
            again = [f"{group}/{name}" for name in dataset.data_vars if f"{group}/{name}" in self._written]
            if again:
                raise HVAEError(f"write: {again[0]} is in the file already; write each variable once")
            self._written |= {f"{group}/{name}" for name in dataset.data_vars}
            with self._named_failure():
                self._store.write(group, _labelled(dataset))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with nullcontext() if error is None else suppress(Exception), self._named_failure():
                self._store.close()
            if error is None:
                if not self._images:
                    raise HVAEError(f"posterior file {self.path}: no images were appended, nothing is written")
                with read(self._temporary, self._kind) as tree:
                    validate(tree, partial=self._partial, name=str(self.path))
                with self._named_failure():
                    put(self._temporary, self.path, overwrite=self._overwrite, schema=SCHEMA)
        finally:
            remove(self._temporary)

    @contextmanager
    def _named_failure(self) -> Iterator[None]:
        """The libraries below report a full disk as "HDF error" or so; say what it means and what became of the file."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            earlier = f"; the earlier {self.path} is untouched" if self.path.exists() else ""
            raise HVAEError(f"{self.path} could not be written ({error}): is the disk full?{earlier}") from error


@checked
def open_posterior(path: str | os.PathLike[str], chunks: int | None = None, *, partial: bool = False) -> xr.DataTree:
    """Open a posterior file lazily and check it against the schema.

    ``chunks`` makes every variable along ``image`` a dask array of at most that many images, and 32 MiB, at a time. With
    ``partial=True`` a file that lacks groups or variables is accepted: analyses then say what they miss.

    Raises
    ------
    HVAEError
        Where there is no such file, it is not (or no longer: truncated) a netCDF-4 or zarr file, it is no posterior
        file, it has another schema version, or it lacks a group, variable, dim or coordinate.
    """
    path = Path(path)
    tree = read(path, _kind(path))
    try:
        validate(tree, partial=partial, name=str(path))
    except HVAEError:
        tree.close()
        raise
    arranged = tree.map_over_datasets(lambda dataset: _arranged(dataset, chunks))
    arranged.attrs["file"] = path.name
    arranged.set_close(tree.close)
    return arranged


def validate(tree: xr.DataTree, *, partial: bool = False, name: str = "posterior") -> None:
    """Check a tree against the schema; raise HVAEError that names everything that is wrong and what to do."""
    if tree.attrs.get("schema") != SCHEMA:
        raise HVAEError(
            f"{name} is no posterior file: its attribute schema is {tree.attrs.get('schema')!r}, not {SCHEMA!r}; "
            "make one with `pyro-hvae export RUN --out FILE`"
        )
    version = str(tree.attrs.get("schema_version"))
    if version != SCHEMA_VERSION:
        raise HVAEError(
            f"{name} has schema version {version}, this pyro_hvae reads {SCHEMA_VERSION}: "
            "export it again, or install the pyro_hvae that wrote it (attribute versions)"
        )
    faults = misshapen(tree) if partial else [*missing(tree), *misshapen(tree)]
    if faults:
        raise HVAEError(f"{name} breaks the schema (docs/architecture.md): {'; '.join(faults)}. Export it again")


def missing(tree: xr.DataTree) -> list[str]:
    """What the schema asks for and the tree lacks, each as a phrase; empty for a complete file."""
    faults = [f"attribute {attribute} is missing" for attribute in ROOT_ATTRIBUTES if attribute not in tree.attrs]
    names = sites(tree)
    if not names:
        return [*faults, "variable posterior_moments/z1_mean is missing"]
    for group, variables in schema(names).items():
        if group not in tree.children:
            faults.append(f"group {group} is missing")
        else:
            faults += [f"variable {group}/{name} is missing" for name in variables if name not in tree[group]]
    return faults


def misshapen(tree: xr.DataTree) -> list[str]:
    """What is there but has other dims than the schema says, lacks a coordinate, or counts images differently."""
    faults = []
    names = sites(tree)
    counts = {group: tree[group].sizes["image"] for group in tree.children if "image" in tree[group].sizes}
    if len(set(counts.values())) > 1:
        faults.append(f"groups disagree on the number of images ({', '.join(f'{k} {v}' for k, v in counts.items())})")
    for table in (schema(names), optional_schema(names)):
        for group, variables in table.items():
            for name, dims in variables.items():
                if group in tree.children and name in tree[group] and tree[group][name].dims != dims:
                    faults.append(f"{group}/{name} has dims {tree[group][name].dims}, not {dims}")
    moments = tree.children.get("posterior_moments")
    if moments is not None and "z1_correlation" in moments and "unit" not in moments.coords:
        faults.append("coordinate posterior_moments/unit (the z1 index of each correlated unit) is missing")
    return faults


def sites(tree: xr.DataTree) -> list[str]:
    """Names of the stochastic layers, ``["z1", "z2"]`` for two, the one next to the image first."""
    if "posterior_moments" not in tree.children:
        return []
    found = {m[1] for v in tree["posterior_moments"].data_vars if (m := re.fullmatch(r"(z[1-9]\d*)_mean", str(v)))}
    return sorted(found, key=lambda name: int(name[1:]))


def images(tree: xr.DataTree) -> int:
    """Number of images in the file."""
    return next((node.sizes["image"] for node in tree.children.values() if "image" in node.sizes), 0)


def label(tree: xr.DataTree, name: str) -> np.ndarray | None:
    """One label of every image as an array of str (``family``: ``""`` where there is none); None if not recorded."""
    constants = tree.children.get("constant_data")
    if constants is None or name not in constants:
        return None
    values = np.asarray(constants[name].values)
    return np.array([str(value) for value in values]) if values.dtype.kind in "OUT" else values


def _kind(path: Path) -> str:
    return "zarr" if path.suffix == ".zarr" else "netcdf"


def _labelled(dataset: xr.Dataset) -> xr.Dataset:
    """Labels as coordinates, an integer coordinate for every dim without one, float32 along ``image``."""
    dataset = dataset.set_coords([name for name in dataset.data_vars if name in LABELS])
    narrow = {
        name: variable.astype(np.float32, keep_attrs=True)
        for name, variable in dataset.data_vars.items()
        if "image" in variable.dims and variable.dtype.kind == "f"
    }
    counted = {dim: np.arange(size) for dim, size in dataset.sizes.items() if dim not in dataset.coords}
    return dataset.assign(narrow).assign_coords(counted)


def _arranged(dataset: xr.Dataset, chunks: int | None) -> xr.Dataset:
    dataset = dataset.set_coords([name for name in LABELS if name in dataset.data_vars])
    if chunks is None:
        return dataset
    along = {name: variable for name, variable in dataset.data_vars.items() if "image" in variable.dims}

    def images_a_chunk(variable: xr.DataArray) -> int:
        each = variable.dtype.itemsize * variable.size // max(variable.sizes["image"], 1)
        return max(1, min(chunks, CHUNK_IN_MEMORY // max(each, 1)))

    return dataset.assign({name: variable.chunk(image=images_a_chunk(variable)) for name, variable in along.items()})


def _listing(names: Mapping[str, set[str]]) -> str:
    return ", ".join(f"{group}/{name}" for group in sorted(names) for name in sorted(names[group]))
