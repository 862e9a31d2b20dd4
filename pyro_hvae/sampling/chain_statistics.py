"""R-hat and effective sample sizes of many quantities at once, by ArviZ's definitions.

Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021 (Bayesian Analysis 16:667). ArviZ works through quantities one by one in
Python, which for 1,000 images of 470 dimensions takes hours; here all quantities of a block go through each step together, and
the autocovariances of those alone are continued that need more lags. The tests compare with ArviZ itself.

Arrays are ``(chain, draw, ...)``; results have the shape of what follows.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

BLOCK = 2**22  # numbers worked on at a time


def split(draws: np.ndarray) -> np.ndarray:
    """Each chain as two, of its first and its last half."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, draws.shape[1] - half :]])


def normal_scores(draws: np.ndarray) -> np.ndarray:
    """Normal quantiles of the ranks among all chains, ties averaged."""
    flat = draws.reshape(-1, draws[0, 0].size).T
    order = np.argsort(flat, axis=1)
    return _scores(order, np.take_along_axis(flat, order, 1)).T.reshape(draws.shape)


def _scores(order: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Normal scores ``(quantity, draw)`` of draws from their order and their sorted values."""
    n = order.shape[1]
    place = ndtri((np.arange(1.0, n + 1) - 0.375) / (n + 0.25))
    scores = np.empty(order.shape)
    np.put_along_axis(scores, order, np.broadcast_to(place, order.shape), 1)
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(1)):
        scores[row, order[row]] = ndtri((_averaged(ordered[row]) - 0.375) / (n + 0.25))
    return scores


def _averaged(ordered: np.ndarray) -> np.ndarray:
    """Ranks of a sorted row, in its order; half-integers where ties are averaged."""
    starts = np.flatnonzero(np.r_[True, np.diff(ordered) != 0])
    ends = np.r_[starts[1:], ordered.size]
    return np.repeat((starts + 1 + ends) / 2, ends - starts)


def r_hat_of(sequences: np.ndarray) -> np.ndarray:
    """Potential scale reduction of sequences as they are; NaN where nothing varies."""
    n = sequences.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((n * sequences.mean(1).var(0, ddof=1) / sequences.var(1, ddof=1).mean(0) + n - 1) / n)


def ess_of(sequences: np.ndarray) -> np.ndarray:
    """Effective sample size of the mean of sequences as they are (Geyer's initial monotone positive pairs)."""
    chains, n = sequences.shape[:2]
    shape = sequences.shape[2:]
    flat = sequences.reshape(chains, n, -1).astype(float)
    constant = np.ptp(flat, axis=(0, 1)) < np.finfo(float).resolution
    means = flat.mean(1)
    centred = np.ascontiguousarray(np.moveaxis(flat - means[:, None], 2, 0))  # (quantity, chain, draw)

    def autocovariance(which: np.ndarray, lag: int) -> np.ndarray:
        part = centred if which.size == len(centred) else centred[which]
        return np.einsum("qcn,qcn->q", part[..., : n - lag], part[..., lag:]) / (n * chains)

    every = np.arange(len(centred))
    with np.errstate(invalid="ignore", divide="ignore"):
        within = autocovariance(every, 0)
        total = within + (means.var(0, ddof=1) if chains > 1 else 0.0)
        mean_var = within * n / (n - 1)

        def rho(which: np.ndarray, lag: int) -> np.ndarray:
            return 1 - (mean_var[which] - autocovariance(which, lag)) / total[which]

        odd = rho(every, 1)
        pair = 1 + odd  # sum of the last pair kept, which later ones must not exceed
        tau = -1 + 2 * pair
        active = every[~constant & (pair > 0)]
        t = 1
        while active.size and t < n - 3:
            even, found = rho(active, t + 1), rho(active, t + 2)
            found = even + found
            last = (found <= 0) | (t + 2 >= n - 3)
            # Of the last pair, which is the first negative one if any is, the even half counts, and counts once.
            tau[active[last]] += np.where(found[last] >= 0, even[last], np.maximum(even[last], 0))
            active, found = active[~last], found[~last]
            pair[active] = np.minimum(pair[active], found)
            tau[active] += 2 * pair[active]
            t += 2
        size = chains * n
        ess = size / np.maximum(tau, 1 / np.log10(size))
    return np.where(constant, size, ess).reshape(shape)


def chain_statistics(draws: np.ndarray) -> dict[str, np.ndarray]:
    """``r_hat`` (rank-normalised and split, the larger of bulk and tails), ``ess_bulk``, ``ess_tail``, and of the mean itself
    ``r_hat_mean`` (split) and ``ess_mean``.

    :param draws: ``(chain, draw, ...)``, at least two chains of at least 8 draws; not finite where a quantity is not.
    """
    shape, count = draws.shape[2:], int(np.prod(draws.shape[2:], dtype=int))
    flat = draws.reshape(*draws.shape[:2], count)
    parts = []
    step = max(1, BLOCK // (draws.shape[0] * draws.shape[1]))
    for start in range(0, count, step):
        parts.append(_statistics(flat[..., start : start + step]))
    return {name: np.concatenate([part[name] for part in parts]).reshape(shape) for name in parts[0]}


def _statistics(draws: np.ndarray) -> dict[str, np.ndarray]:
    halves = split(draws)
    flat = halves.reshape(-1, draws.shape[2]).T  # (quantity, draw)
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, 1)

    def as_halves(values: np.ndarray) -> np.ndarray:
        return values.T.reshape(halves.shape)

    scores = as_halves(_scores(order, ordered))
    n = ordered.shape[1]
    median = (ordered[:, (n - 1) // 2] + ordered[:, n // 2])[:, None] / 2
    distance = np.abs(ordered - median)
    by_distance = np.argsort(distance, axis=1, kind="stable")  # falls, then rises: two runs, which this kind merges
    folded = as_halves(_scores(np.take_along_axis(order, by_distance, 1), np.take_along_axis(distance, by_distance, 1)))
    everything = ordered if draws.shape[1] % 2 == 0 else np.sort(draws.reshape(-1, draws.shape[2]).T, axis=1)
    tails = [ess_of(split(draws <= _quantile(everything, share).astype(draws.dtype))) for share in (0.05, 0.95)]
    return {
        "r_hat": np.fmax(r_hat_of(scores), r_hat_of(folded)),
        "ess_bulk": ess_of(scores),
        "ess_tail": np.minimum(*tails),
        "r_hat_mean": r_hat_of(halves),
        "ess_mean": ess_of(halves),
    }


def _quantile(ordered: np.ndarray, share: float) -> np.ndarray:
    """Of sorted rows, between neighbours by linear interpolation."""
    place = share * (ordered.shape[1] - 1)
    below = int(place)
    part = place - below
    return ordered[:, below] * (1 - part) + ordered[:, min(below + 1, ordered.shape[1] - 1)] * part
