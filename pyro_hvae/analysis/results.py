"""What every analysis shares: provenance, sets of images, uncertainty, and the form in which numbers are handed on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import images, label

#: Root attributes of the posterior file that every result carries on.
PROVENANCE = ("file", "preset", "model", "guide", "objective", "particles", "seed", "git_revision", "created")
Z95 = 1.959964


def result(
    tree: xr.DataTree, analysis: str, variables: dict[str, Any], coords: dict[str, Any], notes: Sequence[str]
) -> xr.Dataset:
    """Dataset of one analysis with the attributes of the file it came from and the notes a reader must see."""
    attrs = {"analysis": analysis} | {name: tree.attrs[name] for name in PROVENANCE if name in tree.attrs}
    return xr.Dataset(variables, coords, attrs | {"notes": "\n".join(notes)})


def quantity(
    name: str,
    dims: Sequence[str],
    value: Any,
    *,
    title: str,
    unit: str,
    n: Any,
    se: Any = None,
    interval: Any = None,
) -> dict[str, xr.Variable]:
    """Variables of one reported quantity: ``name``, ``name_n`` and ``name_se`` or ``name_interval (..., end)``.

    ``interval`` holds both ends of a 95% interval along its last axis. NaN stands for "not available".
    """
    if (se is None) == (interval is None):
        raise HVAEError(f"quantity {name}: give either se or interval")
    value = np.asarray(value, dtype=float)
    made = {
        name: xr.Variable(dims, value, {"long_name": title, "units": unit, "quantity": 1}),
        f"{name}_n": xr.Variable(dims, np.broadcast_to(np.asarray(n), value.shape).copy()),
    }
    if se is not None:
        made[f"{name}_se"] = xr.Variable(dims, np.broadcast_to(np.asarray(se, dtype=float), value.shape).copy())
    else:
        made[f"{name}_interval"] = xr.Variable((*dims, "end"), np.asarray(interval, dtype=float))
    return made


def collect(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Every quantity of a result as JSON-ready objects; NaN becomes None.

    Each object holds ``analysis``, ``name`` (with the entry in brackets where the quantity has several), ``title``,
    ``value``, ``se`` or ``interval`` (95%), ``n`` and ``unit``.
    """
    found = []
    for name, variable in dataset.data_vars.items():
        if not variable.attrs.get("quantity"):
            continue
        for index in np.ndindex(variable.shape):
            at = dict(zip(variable.dims, index, strict=True))
            keys = [str(dataset[dim].values[i]) for dim, i in at.items()]
            entry: dict[str, Any] = {
                "analysis": dataset.attrs["analysis"],
                "name": f"{name}[{', '.join(keys)}]" if keys else str(name),
                "title": ", ".join([variable.attrs["long_name"], *keys]).replace("_", " "),
                "value": number(variable.values[index]),
                "n": int(dataset[f"{name}_n"].values[index]),
                "unit": variable.attrs["units"],
            }
            if f"{name}_se" in dataset:
                entry["se"] = number(dataset[f"{name}_se"].values[index])
            else:
                entry["interval"] = [number(bound) for bound in dataset[f"{name}_interval"].isel(at).values]
            found.append(entry)
    return found


def number(value: Any) -> float | int | None:
    """A Python number for JSON: integers stay integers, NaN and infinities become None."""
    value = float(value)
    if not np.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


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


def mean_and_se(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error over independent entries; the error of a single entry is NaN."""
    n = values.shape[axis]
    mean = values.mean(axis)
    if n < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, values.std(axis, ddof=1) / np.sqrt(n)


def jackknife(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], groups: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """A statistic of summed per-image terms and its standard error by the delete-a-group jackknife (Quenouille, Tukey).

    ``sums (image, term)`` are added over images before ``statistic`` sees them, so it must be a function of sums
    (a ratio, a moment). Images are independent; they are dealt to ``groups`` at random, with a fixed seed.
    """
    n = len(sums)
    total = sums.sum(0)
    value = np.asarray(statistic(total), dtype=float)
    groups = min(groups, n)
    if groups < 2:
        return value, np.full_like(value, np.nan)
    group = np.random.default_rng(0).permutation(np.arange(n) % groups)
    parts = np.stack([np.bincount(group, weights=column, minlength=groups) for column in sums.T], axis=1)
    left_out = np.stack([np.asarray(statistic(total - part), dtype=float) for part in parts])
    spread = ((left_out - left_out.mean(0)) ** 2).sum(0)
    return value, np.sqrt((groups - 1) / groups * spread)


def binomial_interval(hits: int, n: int) -> tuple[float, tuple[float, float]]:
    """Share and its 95% interval (Wilson 1927)."""
    if n == 0:
        return np.nan, (np.nan, np.nan)
    share, z2 = hits / n, Z95**2 / n
    middle = (share + z2 / 2) / (1 + z2)
    half = Z95 * np.sqrt(share * (1 - share) / n + z2 / (4 * n)) / (1 + z2)
    return share, (max(middle - half, 0.0) if hits else 0.0, min(middle + half, 1.0) if hits < n else 1.0)


def export_settings(tree: xr.DataTree) -> dict[str, Any]:
    """``draws``, ``resample`` and ``moment_draws`` with which the posterior was exported; empty where not recorded."""
    try:
        settings = json.loads(str(tree.attrs.get("configuration", ""))).get("posterior")
    except (ValueError, AttributeError):
        return {}
    return settings if isinstance(settings, dict) else {}


def patch_side(pixels: int) -> int:
    """Side of a square patch of so many pixels. Raises HVAEError where it is not square."""
    side = round(pixels**0.5)
    if side * side != pixels:
        raise HVAEError(f"{pixels} pixels are no square patch; pictures and spectra need one")
    return side
