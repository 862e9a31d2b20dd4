"""Gratings, Gabors, differences of Gaussians, plaids, bars and edges, with their factors as coordinates.

Conventions. Luminance is `1 + contrast · pattern`, the pattern between −1 and 1 and the background 1, so that `contrast`
is Michelson contrast for gratings. Orientation is that of the stripes, in degrees counter-clockwise from horizontal as
seen on the page: 90 is vertical. Positions are in pixels from the centre of the patch, right and up. A phase of 0
puts the brightest point of a stripe at the position, 90 makes it odd. Every list is crossed with every other.
Edges of bars, apertures and steps are as soft as one pixel, so that they do not jump with position.

A stimulus with one luminance contrast has no single contrast after the logarithm of the transform: that of a bright
half is smaller than of a dark half. Below a contrast of 0.3 this hardly matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.displays import Values, axes, product, stimulus_set, within
from pyro_hvae.stimuli.whitening import Whitening

ORIENTATIONS = tuple(range(0, 180, 15))
PHASES = (0, 90, 180, 270)
Pattern = Callable[..., np.ndarray]


@checked
def gratings(
    size: int = 20,
    *,
    orientation: Values = ORIENTATIONS,
    frequency: Values = (0.1, 0.15, 0.2, 0.25),
    phase: Values = PHASES,
    contrast: Values = (0.3,),
    diameter: Values = (0,),
    inner_diameter: Values = (0,),
    x_position: Values = (0,),
    y_position: Values = (0,),
    transform: Whitening | None = None,
) -> xr.Dataset:
    """Sinusoidal gratings cos(2π f u + phase), full-field (`diameter` 0), in a disk, or in an annulus round a blank disk.

    Several diameters make a size series, several inner ones an annulus series, several contrasts a contrast series.
    `frequency` in cycles/pixel, at most 0.5; `inner_diameter` is that of the blank disk, 0 for none.
    """
    within("frequency", frequency, 0, 0.5)
    factors = product(
        orientation=orientation, frequency=frequency, phase=phase, contrast=contrast, diameter=diameter,
        inner_diameter=inner_diameter, x_position=x_position, y_position=y_position,
    )  # fmt: skip

    def pattern(
        x: np.ndarray, y: np.ndarray, orientation: Any, frequency: Any, phase: Any, diameter: Any, inner_diameter: Any
    ) -> np.ndarray:
        across, _ = _along(x, y, orientation)
        blank = np.where(np.asarray(inner_diameter) > 0, _disk(x, y, inner_diameter), 0.0)
        return _wave(across, frequency, phase) * _disk(x, y, diameter) * (1 - blank)

    return _draw("gratings", size, pattern, factors, transform)


@checked
def gabors(
    size: int = 20,
    *,
    orientation: Values = ORIENTATIONS,
    frequency: Values = (0.1, 0.15, 0.2, 0.25),
    phase: Values = PHASES,
    sd: Values = (2.5,),
    contrast: Values = (0.3,),
    x_position: Values = (0,),
    y_position: Values = (0,),
    transform: Whitening | None = None,
) -> xr.Dataset:
    """Gratings under a round Gaussian envelope of standard deviation `sd` pixels."""
    within("frequency", frequency, 0, 0.5)
    within("sd", sd, 0.25, 1e6)
    factors = product(
        orientation=orientation, frequency=frequency, phase=phase, sd=sd, contrast=contrast,
        x_position=x_position, y_position=y_position,
    )  # fmt: skip

    def pattern(x: np.ndarray, y: np.ndarray, orientation: Any, frequency: Any, phase: Any, sd: Any) -> np.ndarray:
        across, _ = _along(x, y, orientation)
        return _wave(across, frequency, phase) * np.exp(-(x**2 + y**2) / (2 * sd**2))

    return _draw("gabors", size, pattern, factors, transform)


@checked
def differences_of_gaussians(
    size: int = 20,
    *,
    sd: Values = (1.0, 1.5, 2.0, 3.0),
    surround_ratio: Values = (1.6,),
    surround_weight: Values = (0.39,),
    contrast: Values = (0.3, -0.3),
    x_position: Values = (0,),
    y_position: Values = (0,),
    transform: Whitening | None = None,
) -> xr.Dataset:
    """Centre and surround: exp(−r²/2 sd²) − w exp(−r²/2 (k sd)²), divided by 1 − w so that the centre reaches `contrast`.

    `surround_ratio` is k; `surround_weight` w; with w = 1/k² (0.39 for 1.6) the two cancel
    in total. A negative contrast makes a dark centre.
    """
    within("sd", sd, 0.25, 1e6)
    within("surround_ratio", surround_ratio, 1, 1e6)
    within("surround_weight", surround_weight, 0, 0.99)
    factors = product(
        sd=sd, surround_ratio=surround_ratio, surround_weight=surround_weight, contrast=contrast,
        x_position=x_position, y_position=y_position,
    )  # fmt: skip

    def pattern(x: np.ndarray, y: np.ndarray, sd: Any, surround_ratio: Any, surround_weight: Any) -> np.ndarray:
        squared = (x**2 + y**2) / (2 * sd**2)
        return (np.exp(-squared) - surround_weight * np.exp(-squared / surround_ratio**2)) / (1 - surround_weight)

    return _draw("differences_of_gaussians", size, pattern, factors, transform)


@checked
def plaids(
    size: int = 20,
    *,
    orientation: Values = ORIENTATIONS,
    angle: Values = (90,),
    frequency: Values = (0.15,),
    phase: Values = PHASES,
    contrast: Values = (0.15,),
    mask_contrast: Values = (0, 0.15),
    mask_phase: Values = (0,),
    diameter: Values = (0,),
    x_position: Values = (0,),
    y_position: Values = (0,),
    transform: Whitening | None = None,
) -> xr.Dataset:
    """Sums of two gratings, the second (the mask) turned by `angle` degrees from the first and of phase `mask_phase`.

    `contrast` is that of the first, `mask_contrast` that of the second; their sum is at most 1.
    """
    within("frequency", frequency, 0, 0.5)
    factors = product(
        orientation=orientation, angle=angle, frequency=frequency, phase=phase, contrast=contrast,
        mask_contrast=mask_contrast, mask_phase=mask_phase, diameter=diameter, x_position=x_position,
        y_position=y_position,
    )  # fmt: skip
    total = np.abs(factors["contrast"]) + np.abs(factors["mask_contrast"])
    within("contrast + mask_contrast", float(total.max()), 0, 1)

    def pattern(
        x: np.ndarray, y: np.ndarray, orientation: Any, angle: Any, frequency: Any, phase: Any, contrast: Any,
        mask_contrast: Any, mask_phase: Any, diameter: Any,
    ) -> np.ndarray:  # fmt: skip
        one, _ = _along(x, y, orientation)
        other, _ = _along(x, y, orientation + angle)
        waves = contrast * _wave(one, frequency, phase) + mask_contrast * _wave(other, frequency, mask_phase)
        return waves * _disk(x, y, diameter)

    return _draw("plaids", size, pattern, factors, transform, scale=None)


@checked
def bars(
    size: int = 20,
    *,
    orientation: Values = ORIENTATIONS,
    width: Values = (2,),
    length: Values = (4, 8, 12, 16),
    contrast: Values = (0.3, -0.3),
    x_position: Values = (0,),
    y_position: Values = (0,),
    transform: Whitening | None = None,
) -> xr.Dataset:
    """Light (`contrast` above 0) and dark bars, `width` across and `length` along their orientation."""
    within("width", width, 0, 1e6)
    within("length", length, 0, 1e6)
    factors = product(
        orientation=orientation, width=width, length=length, contrast=contrast,
        x_position=x_position, y_position=y_position,
    )  # fmt: skip

    def pattern(x: np.ndarray, y: np.ndarray, orientation: Any, width: Any, length: Any) -> np.ndarray:
        across, along = _along(x, y, orientation)
        return _inside(np.abs(across), width / 2) * _inside(np.abs(along), length / 2)

    return _draw("bars", size, pattern, factors, transform)


@checked
def edges(
    size: int = 20,
    *,
    orientation: Values = tuple(range(0, 360, 30)),
    offset: Values = (-4, -2, 0, 2, 4),
    contrast: Values = (0.3,),
    transform: Whitening | None = None,
) -> xr.Dataset:
    """Straight steps from 1 − contrast to 1 + contrast, `offset` pixels from the centre towards the light side.

    Orientations go once round: 0 is light above, 180 light below.
    """
    factors = product(orientation=orientation, offset=offset, contrast=contrast)

    def pattern(x: np.ndarray, y: np.ndarray, orientation: Any, offset: Any) -> np.ndarray:
        across, _ = _along(x, y, orientation)
        return 2 * np.clip(across - offset + 0.5, 0, 1) - 1

    return _draw("edges", size, pattern, factors, transform)


def _draw(
    kind: str,
    size: int,
    pattern: Pattern,
    factors: dict[str, np.ndarray],
    transform: Whitening | None,
    *,
    scale: str | None = "contrast",
) -> xr.Dataset:
    """Draw `1 + factors[scale] · pattern` for every combination of factors, moved to its position."""
    x, y = axes(size)
    within("contrast", factors["contrast"].tolist(), -1, 1)
    columns = {name: values[:, None, None] for name, values in factors.items()}
    moved = x - columns.pop("x_position", 0), y - columns.pop("y_position", 0)
    amplitude = columns.pop(scale) if scale else 1
    luminance = 1 + amplitude * pattern(*moved, **columns)
    if luminance.min() < -1e-9:
        raise HVAEError(f"{kind}: luminance down to {luminance.min():.3g}; lower the contrast.")
    luminance = np.broadcast_to(np.maximum(luminance, 0), (len(factors["contrast"]), size, size))
    options = {name: np.unique(values).tolist() for name, values in factors.items()}
    labels = {name: values.astype(np.float64) for name, values in factors.items()}
    return stimulus_set(luminance, labels, kind=kind, options={"size": size, **options}, transform=transform)


def _along(x: np.ndarray, y: np.ndarray, orientation: Any) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates across and along lines of an orientation in degrees; across points left of along."""
    radians = np.deg2rad(orientation)
    return y * np.cos(radians) - x * np.sin(radians), x * np.cos(radians) + y * np.sin(radians)


def _wave(across: np.ndarray, frequency: Any, phase: Any) -> np.ndarray:
    return np.cos(2 * np.pi * frequency * across + np.deg2rad(phase))


def _inside(distance: np.ndarray, half: Any) -> np.ndarray:
    """1 inside, 0 outside, linear over the pixel at the border."""
    return np.clip(half - distance + 0.5, 0, 1)


def _disk(x: np.ndarray, y: np.ndarray, diameter: Any) -> np.ndarray:
    return np.where(np.asarray(diameter) > 0, _inside(np.hypot(x, y), np.asarray(diameter) / 2), 1.0)
