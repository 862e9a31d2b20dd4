"""Pen-stroke digits whose thickness, slant, length, width and height are known because they were drawn with them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked
from pyro_hvae.stimuli.displays import axes, stimulus_set, train_and_test, within
from pyro_hvae.stimuli.patches import PatchData
from pyro_hvae.stimuli.whitening import Whitening

Stroke = tuple[bool, tuple[tuple[float, float], ...]]
#: Strokes of each digit in a unit box, up being positive: whether it is smooth, and the points it goes through.
STROKES: tuple[tuple[Stroke, ...], ...] = (
    ((True, ((0.5, 1), (0.15, 0.8), (0, 0.5), (0.15, 0.2), (0.5, 0), (0.85, 0.2), (1, 0.5), (0.85, 0.8), (0.5, 1))),),
    ((False, ((0.2, 0.75), (0.6, 1), (0.6, 0))), (False, ((0.2, 0), (1, 0)))),
    ((True, ((0.05, 0.75), (0.3, 0.98), (0.72, 0.95), (0.85, 0.68), (0.5, 0.33), (0.05, 0))), (False, ((0.05, 0), (1, 0)))),
    ((True, ((0.05, 0.87), (0.45, 1), (0.85, 0.78), (0.4, 0.54))), (True, ((0.4, 0.54), (0.95, 0.28), (0.5, 0), (0, 0.13)))),
    ((False, ((0.7, 0), (0.7, 1), (0, 0.32), (1, 0.32))),),
    ((False, ((0.9, 1), (0.15, 1), (0.1, 0.56))), (True, ((0.1, 0.56), (0.55, 0.63), (0.95, 0.33), (0.55, 0), (0, 0.1)))),
    ((True, ((0.8, 1), (0.3, 0.78), (0.03, 0.35), (0.5, 0), (0.95, 0.27), (0.55, 0.54), (0.06, 0.3))),),
    ((False, ((0, 1), (1, 1), (0.35, 0))),),
    ((True, ((0.5, 0.53), (0.12, 0.77), (0.5, 1), (0.88, 0.77), (0.5, 0.53), (0.02, 0.25), (0.5, 0), (0.98, 0.25),
            (0.5, 0.53))),),
    ((True, ((0.2, 0), (0.7, 0.22), (0.97, 0.65), (0.5, 1), (0.05, 0.73), (0.45, 0.46), (0.94, 0.7))),),
)  # fmt: skip
PIECES = 6  # straight pieces between two points of a smooth stroke


@checked
def digits(
    size: int = 28,
    *,
    train: int = 8000,
    test: int = 2000,
    contrast: float = 1.0,
    wobble: float = 0.03,
    seed: int = 0,
    transform: Whitening | None = None,
) -> PatchData:
    """Digits drawn with a round pen, all ten equally often (counts are rounded down to tens), factors as coordinates.

    `thickness` of the pen, `width` and `height` of the path of its middle before slanting, `length` of that path (all
    in pixels), `slant` (degrees to the right of upright): the measures of Castro et al. (Morpho-MNIST, JMLR 20, 2019),
    here known rather than estimated. `wobble` is the standard deviation by which the points of the strokes are moved,
    in parts of the digit's box. Ink has luminance 1 + `contrast` on a background of 1. `family` is the digit.
    """
    within("contrast", contrast, -1, 100)
    within("wobble", wobble, 0, 0.2)
    options = {"size": size, "contrast": contrast, "wobble": wobble}

    def make(split: str, count: int, rng: np.random.Generator) -> xr.Dataset:
        each = max(count // 10, 1)
        digit = rng.permutation(np.repeat(np.arange(10), each))
        n = len(digit)
        labels = {
            "thickness": rng.uniform(0.04, 0.13, n) * size,
            "slant": rng.uniform(-20, 25, n),
            "width": rng.uniform(0.3, 0.5, n) * size,
            "height": rng.uniform(0.5, 0.7, n) * size,
        }
        ink, labels["length"] = np.empty((n, size, size), np.float32), np.empty(n)
        for i, factors in enumerate(zip(digit, *labels.values(), strict=False)):
            which, thickness, slant, width, height = factors[:5]
            lines = [_placed(s, width, height, slant) for s in _wobbled(STROKES[which], wobble, rng)]
            labels["length"][i] = sum(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in lines)
            ink[i] = np.clip(thickness / 2 + 0.5 - _distance(lines, size), 0, 1)
        return stimulus_set(
            1 + np.float32(contrast) * ink, labels, kind="digits", options=options, transform=transform, seed=seed,
            family=digit.astype(str), split=split,
        )  # fmt: skip

    return train_and_test(make, train=train // 10 * 10, test=test // 10 * 10, seed=seed, size=size, transform=transform)


def _wobbled(strokes: tuple[Stroke, ...], wobble: float, rng: np.random.Generator) -> list[np.ndarray]:
    """The strokes as polygons (point, 2) that fill the unit box, their points moved; equal points stay together."""
    moved: dict[tuple[float, float], np.ndarray] = {}
    lines = []
    for smooth, points in strokes:
        through = np.stack([moved.setdefault(p, np.array(p) + wobble * rng.standard_normal(2)) for p in points])
        lines.append(_smooth(through) if smooth else through)
    everything = np.concatenate(lines)
    low, high = everything.min(0), everything.max(0)
    return [(line - low) / (high - low) for line in lines]


def _smooth(points: np.ndarray) -> np.ndarray:
    """Catmull–Rom spline through the points; closed where the last is the first."""
    closed = np.array_equal(points[0], points[-1])
    before = points[-2] if closed else 2 * points[0] - points[1]
    after = points[1] if closed else 2 * points[-1] - points[-2]
    p = np.concatenate([[before], points, [after]])
    t = np.linspace(0, 1, PIECES, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate([*pieces, points[-1:]])


def _placed(line: np.ndarray, width: float, height: float, slant: float) -> np.ndarray:
    """In pixels from the centre of the image, slanted about it."""
    x, y = (line[:, 0] - 0.5) * width, (line[:, 1] - 0.5) * height
    return np.stack([x + y * np.tan(np.deg2rad(slant)), y], axis=1)


def _distance(lines: list[np.ndarray], size: int) -> np.ndarray:
    """Distance (size, size) of every pixel centre from the nearest point of any line."""
    x, y = (axis.reshape(-1, 1).astype(np.float32) for axis in axes(size))
    start = np.concatenate([line[:-1] for line in lines]).astype(np.float32)
    step = np.concatenate([np.diff(line, axis=0) for line in lines]).astype(np.float32)
    dx, dy = x - start[:, 0], y - start[:, 1]
    squared = np.maximum((step**2).sum(-1), np.float32(1e-9))
    along = np.clip((dx * step[:, 0] + dy * step[:, 1]) / squared, 0, 1)
    nearest = ((dx - along * step[:, 0]) ** 2 + (dy - along * step[:, 1]) ** 2).min(-1)
    return np.sqrt(nearest).reshape(size, size)
