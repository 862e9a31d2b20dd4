"""Illusory contours: Kanizsa squares and their controls, seen through a patch that follows one contour."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.stimuli.displays import Names, Values, axes, product, stimulus_set, within
from pyro_hvae.stimuli.whitening import Whitening

CONDITIONS = ("illusory", "rotated", "disks", "complete", "line")
OVERSAMPLING = 8
_CORNERS = ((-1, 1), (1, 1), (1, -1), (-1, -1))  # left above, and on clockwise


@checked
def illusory_contours(
    size: int = 40,
    *,
    condition: Names = CONDITIONS,
    support_ratio: Values = (0.5,),
    square: Values = (24,),
    shift: Values = (-4, -3, -2, -1, 0, 1, 2, 3, 4),
    contrast: Values = (-0.8,),
    transform: Whitening | None = None,
) -> xr.Dataset:
    """Four disks, one at each corner of a square of `square` pixels, and what they make of it.

    condition
        `"illusory"`: the quarter of each disk inside the square is cut out (Kanizsa). `"rotated"`: the same cuts turned
        by 180°, facing outward, so that nothing is induced. `"disks"`: whole disks. `"complete"`: the illusory figure
        with the missing parts of its contour drawn as a line. `"line"`: that square outline alone.
    support_ratio
        Part of the contour that the disks' cuts draw, between 0 and 1: twice the radius over the side of the square.
    shift
        Pixels by which the whole figure is moved up. At 0 the lower contour of the square runs through the centre of
        the patch, midway between its inducers.
    contrast
        Of disks and lines against the background; below 0 they are dark.

    `family` holds the condition. Drawn at 8 times the resolution and averaged. Lines are one pixel wide.
    """
    for name in np.atleast_1d(condition):
        if name not in CONDITIONS:
            raise unknown("condition", str(name), CONDITIONS)
    within("support_ratio", support_ratio, 0, 1)
    within("square", square, 1, 1e6)
    within("contrast", contrast, -1, 1)
    factors = product(condition=condition, support_ratio=support_ratio, square=square, shift=shift, contrast=contrast)
    images = np.stack([_figure(size, *values) for values in zip(*factors.values(), strict=True)])
    options = {name: np.unique(values).tolist() for name, values in factors.items()}
    family = factors.pop("condition").astype(str)
    return stimulus_set(
        images,
        {**factors, "condition": family},
        kind="illusory_contours",
        options={"size": size, **options},
        transform=transform,
        family=family,
    )


def _figure(
    size: int, condition: str, support_ratio: float, square: float, shift: float, contrast: float
) -> np.ndarray:
    x, y = axes(size * OVERSAMPLING)
    x, y = x / OVERSAMPLING, y / OVERSAMPLING - shift
    half, radius = square / 2, support_ratio * square / 2
    y = y - half  # the lower side of the square lies at 0, its centre half a side above
    if size < 2 * radius:
        raise HVAEError(f"inducers of {2 * radius:g} pixels do not fit a {size}-pixel patch; lower support_ratio.")
    ink = np.zeros(x.shape, bool)
    if condition != "line":
        for sx, sy in _CORNERS:
            dx, dy = x - sx * half, y - sy * half
            inward = (dx * sx < 0) & (dy * sy < 0)
            outward = (dx * sx > 0) & (dy * sy > 0)
            cut = {"rotated": outward, "disks": np.zeros_like(inward)}.get(condition, inward)
            ink |= (np.hypot(dx, dy) <= radius) & ~cut
    if condition in ("complete", "line"):
        farthest = np.maximum(np.abs(x), np.abs(y))
        ink |= np.abs(farthest - half) <= 0.5
    covered = ink.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean(axis=(1, 3))
    return 1 + contrast * covered
