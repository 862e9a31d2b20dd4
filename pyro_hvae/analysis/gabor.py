"""Gabor functions fitted to many fields at once: batched Levenberg-Marquardt from several starts, analytic Jacobian."""

from __future__ import annotations

import numpy as np

from pyro_hvae.analysis.reading import patch_side

PARAMETERS = ("x", "y", "angle", "frequency", "log_along", "log_across", "cosine", "sine")
FIRST, LAST = 8, 40  # iterations from every start, and from the two best ones
TOLERANCE = 1e-9  # relative fall of the cost under which a fit has converged
BATCH = 2**20  # pixels held at a time, eight-fold in the Jacobian
SMALLEST = 0.5  # pixels: widths of the envelope stay above


def gabor(parameters: np.ndarray, side: int) -> np.ndarray:
    """Gabor functions ``(fit, pixel)`` of ``parameters (fit, 8)`` in the order of :data:`PARAMETERS`.

    ``exp(-u² / 2 along² - v² / 2 across²) (cosine cos 2πfu + sine sin 2πfu)``: u runs along the wave vector, which has
    ``angle`` to the x axis (y points down), and v across it, both from the centre; lengths in pixels.
    """
    return _values(parameters, *_grid(side))[0]


def fit_gabors(fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares Gabor function of every field.

    Parameters
    ----------
    fields
        ``(field, pixel)``, square patches.

    Returns
    -------
    Parameters ``(field, 8)``, canonical (``angle`` in [0, π), ``frequency`` ≥ 0), and the share of the sum of squares that
    is explained ``(field,)``; NaN for fields that are zero.
    """
    fields = np.asarray(fields, dtype=float)
    side = patch_side(fields.shape[1])
    best = np.full((len(fields), len(PARAMETERS)), np.nan)
    explained = np.full(len(fields), np.nan)
    power = (fields**2).sum(1)
    useful = np.flatnonzero(power > 0)
    step = max(1, BATCH // (8 * fields.shape[1]))
    for start in range(0, useful.size, step):
        here = useful[start : start + step]
        scaled = fields[here] / np.sqrt(power[here])[:, None]
        best[here], cost = _fit(scaled, side)
        best[here, -2:] *= np.sqrt(power[here])[:, None]
        explained[here] = 1 - cost
    return _canonical(best), explained


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:side, :side].reshape(2, -1).astype(float)
    return x, y


def _values(parameters: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """The functions and the pieces their derivatives are made of."""
    cx, cy, angle, frequency, log_along, log_across, a, b = (column[:, None] for column in parameters.T)
    dx, dy = x - cx, y - cy
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    envelope = np.exp(-0.5 * (u**2 * np.exp(-2 * log_along) + v**2 * np.exp(-2 * log_across)))
    wave = 2 * np.pi * frequency * u
    even, odd = envelope * np.cos(wave), envelope * np.sin(wave)
    return a * even + b * odd, u, v, even, odd


def _jacobian(parameters: np.ndarray, pieces: tuple[np.ndarray, ...]) -> np.ndarray:
    """Derivatives ``(fit, 8, pixel)`` by the parameters."""
    value, u, v, even, odd = pieces
    _, _, angle, frequency, log_along, log_across, a, b = (column[:, None] for column in parameters.T)
    cos, sin = np.cos(angle), np.sin(angle)
    slope = b * even - a * odd  # of the carrier by its phase
    by_u = -u * np.exp(-2 * log_along) * value + 2 * np.pi * frequency * slope
    by_v = -v * np.exp(-2 * log_across) * value
    return np.stack(
        [
            -cos * by_u + sin * by_v,
            -sin * by_u - cos * by_v,
            v * by_u - u * by_v,
            2 * np.pi * u * slope,
            u**2 * np.exp(-2 * log_along) * value,
            v**2 * np.exp(-2 * log_across) * value,
            even,
            odd,
        ],
        axis=1,
    )


def _fit(fields: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Best parameters and cost of fields of unit norm."""
    starts = _starts(fields, side)  # (field, start, 8)
    count = starts.shape[1]
    parameters, cost = _descend(starts.reshape(-1, 8), np.repeat(fields, count, 0), side, FIRST)
    parameters, cost = parameters.reshape(len(fields), count, 8), cost.reshape(len(fields), count)
    kept = np.argsort(cost, 1)[:, :2]
    parameters = np.take_along_axis(parameters, kept[:, :, None], 1)
    parameters, cost = _descend(parameters.reshape(-1, 8), np.repeat(fields, 2, 0), side, LAST)
    parameters, cost = parameters.reshape(-1, 2, 8), cost.reshape(-1, 2)
    best = cost.argmin(1)
    rows = np.arange(len(fields))
    return parameters[rows, best], cost[rows, best]


def _starts(fields: np.ndarray, side: int) -> np.ndarray:
    """Two spectral peaks, two centres (of energy, of its smoothed maximum), two widths for each field."""
    images = fields.reshape(-1, side, side)
    padded = 4 * side
    spectrum = np.abs(np.fft.fft2(images, (padded, padded))[:, :, : padded // 2]) ** 2
    fy, fx = np.meshgrid(np.fft.fftfreq(padded), np.arange(padded // 2) / padded, indexing="ij")
    flat = spectrum.reshape(len(fields), -1)
    first = flat.argmax(1)
    fx, fy = fx.ravel(), fy.ravel()
    # The second peak lies at least one resolution element of the patch away, on either side of the origin.
    near = np.hypot(fx - fx[first, None], fy - fy[first, None]) < 1.5 / side
    near |= np.hypot(fx + fx[first, None], fy + fy[first, None]) < 1.5 / side
    second = np.where(near, -1.0, flat).argmax(1)
    x, y = _grid(side)
    centroid = np.stack([(fields**2 * axis).sum(1) for axis in (x, y)], -1)
    smooth = np.exp(-0.5 * ((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2) / (0.08 * side) ** 2)
    top = (fields**2 @ smooth).argmax(1)
    starts = []
    for centre in (centroid, np.stack([x[top], y[top]], -1)):
        for peak in (first, second):
            for width in (0.09 * side, 0.2 * side):
                made = np.zeros((len(fields), 8))
                made[:, :2] = centre
                made[:, 2], made[:, 3] = np.arctan2(fy[peak], fx[peak]), np.hypot(fx[peak], fy[peak])
                made[:, 4:6] = np.log(width)
                _, _, _, even, odd = _values(made, x, y)
                made[:, 6:] = _amplitudes(even, odd, fields)
                starts.append(made)
    return np.stack(starts, 1)


def _amplitudes(even: np.ndarray, odd: np.ndarray, fields: np.ndarray) -> np.ndarray:
    """Cosine and sine amplitude by linear least squares."""
    basis = np.stack([even, odd], 1)
    gram = basis @ basis.transpose(0, 2, 1) + 1e-9 * np.eye(2)
    return np.linalg.solve(gram, basis @ fields[:, :, None])[:, :, 0]


def _descend(parameters: np.ndarray, fields: np.ndarray, side: int, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt on every row by itself; returns parameters and sums of squared residuals."""
    x, y = _grid(side)
    parameters = parameters.copy()
    pieces = _values(parameters, x, y)
    cost = ((fields - pieces[0]) ** 2).sum(1)
    damping = np.full(len(fields), 1e-2)
    running = np.arange(len(fields))
    diagonal = np.arange(8)
    for _ in range(iterations):
        here = parameters[running]
        pieces = _values(here, x, y)
        jacobian = _jacobian(here, pieces)
        gradient = (jacobian @ (fields[running] - pieces[0])[:, :, None])[:, :, 0]
        normal = jacobian @ jacobian.transpose(0, 2, 1)
        # Scaled by the diagonal (Marquardt), with a floor for directions that do not matter at present.
        normal[:, diagonal, diagonal] *= 1 + damping[running, None]
        normal[:, diagonal, diagonal] += 1e-9
        trial = _bounded(here + np.linalg.solve(normal, gradient[:, :, None])[:, :, 0], side)
        new = ((fields[running] - _values(trial, x, y)[0]) ** 2).sum(1)
        better = new < cost[running]
        gain = cost[running] - new
        parameters[running[better]] = trial[better]
        cost[running[better]] = new[better]
        damping[running] = np.where(better, damping[running] * 0.2, damping[running] * 6)
        done = (better & (gain < TOLERANCE)) | (damping[running] > 1e8)
        running = running[~done]
        if not running.size:
            break
    return parameters, cost


def _bounded(parameters: np.ndarray, side: int) -> np.ndarray:
    parameters[:, :2] = parameters[:, :2].clip(-0.25 * side, 1.25 * side)
    parameters[:, 3] = parameters[:, 3].clip(-0.7, 0.7)
    parameters[:, 4:6] = parameters[:, 4:6].clip(np.log(SMALLEST), np.log(2.0 * side))
    return parameters


def _canonical(parameters: np.ndarray) -> np.ndarray:
    parameters = parameters.copy()
    negative = parameters[:, 3] < 0
    parameters[negative, 3] *= -1
    parameters[negative, 7] *= -1
    turned = np.floor(parameters[:, 2] / np.pi)
    parameters[:, 2] -= turned * np.pi
    parameters[turned % 2 == 1, 7] *= -1  # half a turn changes the sign of u
    return parameters


def spatial_spread(fields: np.ndarray) -> np.ndarray:
    """Root mean square distance of a field's energy from its centre over that of a flat field; NaN for zero fields."""
    side = patch_side(fields.shape[1])
    x, y = _grid(side)
    return np.sqrt(sum(_variances(fields**2, x, y))) / np.sqrt((side**2 - 1) / 6)


def _variances(weights: np.ndarray, *axes: np.ndarray) -> list[np.ndarray]:
    """Variance along each axis under non-negative weights ``(field, point)``."""
    total = weights.sum(1, keepdims=True)
    weights = np.divide(weights, total, out=np.full_like(weights, np.nan), where=total > 0)
    means = [(weights * axis).sum(1, keepdims=True) for axis in axes]
    return [(weights * (axis - mean) ** 2).sum(1) for axis, mean in zip(axes, means, strict=True)]


def uncertainty(fields: np.ndarray) -> np.ndarray:
    """Joint space-frequency uncertainty of each field over Gabor's bound; near 1 for a Gabor function, 1 is the floor.

    ``Δu Δv Δf_u Δf_v (4π)²`` (Daugman 1985), with u along the field's wave vector and v across: standard deviations of the
    squared field in space and of its power spectrum over the half plane of the wave vector. The bound holds for fields of
    at least about one cycle within their envelope; the spectrum of a field cut off by the patch is that of the cut.
    """
    side = patch_side(fields.shape[1])
    padded = 2 * side
    images = np.asarray(fields, dtype=float).reshape(-1, side, side)
    power = (np.abs(np.fft.fft2(images, (padded, padded))) ** 2).reshape(len(images), -1)
    fy, fx = (axis.ravel() for axis in np.meshgrid(*[np.fft.fftfreq(padded)] * 2, indexing="ij"))
    # Wave vector: main axis of the spectrum's second moments.
    xx, yy, xy = (power * fx**2).sum(1), (power * fy**2).sum(1), (power * fx * fy).sum(1)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    along, across = fx * cos + fy * sin, fy * cos - fx * sin
    x, y = _grid(side)
    space = _variances(images.reshape(len(images), -1) ** 2, x * cos + y * sin, y * cos - x * sin)
    frequency = _variances(power * (along > 0), along, across)
    return (4 * np.pi) ** 2 * np.sqrt(space[0] * space[1] * frequency[0] * frequency[1])
