"""Which patches a result of :func:`~pyro_hvae.densities.yardsticks.yardsticks` is about, and whether it still holds."""

from __future__ import annotations

import hashlib

import numpy as np
import xarray as xr

SCHEMA, SCHEMA_VERSION = "pyro_hvae.yardsticks", 1


def digests(x: np.ndarray) -> np.ndarray:
    """64 bits for the content of every patch, as float32; ``(image,)`` unsigned."""
    rows = np.ascontiguousarray(x, np.float32)
    found = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(found, "<u8").astype(np.uint64)


def matched(fitted: xr.Dataset, x: np.ndarray) -> np.ndarray:
    """Log densities ``(yardstick, image)`` of those of the patches ``x`` that a result is about; NaN for the others.

    Patches are known by their content, whatever their order.
    """
    where = {value: index for index, value in enumerate(fitted["digest"].values.tolist())}
    index = np.array([where.get(value, -1) for value in digests(x).tolist()], int)
    values = fitted["log_density"].transpose("yardstick", "image").values
    return np.where(index >= 0, values[:, index], np.nan)


def outdated(fitted: xr.Dataset, *, sigma: float, held_out: np.ndarray | None = None, **settings: int) -> str:
    """Why a result is not what would be computed now; empty where it is.

    :param settings: ``limit`` and ``seed``, where they matter.
    """
    wanted = {"sigma": sigma} | settings
    other = [f"{name}={fitted.attrs[name]:g}, not {value:g}" for name, value in wanted.items()
             if not np.isclose(fitted.attrs[name], value, rtol=1e-5, atol=0)]  # fmt: skip
    if held_out is not None and not np.array_equal(fitted["digest"].values, digests(held_out)):
        other.append("other held-out patches")
    return ", ".join(other)
