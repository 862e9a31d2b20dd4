"""The principal axes of patches: the subspace in which they vary, white coordinates in it, and the best Gaussian."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pyro_hvae.errors import HVAEError

LIVE = 1e-7  # of the largest variance: axes with less are numerical noise; the whitening transform draws the same line
BLOCK = 8192  # patches worked on at a time


def blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of an array, so many at a time that memory stays bounded."""
    for start in range(0, len(x), BLOCK):
        yield x[start : start + BLOCK]


@dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """Mean and covariance of patches, by eigenvalues.

    Whitened patches vary in d of their D dimensions: the whitening has dropped the others. These *dead* dimensions hold a
    constant, and a density there is whatever is assumed. All yardsticks assume what the models do, the observation noise:
    Normal(mean, sigma^2) in each. In the d *live* dimensions they are free.
    """

    mean: np.ndarray
    """``(pixel,)``"""
    variances: np.ndarray
    """Along the axes, descending, ``(axis,)``"""
    vectors: np.ndarray
    """``(pixel, axis)``"""
    dims: int
    """Live axes, the first ones: d."""

    @classmethod
    def fit(cls, x: np.ndarray) -> PrincipalAxes:
        """Mean and covariance (maximum likelihood, over n) of patches ``(image, pixel)``, in double precision."""
        mean = x.mean(0, dtype=np.float64)
        covariance = np.zeros((mean.size, mean.size))
        for part in blocks(x):
            centred = part - mean
            covariance += centred.T @ centred
        variances, vectors = np.linalg.eigh(covariance / len(x))
        variances, vectors = np.maximum(variances[::-1], 0.0), vectors[:, ::-1]
        if not variances[0] > 0:
            raise HVAEError(f"the {len(x)} training patches do not vary; give patches that differ")
        return cls(mean, variances, vectors, int((variances > LIVE * variances[0]).sum()))

    def white(self, x: np.ndarray) -> np.ndarray:
        """Live coordinates with mean 0 and covariance 1 over the patches of :meth:`fit`; ``(image, axis)``, float32."""
        matrix = self.vectors[:, : self.dims] / np.sqrt(self.variances[: self.dims])
        return np.concatenate([((part - self.mean) @ matrix).astype(np.float32) for part in blocks(x)])

    def log_density(self, x: np.ndarray, white_log_density: np.ndarray, sigma: float) -> np.ndarray:
        """log p(x) of patches from their log density in white coordinates: the change of variables, and the dead axes."""
        dead = np.full(self.mean.size - self.dims, sigma**2)
        volume = 0.5 * np.log(self.variances[: self.dims]).sum()
        return white_log_density - volume + self._normal(x, slice(self.dims, None), dead)

    def gaussian(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """log p(x) under the Gaussian that maximises the likelihood of the patches of :meth:`fit`, its covariance >= sigma^2.

        That is A A' + sigma^2 I with the best A (probabilistic PCA, Tipping & Bishop 1999), if A may have as many columns
        as there are variances above sigma^2: the eigenvectors of the covariance, with eigenvalues of at least sigma^2.
        """
        return self._normal(x, slice(None), np.maximum(self.variances, sigma**2))

    def _normal(self, x: np.ndarray, axes: slice, variances: np.ndarray) -> np.ndarray:
        vectors = self.vectors[:, axes]
        square = np.concatenate([(((part - self.mean) @ vectors) ** 2 / variances).sum(1) for part in blocks(x)])
        return -0.5 * (square + np.log(2 * np.pi * variances).sum())
