"""The audit file: moments of one posterior by guide, importance-resampled guide and reference, for the same images.

A netCDF-4 file that opens as an :class:`xarray.DataTree`:

==================  ==============================================================================================
group               variables (dims)
==================  ==============================================================================================
``guide``           for every layer ``zl_mean``, ``zl_variance (half, image, zl_dim)``; ``z1_correlation (half, image,
                    unit, unit_bis)`` with coordinate ``unit`` = z1 index
``resampled``       the same, and of its importance weights ``ess``, ``pareto_k (image)``
``reference``       the same, and of its chains ``r_hat``, ``ess (image)``: the worst over the chosen units and all
                    zl, l > 1
``observed_data``   ``x (image, pixel)``, with the labels of the images where they have any
==================  ==============================================================================================

The two entries along ``half`` are independent estimates of the same moments, from half of the draws each: their mean is
the estimate, and how well they agree says how much of it is noise.
"""

from __future__ import annotations

import os
from pathlib import Path

import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.stores import attribute_values, read
from pyro_hvae.storage.writing import check_target, replacing

SCHEMA, SCHEMA_VERSION = "pyro_hvae.audit", "1"
SOURCES = ("guide", "resampled", "reference")
COMMAND = "pyro-hvae audit RUN --out FILE"  # makes one


def audit_schema(tree: xr.DataTree) -> dict[str, dict[str, tuple[str, ...]]]:
    """Variables that an audit has, with their dims; its layers are read from the tree itself."""
    moments: dict[str, tuple[str, ...]] = {"z1_correlation": ("half", "image", "unit", "unit_bis")}
    for site in audit_sites(tree) or ["z1"]:
        moments |= {f"{site}_{moment}": ("half", "image", f"{site}_dim") for moment in ("mean", "variance")}
    return {
        "guide": moments,
        "resampled": {**moments, "ess": ("image",), "pareto_k": ("image",)},
        "reference": {**moments, "r_hat": ("image",), "ess": ("image",)},
        "observed_data": {"x": ("image", "pixel")},
    }


def audit_sites(tree: xr.DataTree) -> list[str]:
    """Layers of an audit, z1 first."""
    if "reference" not in tree.children:
        return []
    found = [str(name)[:-5] for name in tree["reference"].data_vars if str(name).endswith("_mean")]
    return sorted(found, key=lambda name: (len(name), name))  # z2 before z10


def validate_audit(tree: xr.DataTree, name: str = "audit") -> None:
    """Raise HVAEError that names everything missing or misshapen."""
    if (found := tree.attrs.get("schema")) != SCHEMA or str(tree.attrs.get("schema_version")) != SCHEMA_VERSION:
        raise HVAEError(
            f"{name} is no audit of this version of pyro_hvae: schema {found!r}, version "
            f"{tree.attrs.get('schema_version')!r}, expected {SCHEMA!r}, {SCHEMA_VERSION!r}; make one with `{COMMAND}`"
        )
    faults = []
    for group, variables in audit_schema(tree).items():
        for variable, dims in variables.items():
            if group not in tree.children or variable not in tree[group]:
                faults.append(f"{group}/{variable} is missing")
            elif tree[group][variable].dims != dims:
                faults.append(f"{group}/{variable} has dims {tree[group][variable].dims}, not {dims}")
    if faults:
        raise HVAEError(f"{name} breaks the schema of an audit: {'; '.join(faults)}. Make it again")


def write_audit(tree: xr.DataTree, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Check the tree, write it beside ``path``, and rename: there is a whole file or none."""
    path = Path(path)
    validate_audit(tree, str(path))
    check_audit_target(path, overwrite=overwrite)
    written = tree.copy()
    written.attrs = attribute_values({str(name): value for name, value in tree.attrs.items()})
    with replacing(path, overwrite=overwrite, schema=SCHEMA) as partial:
        written.to_netcdf(partial, engine="netcdf4")


def check_audit_target(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse a path to which an audit cannot be written (:func:`~pyro_hvae.storage.writing.check_target`)."""
    if Path(path).suffix in (".zarr", ".png"):
        raise HVAEError(f"an audit is one netCDF file; give a path that ends in .nc instead of {path}")
    check_target(path, overwrite=overwrite, schema=SCHEMA)


def open_audit(path: str | os.PathLike[str]) -> xr.DataTree:
    """Open an audit file lazily and check it. Raises HVAEError where it is missing, damaged or something else."""
    path = Path(path)
    tree = read(path, "netcdf", "audit", COMMAND)
    try:
        validate_audit(tree, str(path))
    except HVAEError:
        tree.close()
        raise
    tree.attrs["file"] = path.name
    return tree
