"""The physiology file: what the units of a pair answer to a physiologist's stimuli, as labelled arrays.

A netCDF-4 file that opens as an :class:`xarray.DataTree`. Each layer has its own variables, ``zl_…``, over the units that
were measured, ``zl_unit`` (index into zl). ``mean`` and ``sd`` are those of the posterior of a unit given a stimulus.

====================  ============================================================================================
group                 variables (dims)
====================  ============================================================================================
``blank``             ``zl_mean``, ``zl_sd (zl_unit)``: at a uniform field
``gratings``          ``zl_mean``, ``zl_sd (zl_unit, orientation, frequency, phase)``: full-field gratings
``preferred``         ``zl_orientation``, ``zl_frequency``, ``zl_x``, ``zl_y (zl_unit)``: with which each unit's own series
                      below were drawn (degrees, cycles/pixel, pixels right of and above the centre)
``places``            ``zl_mean``, ``zl_sd (zl_unit, y_position, x_position, phase)``: small Gabors over the patch
``contrast``          … ``(zl_unit, contrast, phase)``: the preferred grating, full field
``size``              … ``(zl_unit, diameter, phase)``: in a disk about the unit's place
``annulus``           … ``(zl_unit, inner_diameter, phase)``: in an annulus about it, as wide as the patch
``plaid``             … ``(zl_unit, part, mask_phase, phase)``: the preferred grating (``test``), one at right angles
                      (``mask``), and both (``plaid``)
``natural_contrast``  ``zl_variance``, ``zl_mean (scale, image, zl_unit)``, ``zl_from_above`` (z1 alone; Var[E[z1
                      | z2]]): natural images, multiplied by ``scale``
``texture``           ``zl_texture_mean``, ``zl_noise_mean (family, patch, zl_unit)``: patches of texture families and of
                      noise of the same spectrum
``optima``            ``zl_most``, ``zl_least (zl_optimum, start, pixel)``: images of one norm that excite a unit most and
                      least, by start; ``zl_most_response``, ``zl_least_response (zl_optimum, start)``;
                      ``zl_natural_response (zl_optimum, image)``: to natural images brought to that norm
``time_course``       ``zl_mean (time, image, zl_unit)``: mean over chains of Langevin dynamics after the onset of an image, in
                      time constants; ``kind (image)``: ``natural``, or the condition of an illusory contour
====================  ============================================================================================

``blank``, ``gratings`` and ``preferred`` are in every file, the others where they were asked for. Root attributes: those of
the posterior file, and ``response`` (of which the preferred values are), ``pixels_per_degree``, ``contrast``, ``draws``.
"""

from __future__ import annotations

import os
from pathlib import Path

import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.stores import attribute_values, read
from pyro_hvae.storage.writing import check_target, replacing

SCHEMA, SCHEMA_VERSION = "pyro_hvae.physiology", "1"
COMMAND = "pyro-hvae physiology RUN --out DIR"  # makes one
REQUIRED = ("blank", "gratings", "preferred")


def physiology_sites(tree: xr.DataTree) -> list[str]:
    """Layers that were measured, z1 first."""
    if "blank" not in tree.children:
        return []
    found = [str(name)[:-5] for name in tree["blank"].data_vars if str(name).endswith("_mean")]
    return sorted(found, key=lambda name: (len(name), name))


def physiology_schema(tree: xr.DataTree) -> dict[str, dict[str, tuple[str, ...]]]:
    """Variables of every group that a file may have, with their dims."""
    schema: dict[str, dict[str, tuple[str, ...]]] = {}
    for site in physiology_sites(tree) or ["z1"]:
        unit, optimum = f"{site}_unit", f"{site}_optimum"
        series = {
            "blank": (unit,),
            "gratings": (unit, "orientation", "frequency", "phase"),
            "places": (unit, "y_position", "x_position", "phase"),
            "contrast": (unit, "contrast", "phase"),
            "size": (unit, "diameter", "phase"),
            "annulus": (unit, "inner_diameter", "phase"),
            "plaid": (unit, "part", "mask_phase", "phase"),
        }
        groups = {name: {f"{site}_{m}": dims for m in ("mean", "sd")} for name, dims in series.items()}
        groups["preferred"] = {f"{site}_{name}": (unit,) for name in ("orientation", "frequency", "x", "y")}
        names = ("variance", "mean", *(("from_above",) if site == "z1" else ()))
        groups["natural_contrast"] = {f"{site}_{name}": ("scale", "image", unit) for name in names}
        groups["texture"] = {f"{site}_{kind}_mean": ("family", "patch", unit) for kind in ("texture", "noise")}
        groups["optima"] = {
            **{f"{site}_{which}": (optimum, "start", "pixel") for which in ("most", "least")},
            **{f"{site}_{which}_response": (optimum, "start") for which in ("most", "least")},
            f"{site}_natural_response": (optimum, "image"),
        }
        groups["time_course"] = {f"{site}_mean": ("time", "image", unit), "kind": ("image",)}
        for name, variables in groups.items():
            schema.setdefault(name, {}).update(variables)
    return schema


def validate_physiology(tree: xr.DataTree, name: str = "physiology file") -> None:
    """Raise HVAEError that names everything missing or misshapen."""
    if (found := tree.attrs.get("schema")) != SCHEMA or str(tree.attrs.get("schema_version")) != SCHEMA_VERSION:
        raise HVAEError(
            f"{name} is no physiology file of this version of pyro_hvae: schema {found!r}, version "
            f"{tree.attrs.get('schema_version')!r}, expected {SCHEMA!r}, {SCHEMA_VERSION!r}; make one with `{COMMAND}`"
        )
    faults = [f"the attribute {a} is missing" for a in ("response", "pixels_per_degree") if a not in tree.attrs]
    for group, variables in physiology_schema(tree).items():
        if group not in tree.children and group not in REQUIRED:
            continue
        for variable, dims in variables.items():
            if group not in tree.children or variable not in tree[group]:
                faults.append(f"{group}/{variable} is missing")
            elif tree[group][variable].dims != dims:
                faults.append(f"{group}/{variable} has dims {tree[group][variable].dims}, not {dims}")
    if faults:
        raise HVAEError(f"{name} breaks the schema of a physiology file: {'; '.join(faults)}. Make it again")


def write_physiology(tree: xr.DataTree, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Check the tree, write it beside ``path``, and rename: there is a whole file or none."""
    path = Path(path)
    validate_physiology(tree, str(path))
    check_physiology_target(path, overwrite=overwrite)
    written = tree.copy()
    written.attrs = attribute_values({str(name): value for name, value in tree.attrs.items()})
    with replacing(path, overwrite=overwrite, schema=SCHEMA) as partial:
        written.to_netcdf(partial, engine="netcdf4")


def check_physiology_target(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse a path to which the file cannot be written (:func:`~pyro_hvae.storage.writing.check_target`)."""
    if Path(path).suffix in (".zarr", ".png"):
        raise HVAEError(f"a physiology file is one netCDF file; give a path that ends in .nc instead of {path}")
    check_target(path, overwrite=overwrite, schema=SCHEMA)


def open_physiology(path: str | os.PathLike[str]) -> xr.DataTree:
    """Open a physiology file lazily and check it. Raises HVAEError where it is missing, damaged or something else."""
    path = Path(path)
    tree = read(path, "netcdf", "physiology file", COMMAND)
    try:
        validate_physiology(tree, str(path))
    except HVAEError:
        tree.close()
        raise
    tree.attrs["file"] = path.name
    return tree
