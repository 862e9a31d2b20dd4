"""What is read off responses to gratings: harmonics, preferred values, bandwidths, indices. Arrays in, arrays out.

Responses are rates: how far a declared moment of a unit's posterior rises above its value at a uniform field
(:func:`rate`). Angles in degrees, frequencies and sizes in whatever unit they are given in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

from pyro_hvae.errors import unknown

RESPONSES = ("mean", "absolute_mean", "sd")
FINE = 200  # points of an interpolated curve


def rate(mean: np.ndarray, sd: np.ndarray, blank_mean: np.ndarray, blank_sd: np.ndarray, response: str) -> np.ndarray:
    """The response of a unit, not negative, as a physiologist counts spikes above a baseline.

    ``"mean"``: max(mean - blank, 0), the rectified half of a signed unit, as a simple cell is; ``"absolute_mean"``:
    \\|mean - blank\\|, both halves together; ``"sd"``: max(s.d. - blank s.d., 0). ``blank``: at a uniform field.

    :raises HVAEError: for another name.
    """
    if response == "mean":
        return np.maximum(mean - blank_mean, 0)
    if response == "absolute_mean":
        return np.abs(mean - blank_mean)
    if response == "sd":
        return np.maximum(sd - blank_sd, 0)
    raise unknown("response", response, RESPONSES)


def harmonics(rates: np.ndarray, phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean F0 and first harmonic F1 over the phases of a grating, which lie along the last axis, evenly round the circle.

    A half-wave rectified sinusoid has F1/F0 = π/2, an energy 0 (Skottun et al. 1991).
    """
    wave = np.exp(-1j * np.deg2rad(np.asarray(phase, float)))
    return rates.mean(-1), 2 * np.abs((rates * wave).mean(-1))


class Amplitudes(NamedTuple):
    """F1 of units that follow the phase, F0 of those that do not."""

    value: np.ndarray
    """``(unit, ...)``"""
    modulation: np.ndarray
    """F1/F0 at the best grating, ``(unit,)``; above 1 simple, below complex. NaN for a unit that never responds."""


def amplitudes(rates: np.ndarray, phase: np.ndarray) -> Amplitudes:
    """The harmonic by which each unit is judged (De Valois et al. 1982): the larger one at its best grating.

    ``rates (unit, ..., phase)``.
    """
    f0, f1 = harmonics(rates, phase)
    units = len(rates)
    flat0, flat1 = f0.reshape(units, -1), f1.reshape(units, -1)
    best = np.maximum(flat0, flat1).argmax(1)
    rows = np.arange(units)
    at0, at1 = flat0[rows, best], flat1[rows, best]
    ratio = np.where(at0 > 0, at1 / np.where(at0 > 0, at0, 1), np.nan)
    simple = (at1 > at0).reshape(-1, *(1,) * (f0.ndim - 1))
    return Amplitudes(np.where(simple, f1, f0), ratio)


def judged_by(rates: np.ndarray, phase: np.ndarray, modulation: np.ndarray) -> np.ndarray:
    """Other responses ``(unit, ..., phase)`` of the same units by the harmonic that :func:`amplitudes` chose for each."""
    f0, f1 = harmonics(rates, phase)
    simple = (modulation > 1).reshape(-1, *(1,) * (f0.ndim - 1))
    return np.where(simple, f1, f0)


class OrientationTuning(NamedTuple):
    """Of curves ``(unit, orientation)``; NaN where a unit does not respond, or a curve does not fall that far."""

    preferred: np.ndarray
    """Degrees in [0, 180)."""
    bandwidth: np.ndarray
    """Full width at half height, degrees."""
    circular_variance: np.ndarray
    """1 - \\|Σ R exp(2iθ)\\| / Σ R (Ringach et al. 2002): 0 for one orientation, 1 for all alike."""
    orthogonal: np.ndarray
    """Response at right angles to the preferred one over that at the preferred one."""


def orientation_tuning(curves: np.ndarray, orientation: np.ndarray) -> OrientationTuning:
    """Curves ``(unit, orientation)`` over evenly spaced orientations from 0, interpolated by a periodic cubic spline."""
    orientation = np.asarray(orientation, float)
    closed = np.concatenate([curves, curves[:, :1]], 1)
    spline = CubicSpline(np.append(orientation, 180.0), closed, axis=1, bc_type="periodic")
    fine = np.arange(0, 180, 0.5)
    values = spline(fine)
    top = values.argmax(1)
    peak = values.max(1)
    rows = np.arange(len(curves))
    # Each curve begins at its peak, so that its two flanks are the two ends of the row.
    turned = np.take_along_axis(values, (top[:, None] + np.arange(fine.size)) % fine.size, 1)
    responds = curves.max(1) > 0
    bandwidth = _first_below(turned, 0.5 * peak) + _first_below(turned[:, ::-1], 0.5 * peak, before=1)
    bandwidth = np.where(bandwidth * 0.5 < 180, bandwidth * 0.5, np.nan)
    total = curves.sum(1)
    vector = np.abs((curves * np.exp(2j * np.deg2rad(orientation))).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = 1 - vector / total
        orthogonal = np.maximum(turned[rows, fine.size // 2], 0) / peak
    columns = (fine[top], bandwidth, variance, orthogonal)
    return OrientationTuning(*(np.where(responds, column, np.nan) for column in columns))


def _first_below(rows: np.ndarray, level: np.ndarray, before: int = 0) -> np.ndarray:
    """Steps from the beginning of each row to the first value under the level, between samples; NaN where there is none.

    ``before``: steps from the peak to the beginning of the row."""
    under = rows < level[:, None]
    at = under.argmax(1)
    index = np.arange(len(rows))
    here, last = rows[index, at], rows[index, np.maximum(at - 1, 0)]
    fall = last - here
    part = np.where((at > 0) & (fall > 0), (last - level) / np.where(fall > 0, fall, 1), 0.0)
    return np.where(under.any(1), np.maximum(at - 1, 0) + part + before, np.nan)


class FrequencyTuning(NamedTuple):
    """Of curves ``(unit, frequency)``; NaN where a curve does not fall that far on a side."""

    preferred: np.ndarray
    """In the unit of the frequencies."""
    octaves: np.ndarray
    """Full width at half height."""
    ratio: np.ndarray
    """100 · lower over upper frequency at 1/√2 of the height (Schiller et al. 1976)."""


def frequency_tuning(curves: np.ndarray, frequency: np.ndarray) -> FrequencyTuning:
    """Curves ``(unit, frequency)``, interpolated over octaves without overshoot (PCHIP)."""
    octave = np.log2(np.asarray(frequency, float))
    fine = np.linspace(octave[0], octave[-1], FINE)
    values = PchipInterpolator(octave, curves, axis=1)(fine)
    # Between samples a PCHIP never exceeds them: the peak is found by a cubic spline about the largest sample.
    smooth = CubicSpline(octave, curves, axis=1)(fine)
    near = np.abs(fine - octave[curves.argmax(1)][:, None]) <= np.diff(octave).max()
    top = np.where(near, smooth, -np.inf).argmax(1)
    peak = np.maximum(values.max(1), np.take_along_axis(smooth, top[:, None], 1)[:, 0])
    responds = curves.max(1) > 0

    def edges(height: float) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.full(len(curves), np.nan), np.full(len(curves), np.nan)
        for row, (curve, at) in enumerate(zip(values, top, strict=True)):
            under = np.flatnonzero(curve < height * peak[row])
            if (left := under[under < at]).size:
                low[row] = fine[left[-1]]
            if (right := under[under > at]).size:
                high[row] = fine[right[0]]
        return low, high

    half, root = edges(0.5), edges(np.sqrt(0.5))
    columns = (2 ** fine[top], half[1] - half[0], 100 * 2 ** (root[0] - root[1]))
    return FrequencyTuning(*(np.where(responds, column, np.nan) for column in columns))


class SizeTuning(NamedTuple):
    """Of curves ``(unit, diameter)``."""

    suppression: np.ndarray
    """(peak - plateau) / peak, the plateau being the response to the largest disk (Cavanaugh et al. 2002)."""
    summation: np.ndarray
    """Grating summation field: smallest diameter with 95% of the peak."""
    surround: np.ndarray
    """Smallest diameter beyond the peak at which the response is within 5% of the plateau; NaN where suppression is 0.1 or
    less."""


def size_tuning(curves: np.ndarray, diameter: np.ndarray) -> SizeTuning:
    """Curves ``(unit, diameter)``, interpolated linearly over the logarithm of the diameter."""
    octave = np.log2(np.asarray(diameter, float))
    fine = np.linspace(octave[0], octave[-1], FINE)
    found = np.full((3, len(curves)), np.nan)
    for row, curve in enumerate(curves):
        if not curve.max() > 0:
            continue
        values = np.interp(fine, octave, curve)
        peak, plateau = values.max(), values[-1]
        found[0, row] = (peak - plateau) / peak
        found[1, row] = 2 ** fine[np.argmax(values >= 0.95 * peak)]
        beyond = np.flatnonzero((np.arange(FINE) > values.argmax()) & (values <= 1.05 * plateau))
        if found[0, row] > 0.1 and beyond.size:
            found[2, row] = 2 ** fine[beyond[0]]
    return SizeTuning(*found)


class ContrastTuning(NamedTuple):
    """R = R_max c^n / (c^n + c50^n) (Albrecht & Hamilton 1982), least squares."""

    exponent: np.ndarray
    c50: np.ndarray
    """Semi-saturation contrast; NaN where the fit puts it beyond twice the highest contrast: there is no saturation."""
    saturation: np.ndarray
    """Response to the highest contrast over what the slope between the lowest two would make of it: 1 for a linear unit."""


def contrast_tuning(curves: np.ndarray, contrast: np.ndarray) -> ContrastTuning:
    """Curves ``(unit, contrast)``. For each pair (n, c50) of a grid the best R_max is known; the best pair is refined once."""
    contrast = np.asarray(contrast, float)
    top = contrast.max()

    def fitted(n: np.ndarray, c50: np.ndarray, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Best cost over the last axis' grid, ``n`` and ``c50`` ``(unit | 1, grid)``."""
        power = contrast ** n[..., None]
        shape = power / (power + c50[..., None] ** n[..., None])  # (unit | 1, grid, contrast)
        gain = np.einsum("ugc,uc->ug", np.broadcast_to(shape, (len(curves), *shape.shape[1:])), curves)
        norm = (shape**2).sum(-1)
        best = (gain**2 / norm).argmax(1)
        rows = np.arange(len(curves))
        whole = np.broadcast_to(n, gain.shape)[rows, best], np.broadcast_to(c50, gain.shape)[rows, best]
        return whole

    n, c50 = np.meshgrid(np.linspace(0.5, 5, 46), np.geomspace(0.01, 20 * top, 120), indexing="ij")
    at_n, at_c = fitted(n.reshape(1, -1), c50.reshape(1, -1), curves)
    dn, dc = np.meshgrid(np.linspace(-0.1, 0.1, 21), np.linspace(-0.07, 0.07, 21), indexing="ij")
    fine_n = np.maximum(at_n[:, None] + dn.reshape(1, -1), 0.1)
    at_n, at_c = fitted(fine_n, at_c[:, None] * np.exp(dc.reshape(1, -1)), curves)
    responds = curves.max(1) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (curves[:, 1] - curves[:, 0]) / (contrast[1] - contrast[0])
        saturation = np.where(slope > 0, (curves[:, -1] - curves[:, 0]) / (slope * (top - contrast[0])), np.nan)
    columns = (at_n, np.where(at_c <= 2 * top, at_c, np.nan), saturation)
    return ContrastTuning(*(np.where(responds, column, np.nan) for column in columns))
