"""How analyses read a posterior file: sets of images, finite values, block by block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import images, label


def image_sets(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Boolean masks over images of the non-empty sets: ``natural`` (no family) and ``texture`` (any family)."""
    families = label(tree, "family")
    natural = np.ones(images(tree), bool) if families is None else families == ""
    return {name: mask for name, mask in (("natural", natural), ("texture", ~natural)) if mask.any()}


def natural_images(tree: xr.DataTree, mask: np.ndarray) -> tuple[np.ndarray, str]:
    """``mask`` confined to natural images where it holds any, else as it is; and which set that is, in words."""
    natural = mask & image_sets(tree).get("natural", False)
    return (natural, "natural") if natural.any() else (mask, "texture")


def complete_images(tree: xr.DataTree, paths: Sequence[str], notes: list[str]) -> np.ndarray:
    """Mask of the images whose values are finite in all of ``paths`` (``group/variable``); says so where some are not.

    Raises HVAEError where no image is left.
    """
    complete = np.ones(images(tree), bool)
    for path in paths:
        array: xr.DataArray = tree[path]  # type: ignore[assignment]
        finite = xr.apply_ufunc(np.isfinite, array, dask="allowed").all(set(array.dims) - {"image"}).values
        if not finite.all():
            notes.append(f"{int((~finite).sum())} of {finite.size} images left out: {path} is not finite there")
        complete &= finite
    if not complete.any():
        raise HVAEError(f"no image has finite values in {', '.join(paths)}; was the run that was exported diverging?")
    return complete


def finite_array(tree: xr.DataTree, path: str) -> np.ndarray:
    """Values of an array without image dim as float64. Raises HVAEError where one is not finite."""
    values = np.asarray(tree[path].values, dtype=float)
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise HVAEError(f"{path} holds {count} values that are not finite; was the run that was exported diverging?")
    return values


def selected(tree: xr.DataTree, path: str, images: np.ndarray) -> np.ndarray:
    """Values of a per-image array as float64 at ``images`` (a mask or indices), images first."""
    array = tree[path].transpose("image", ...)
    indices = np.flatnonzero(images) if images.dtype == bool else images
    return np.asarray(array.isel(image=indices).values, dtype=float)


def blocks(images: np.ndarray, size: int = 4096) -> Iterator[np.ndarray]:
    """Indices of the images of a mask, in blocks that keep memory bounded."""
    indices = np.flatnonzero(images)
    for start in range(0, indices.size, size):
        yield indices[start : start + size]


def export_settings(tree: xr.DataTree) -> dict[str, Any]:
    """``draws``, ``resample`` and ``moment_draws`` with which the posterior was exported; empty where not recorded."""
    try:
        settings = json.loads(str(tree.attrs.get("configuration", ""))).get("posterior")
    except (ValueError, AttributeError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def patch_side(pixels: int) -> int:
    """Side of a square patch of so many pixels. Raises HVAEError where it is not square."""
    side = round(pixels**0.5)
    if side * side != pixels:
        raise HVAEError(f"{pixels} pixels are no square patch; pictures and spectra need one")
    return side
