"""Cutting patches at random positions, from regions that are kept apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.intensity import IntensityMap
from pyro_hvae.stimuli.sources import Photograph

Alteration = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True, eq=False)
class Region:
    """A rectangle of a photograph: rows [top, bottom), columns [left, right)."""

    photograph: Photograph
    top: int
    bottom: int
    left: int
    right: int

    def luminance(self, size: int) -> np.ndarray:
        """Luminance of the region, for patches of side `size`."""
        return self.photograph.luminance(size)[self.top : self.bottom, self.left : self.right]

    def positions(self, size: int) -> int:
        """Number of different patches in it."""
        return max(0, self.bottom - self.top - size + 1) * max(0, self.right - self.left - size + 1)


@dataclass(frozen=True, eq=False)
class Cut:
    """Matched patches (image, pixel) with the index of their region and their position in the photograph."""

    x: np.ndarray
    region: np.ndarray
    row: np.ndarray
    column: np.ndarray


def whole(photograph: Photograph, shape: tuple[int, int]) -> Region:
    """The region that is all of a photograph of `shape`."""
    return Region(photograph, 0, shape[0], 0, shape[1])


def halves(photograph: Photograph, shape: tuple[int, int], size: int, test_fraction: float) -> tuple[Region, Region]:
    """Training and test region of one photograph: cut across its longer side, sharing no pixel.

    Raises `HVAEError` where one of them cannot hold a patch.
    """
    axis = int(shape[1] >= shape[0])
    border = round(shape[axis] * (1 - test_fraction))
    if min(border, shape[axis] - border) < size:
        raise HVAEError(
            f"{photograph.name}: {shape[0]}×{shape[1]} pixels cannot be split into a training and a test region "
            f"(test_fraction={test_fraction:g}) that both hold a {size}×{size} patch; give a larger photograph."
        )
    if axis:
        return Region(photograph, 0, shape[0], 0, border), Region(photograph, 0, shape[0], border, shape[1])
    return Region(photograph, 0, border, 0, shape[1]), Region(photograph, border, shape[0], 0, shape[1])


def cut(
    regions: Sequence[Region],
    counts: Sequence[int],
    size: int,
    intensities: Sequence[IntensityMap],
    rng: np.random.Generator,
    alter: Alteration | None = None,
    centre: bool = False,
) -> Cut:
    """Cut `counts[i]` different patches at random positions of `regions[i]`, in random order over all regions.

    Region i's luminance is matched by `intensities[i]`, with the region's own median as its exposure; where `centre`, its
    mean is subtracted, and where `alter` is given, it is altered (with a stream of its own: positions stay the same).
    One photograph is in memory at a time.
    """
    streams = rng.spawn(len(regions)) if alter else []
    total = int(sum(counts))
    order = rng.permutation(total)
    x = np.empty((total, size * size), np.float32)
    index, row, column = (np.empty(total, np.int32) for _ in range(3))
    start = 0
    for i, (region, count, intensity) in enumerate(zip(regions, counts, intensities, strict=True)):
        slots = order[start : start + count]
        start += count
        matched = intensity(region.luminance(size))
        if centre:
            matched -= matched.mean()
        if alter:
            matched = alter(matched, streams[i])
        windows = sliding_window_view(matched, (size, size))
        r, c = np.divmod(rng.choice(region.positions(size), count, replace=False), windows.shape[1])
        x[slots] = windows[r, c].reshape(count, size * size)
        index[slots], row[slots], column[slots] = i, r + region.top, c + region.left
    return Cut(x, index, row, column)


def proportional(regions: Sequence[Region], total: int, size: int, what: str) -> list[int]:
    """Share `total` patches among regions in proportion to their positions (largest remainders, exact total).

    Raises `HVAEError` where there are fewer positions than patches.
    """
    positions = [region.positions(size) for region in regions]
    available = sum(positions)
    if total > available:
        raise HVAEError(
            f"{total:,} {what} patches asked for, and the {len(regions)} photograph(s) of that set hold {available:,} "
            f"different {size}×{size} patches; ask for fewer, or give more or larger photographs."
        )
    exact = [total * n / available for n in positions]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
