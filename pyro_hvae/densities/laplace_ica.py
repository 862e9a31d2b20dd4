"""Complete independent component analysis with Laplace sources, by maximum likelihood."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from pyro_hvae.densities.principal_axes import blocks


@dataclass(frozen=True, eq=False)
class LaplaceICA:
    """p(y) = |det W| prod_i Laplace(w_i y; location_i, scale_i) with as many sources as dimensions."""

    filters: np.ndarray
    """W ``(source, dim)``"""
    location: np.ndarray
    scale: np.ndarray

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Nats, ``(image,)``."""
        weights = self.filters.T.astype(y.dtype)
        distance = [(np.abs(part @ weights - self.location) / self.scale).sum(1) for part in blocks(y)]
        return np.linalg.slogdet(self.filters)[1] - np.log(2 * self.scale).sum() - np.concatenate(distance)


def fit_laplace_ica(
    y: np.ndarray, *, seed: int = 0, start_iterations: int = 60, iterations: int = 100, tolerance: float = 0.01
) -> tuple[LaplaceICA, int]:
    """Fit to white coordinates ``(image, dim)`` with mean zero.

    1. FastICA (symmetric, log cosh) finds a rotation: a start only, at most ``start_iterations`` long.
    2. From there all of W (rotation, shear and the scale of every source) maximises the likelihood of Laplace sources,
       mean over patches of sum_i -|w_i y| + log |det W| - dim log 2, by L-BFGS, until an iteration gains less than
       ``tolerance`` nats a patch, or ``iterations`` are over.
    3. Location and scale of every source by maximum likelihood given W: median and mean absolute deviation.

    :returns: the density, and the number of iterations of L-BFGS.
    """
    n, dim = y.shape
    start = FastICA(whiten=False, fun="logcosh", max_iter=start_iterations, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        filters = start.fit(y).components_.astype(np.float64)
    filters /= np.abs(y @ filters.T.astype(y.dtype)).mean(0, dtype=np.float64)[:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(dim, dim)
        weights, distance, gradient = w.T.astype(y.dtype), 0.0, np.zeros((dim, dim))
        for part in blocks(y):
            s = part @ weights
            distance += np.abs(s).sum(dtype=np.float64)
            gradient += np.sign(s).T @ part
        value = distance / n - np.linalg.slogdet(w)[1] + dim * np.log(2)
        return value, (gradient / n - np.linalg.inv(w).T).ravel()

    enough = tolerance / max(abs(loss(filters.ravel())[0]), 1.0)
    found = minimize(
        loss, filters.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "ftol": enough, "gtol": 0.0}
    )
    filters = found.x.reshape(dim, dim)
    s = np.concatenate([part @ filters.T.astype(y.dtype) for part in blocks(y)])
    location = np.median(s, 0)
    return LaplaceICA(filters, location, np.abs(s - location).mean(0, dtype=np.float64)), int(found.nit)
