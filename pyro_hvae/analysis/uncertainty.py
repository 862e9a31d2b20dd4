"""Standard errors and 95% intervals: of means, ratios, shares and medians."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import binom

#: Half the width of a 95% interval of a normal estimate, in standard errors.
Z95 = 1.959964


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


def median_and_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Median and its distribution-free interval of at least 95% from order statistics; NaN where there are too few."""
    n = values.size
    if n == 0:
        return np.nan, (np.nan, np.nan)
    ordered = np.sort(values)
    k = int(binom.ppf(0.025, n, 0.5))  # the k-th smallest and k-th largest value bracket the median
    interval = (float(ordered[k - 1]), float(ordered[n - k])) if k > 0 else (np.nan, np.nan)
    return float(np.median(ordered)), interval
