"""When not to trust a posterior: effective sample size and Pareto k-hat of importance weights, image by image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyro_hvae.sampling.quiet_arviz import arviz
from pyro_hvae.storage.pareto_limits import GOOD_K


def pareto_k(log_weights: NDArray) -> NDArray:
    """Pareto k-hat of each image's importance weights, by ArviZ's PSIS.

    :param log_weights: ``(draw, image)``.
    :returns: ``(image,)``; NaN where the weights do not vary or are too few (25) to fit a tail.
    """
    rows = np.asarray(log_weights, np.float64).T
    fitted = np.full(len(rows), np.nan)
    use = (rows.shape[1] >= 25) & (np.ptp(rows, axis=1) > 1e-9)
    if use.any():
        fitted[use] = _psis(rows[use])
    return np.where(np.isfinite(fitted), fitted, np.nan)


def _psis(rows: NDArray) -> NDArray:
    if hasattr(arviz, "psislw"):  # arviz < 1
        with np.errstate(over="ignore"):  # in its profile of the Pareto fit, harmless there
            return np.asarray(arviz.psislw(rows)[1])
    from arviz_stats.base import array_stats

    return np.asarray(array_stats.psislw(-rows, axis=-1)[1])  # it takes log likelihoods, which are minus log weights


def effective_sample_size(log_weights: NDArray) -> NDArray:
    """1 / Σ w̃² of the self-normalised weights, between 1 and the number of draws; ``(draw, image) -> (image,)``."""
    w = np.exp(log_weights - log_weights.max(0))
    w /= w.sum(0)
    return 1 / np.square(w).sum(0)


def share_trusted(k: NDArray) -> float:
    """Share of images whose k-hat is known and below 0.7, for which moments under these weights can be trusted."""
    return float(np.mean(np.nan_to_num(k, nan=np.inf) < GOOD_K))
