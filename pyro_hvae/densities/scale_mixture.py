"""Mixtures of zero-mean Gaussians that share a grid of scales (Wainwright & Simoncelli 2000), by expectation-maximisation.

One component is the Gaussian scale mixture: a Normal patch times one contrast scalar. One scale is a mixture of Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import logsumexp

from pyro_hvae.densities.principal_axes import blocks
from pyro_hvae.errors import HVAEError

SMALLEST = 1e-3  # scale in white coordinates, below which a blank patch would ask for


@dataclass(frozen=True, eq=False)
class ScaleMixture:
    """p(y) = sum_jk weights_jk Normal(y; 0, scales_k^2 covariances_j)."""

    weights: np.ndarray
    """``(component, scale)``, sum 1"""
    scales: np.ndarray
    covariances: np.ndarray
    """``(component, dim, dim)``"""

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Nats, ``(image,)``."""
        return np.concatenate([logsumexp(self.log_joint(part), axis=(1, 2)) for part in blocks(y)])

    def log_joint(self, y: np.ndarray) -> np.ndarray:
        """log of weights_jk Normal(y; 0, scales_k^2 covariances_j), ``(image, component, scale)``."""
        dim, whiteners = y.shape[1], self._whiteners.astype(y.dtype)
        white = (y @ whitener for whitener in whiteners)
        square = np.stack([np.einsum("ni,ni->n", z, z, dtype=np.float64) for z in white], 1)
        with np.errstate(divide="ignore"):  # a weight of zero is allowed
            constant = np.log(self.weights) - dim * np.log(self.scales) - 0.5 * dim * np.log(2 * np.pi)
        return constant - 0.5 * self.log_determinants[:, None] - 0.5 * square[:, :, None] / self.scales**2

    @cached_property
    def log_determinants(self) -> np.ndarray:
        """log |covariance| of every component."""
        return 2 * np.log(np.diagonal(self._roots, axis1=1, axis2=2)).sum(1)

    @cached_property
    def _roots(self) -> np.ndarray:
        try:
            return np.linalg.cholesky(self.covariances)
        except np.linalg.LinAlgError as error:
            raise HVAEError(
                f"a component of the mixture has too few patches for its {self.covariances.shape[1]} dimensions; "
                "give more training patches, or smaller ones"
            ) from error

    @cached_property
    def _whiteners(self) -> np.ndarray:
        return np.linalg.inv(self._roots).transpose(0, 2, 1)


def contrast(y: np.ndarray) -> np.ndarray:
    """Root mean square over the dimensions of every patch."""
    return np.sqrt(np.einsum("ni,ni->n", y, y, dtype=np.float64) / y.shape[1])


def scale_grid(y: np.ndarray, count: int) -> np.ndarray:
    """So many scales in geometric progression, from the 0.5% to the 99.5% quantile of contrast; 1 where there is one."""
    low, high = np.maximum(np.quantile(contrast(y), [0.005, 0.995]), SMALLEST)
    return np.geomspace(low, high, count) if count > 1 else np.ones(1)


def fit_scale_mixture(
    y: np.ndarray,
    components: int,
    scales: int,
    *,
    seed: int = 0,
    prior: float = 0.0,
    tolerance: float = 0.1,
    iterations: int = 40,
) -> tuple[ScaleMixture, list[float]]:
    """Fit weights and covariances to coordinates ``(image, dim)``, mean zero; the grid of scales stays as it is.

    Components start from the covariances of a random partition of the patches, divided by their contrast. Iterations end
    when one gains less than ``tolerance`` nats a patch.

    :param prior: patches of unit covariance that every component is given beforehand, which keeps a component with few
        patches from being singular: an inverse Wishart prior, exp(-prior/2 (log|C| + tr C^-1)).
    :returns: the density, and the mean log density of the patches (plus the log prior over their number) at each iteration,
        which EM never lowers.
    """
    n, dim = y.shape
    grid = scale_grid(y, scales)
    size = np.maximum(contrast(y), SMALLEST) if scales > 1 else np.ones(n)
    part = np.random.default_rng(seed).integers(components, size=n)
    second = np.zeros((components, dim, dim))
    for j in range(components):
        second[j] = _second_moment(y[part == j], 1 / size[part == j] ** 2)
    counts = np.bincount(part, minlength=components).astype(float)
    weights = np.full((components, scales), 1 / (components * scales))
    identity = prior * np.eye(dim)
    trace: list[float] = []
    while True:
        mixture = ScaleMixture(weights, grid, (second + identity) / (counts + prior)[:, None, None])
        second, total, sums = np.zeros((components, dim, dim)), 0.0, np.zeros((components, scales))
        for rows in blocks(y):
            joint = mixture.log_joint(rows)
            density = logsumexp(joint, axis=(1, 2), keepdims=True)
            share = np.exp(joint - density)
            total += density.sum()
            sums += share.sum(0)
            for j, precision in enumerate((share / grid**2).sum(2).T):
                second[j] += _second_moment(rows, precision)
        trace.append((total + _log_prior(mixture, prior)) / n)
        if len(trace) > iterations or (len(trace) > 1 and trace[-1] - trace[-2] < tolerance):
            return mixture, trace
        counts, weights = sums.sum(1), sums / n


def _second_moment(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum over patches of weight y y'."""
    root = y * np.sqrt(weight).astype(y.dtype)[:, None]
    return root.T @ root


def _log_prior(mixture: ScaleMixture, prior: float) -> float:
    if not prior:
        return 0.0
    inverse_trace = np.einsum("jab,jab->", mixture._whiteners, mixture._whiteners)
    return -0.5 * prior * (mixture.log_determinants.sum() + inverse_trace)
