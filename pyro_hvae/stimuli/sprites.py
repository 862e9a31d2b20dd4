"""Sprites: shapes whose factors are known, on the grid of dSprites, drawn when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.displays import axes, stimulus_set, train_and_test, within
from pyro_hvae.stimuli.patches import PatchData
from pyro_hvae.stimuli.whitening import Whitening

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.7


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u**2 + (v / 0.5) ** 2 <= 1


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = 1.3 * u, 1.3 * v + 0.1
    c = a * a + b * b - 1
    return c * c * c <= a * a * b * b * b


INSIDE: dict[str, Inside] = {"square": _square, "ellipse": _ellipse, "heart": _heart}
SHAPES = tuple(INSIDE)
SCALES = np.linspace(0.5, 1, 6)
ORIENTATIONS = np.linspace(0, 360, 40)
POSITIONS = 32  # along either axis
GRID = (len(SHAPES), len(SCALES), len(ORIENTATIONS), POSITIONS, POSITIONS)
RADIUS = 0.2  # of the circle around the largest sprite, in sides of the image
OVERSAMPLING = 4


@dataclass(frozen=True)
class Sprites:
    """The 737,280 images of 3 shapes × 6 scales × 40 orientations × 32 × 32 positions; nothing is drawn before `draw`.

    The grid is that of dSprites (Matthey, Higgins, Hassabis & Lerchner 2017), in its order: position varies fastest,
    shape slowest. The drawings are not: they are soft-edged, and the shapes have other proportions.
    """

    size: int = 64

    def __len__(self) -> int:
        return int(np.prod(GRID))

    def factors(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Shape, scale, orientation (degrees), and position of the centre (pixels right and up) of images by number."""
        index = np.asarray(index)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise HVAEError(f"sprites are numbered from 0 to {len(self) - 1:,}; got {index.min()} to {index.max()}.")
        shape, scale, orientation, column, row = np.unravel_index(index, GRID)
        reach = self.size / 2 - RADIUS * self.size - 0.5
        place = np.linspace(-reach, reach, POSITIONS)
        return {
            "shape": np.array(SHAPES)[shape],
            "scale": SCALES[scale],
            "orientation": ORIENTATIONS[orientation],
            "x_position": place[column],
            "y_position": place[row],
        }

    def draw(self, index: np.ndarray) -> np.ndarray:
        """Coverage (image, size, size) of every pixel by the sprite, 0 to 1, float32."""
        factors = {name: np.atleast_1d(values) for name, values in self.factors(index).items()}
        out = np.zeros((len(factors["shape"]), self.size, self.size), np.float32)
        columns, rows = axes(self.size)
        box = min(int(np.ceil(2 * RADIUS * self.size)) + 2, self.size)  # holds the largest sprite
        inner = ((np.arange(box * OVERSAMPLING) + 0.5) / OVERSAMPLING)[None]
        for image, (shape, scale, orientation, x, y) in zip(out, zip(*factors.values(), strict=True), strict=True):
            left = int(np.clip(x - columns[0, 0] - box / 2 + 1, 0, self.size - box))
            top = int(np.clip(rows[0, 0] - y - box / 2 + 1, 0, self.size - box))
            dx = columns[0, left] - 0.5 + inner - x
            dy = (rows[top, 0] + 0.5 - inner - y).T
            angle, radius = np.deg2rad(orientation), RADIUS * self.size * scale
            u = (dx * np.cos(angle) + dy * np.sin(angle)) / radius
            v = (dy * np.cos(angle) - dx * np.sin(angle)) / radius
            inside = INSIDE[shape](u, v).reshape(box, OVERSAMPLING, box, OVERSAMPLING)
            image[top : top + box, left : left + box] = inside.mean(axis=(1, 3))
        return out


@checked
def sprites(
    size: int = 64,
    *,
    train: int = 8000,
    test: int = 2000,
    contrast: float = 1.0,
    seed: int = 0,
    transform: Whitening | None = None,
) -> PatchData:
    """Random images of the grid of `Sprites`, none twice in a set, with their factors as coordinates.

    Sprites have luminance 1 + `contrast` on a background of 1. `family` holds the shape, `number` the place in the
    grid. `len(Sprites())` images are too many for one file: draw others with `Sprites(size).draw(numbers)`.
    """
    within("contrast", contrast, -1, 100)
    drawn = Sprites(size)
    if max(train, test) > len(drawn):
        raise HVAEError(f"train={train:,} and test={test:,}; there are {len(drawn):,} sprites.")

    def make(split: str, count: int, rng: np.random.Generator) -> xr.Dataset:
        number = rng.choice(len(drawn), count, replace=False)
        labels = drawn.factors(number)
        family = labels.pop("shape")
        luminance = 1 + np.float32(contrast) * drawn.draw(number)
        return stimulus_set(
            luminance, {**labels, "number": number}, kind="sprites", options={"size": size, "contrast": contrast},
            transform=transform, seed=seed, family=family, split=split,
        )  # fmt: skip

    return train_and_test(make, train=train, test=test, seed=seed, size=size, transform=transform)
