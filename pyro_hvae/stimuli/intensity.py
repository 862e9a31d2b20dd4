"""Luminance to matched intensity: exposure, logarithm, and a grand histogram matched to the unit normal.

First half of the preprocessing of Csikor, Meszéna, Szabó & Orbán 2022 (arXiv 2206.00436, [C22]); the second half,
PCA whitening, is in `whitening.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from pyro_hvae.errors import HVAEError, unknown

EXPOSURES = ("image_median", "absolute")
SAMPLED_PIXELS = 4_000_000
KNOT_SPACING = 0.05  # in standard deviations of the matched intensity
OUTERMOST_KNOT = 3.5
FEWEST_LEVELS = 8  # of grey in all training photographs together


@dataclass(frozen=True, eq=False)
class IntensityMap:
    """Strictly increasing map from luminance to an intensity that is Normal(0, 1) over the training photographs.

    `matched = g(log max(luminance / reference, floor))`, g piecewise linear through (`knot_log`, `knot_z`), both
    strictly increasing. Beyond the outermost knots g goes on along a straight line with the slope of the secant from
    the middle knot to the outermost one (the last segment alone would be ruled by a few extreme pixels).

    exposure
        `"image_median"`: each photograph's luminance is divided by its own median. The exposure of a camera is
        arbitrary: the same scene at twice the shutter time is not another scene. This makes 8-bit and 16-bit sources
        comparable, and lets textures photographed with one camera pass through the transform of a run on another's.
        `"absolute"`: every luminance is divided by one number, `reference`, the median over all training pixels, which
        the histogram matching undoes exactly: the strict reading of [C22], for sources in one calibrated unit.
    floor
        Smallest ratio to the reference, so that the logarithm of a black pixel is finite. The default lies below the
        darkest regions of calibrated photographs and above the range in which 8-bit sRGB has steps over 10%.
    """

    knot_log: np.ndarray
    knot_z: np.ndarray
    exposure: str = "image_median"
    floor: float = 0.02
    reference: float = 1.0

    def __post_init__(self) -> None:
        if self.exposure not in EXPOSURES:
            raise unknown("exposure", self.exposure, EXPOSURES)
        if not 0 < self.floor < 1:
            raise HVAEError(f"floor is {self.floor}; it is a fraction of the median luminance, between 0 and 1.")
        if not (math.isfinite(self.reference) and self.reference > 0):
            raise HVAEError(f"reference luminance is {self.reference}; expected a positive number.")
        knots = np.stack([self.knot_log, self.knot_z])
        if knots.shape[1] < 3 or not np.isfinite(knots).all() or (np.diff(knots) <= 0).any():
            raise HVAEError("the intensity map needs at least three knots, finite and strictly increasing.")

    @classmethod
    def fit(
        cls, photographs: Iterable[np.ndarray], *, exposure: str = "image_median", floor: float = 0.02, pixels: int = 0
    ) -> IntensityMap:
        """Match the grand histogram of `photographs` (linear luminance, any shapes) to the unit normal.

        At most about four million evenly spaced pixels enter; `pixels`, the total number where it is known in advance,
        spares keeping all of them until the end. Raises `HVAEError` where a photograph has no positive median, or
        where too few distinct intensities remain.
        """
        stride = max(1, math.ceil(pixels / SAMPLED_PIXELS))
        samples = []
        for offset, photograph in enumerate(
            photographs
        ):  # another phase in each, so that no fixed columns are favoured
            flat = np.asarray(photograph).reshape(-1)
            reference = median_luminance(flat) if exposure == "image_median" else 1.0
            samples.append(flat[offset % stride :: stride].astype(np.float64) / reference)
        if not samples:
            raise HVAEError("no photograph to fit the intensity map on.")
        ratio = np.concatenate(samples)
        reference = 1.0
        if exposure == "absolute":
            reference = median_luminance(ratio)
            ratio = ratio / reference
        values, counts = np.unique(np.log(np.maximum(ratio, floor)), return_counts=True)
        # Ties sit at the middle of their step of the distribution function.
        z = ndtri((np.cumsum(counts) - counts / 2) / counts.sum())
        grid = np.arange(-OUTERMOST_KNOT, OUTERMOST_KNOT + KNOT_SPACING / 2, KNOT_SPACING)
        grid = grid[(grid >= z[0]) & (grid <= z[-1])]
        knot_log = np.interp(grid, z, values)
        apart = np.concatenate([[True], np.diff(knot_log) > 1e-6])
        if len(values) < FEWEST_LEVELS or apart.sum() < 3:
            raise HVAEError(
                f"only {len(values)} distinct intensities in the training photographs: their histogram cannot be "
                "matched to the unit normal. Give photographs with a continuous range of grey."
            )
        return cls(knot_log[apart], grid[apart], exposure, float(floor), float(reference))

    def __call__(self, luminance: np.ndarray, median: float | None = None) -> np.ndarray:
        """Matched intensity of `luminance` (any shape, linear, non-negative), float32 of the same shape.

        `median` is the median luminance of the photograph that the values come from; by default that of `luminance`
        itself. It is not used under `exposure="absolute"`.
        """
        luminance = np.asarray(luminance)
        logs = np.log(np.maximum(luminance / self._reference(luminance, median), self.floor))
        return self._extended(logs, self.knot_log, self.knot_z).astype(np.float32)

    def inverse(self, matched: np.ndarray, median: float = 1.0) -> np.ndarray:
        """Linear luminance of matched intensities, for a photograph of median luminance `median`."""
        reference = self.reference if self.exposure == "absolute" else median
        matched = np.asarray(matched, np.float64)
        return np.exp(self._extended(matched, self.knot_z, self.knot_log)) * reference

    def _reference(self, luminance: np.ndarray, median: float | None) -> float:
        if self.exposure == "absolute":
            return self.reference
        return median_luminance(luminance) if median is None else float(median)

    @staticmethod
    def _extended(values: np.ndarray, knots: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Piecewise-linear interpolation, continued beyond both ends along the secant from the middle knot."""
        middle = len(knots) // 2
        out = np.interp(values, knots, images)
        for end, beyond in ((0, values < knots[0]), (-1, values > knots[-1])):
            slope = (images[end] - images[middle]) / (knots[end] - knots[middle])
            out = np.where(beyond, images[end] + slope * (values - knots[end]), out)
        return out

    def variables(self) -> dict[str, Any]:
        """The knots as xarray variables (dims, values)."""
        return {"knot_log": ("knot", self.knot_log), "knot_z": ("knot", self.knot_z)}


def median_luminance(luminance: np.ndarray) -> float:
    """Median of a luminance array; `HVAEError` unless it is a positive number."""
    median = float(np.median(luminance))
    if not (math.isfinite(median) and median > 0):
        raise HVAEError(
            f"median luminance is {median}; a photograph needs a positive one "
            "(half of it is black, or its values are not luminances)."
        )
    return median
