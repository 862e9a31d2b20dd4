"""Yardsticks: what other densities of the same patches reach, so that a reader knows what a bound is worth."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.densities.laplace_ica import fit_laplace_ica
from pyro_hvae.densities.matching import SCHEMA, SCHEMA_VERSION, digests
from pyro_hvae.densities.principal_axes import PrincipalAxes
from pyro_hvae.densities.scale_mixture import SMALLEST, contrast, fit_scale_mixture
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.provenance import git_revision, versions

LIMIT = 60_000
SCALES = 16  # of the Gaussian scale mixture
COMPONENTS, SHARED_SCALES = 8, 12  # of the mixtures
TOLERANCE = 0.1  # nats a patch: EM ends when an iteration gains less
PATCHES_PER_DIMENSION = 2  # that every covariance of a mixture should have, at least

#: Name of every yardstick, and what is fitted by what.
YARDSTICKS = {
    "Gaussian": "Normal with the model's noise sigma: probabilistic PCA, maximum likelihood in closed form",
    "Laplace ICA": "complete ICA with Laplace sources: FastICA, then all filters by maximum likelihood (L-BFGS)",
    "GSM": f"Gaussian scale mixture: one Normal times one contrast scalar a patch, on a grid of {SCALES} scales (EM)",
    "mixture of Gaussians": f"{COMPONENTS} Normal components with means and full covariances (scikit-learn's EM)",
    "mixture of GSMs": f"{COMPONENTS} covariances by {SHARED_SCALES} shared scales, a weight for each pair (EM)",
}

Progress = Callable[[str, float, float], None]
"""Told of every yardstick when it is fitted: its name, its mean held-out log density, the seconds it took."""


@checked
def yardsticks(
    train: xr.Dataset | np.ndarray,
    test: xr.Dataset | np.ndarray,
    *,
    sigma: float,
    limit: int = LIMIT,
    seed: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Fit five densities to training patches and evaluate them on held-out ones.

    :data:`YARDSTICKS` says which. All but the Gaussian are fitted to the patches as they are, without observation noise, in
    the dimensions in which the training patches vary; in the dimensions that whitening dropped every density is
    Normal(training mean, sigma^2), as the model's is
    (:class:`~pyro_hvae.densities.principal_axes.PrincipalAxes`).

    :param train, test: patches ``(image, pixel)`` that went through the same preprocessing: arrays, or datasets with ``x``
        (``data.train``, ``data.test`` of a :class:`~pyro_hvae.stimuli.PatchData`).
    :param sigma: standard deviation of the model's observation noise, ``float(vae.model.sigma)``.
    :param limit: training patches used, at most; chosen at random with ``seed`` where there are more.
    :returns: ``log_density (yardstick, image)`` of the held-out patches in nats, ``train_log_density (yardstick)`` (mean over
        the training patches: how much is overfitting), ``seconds``, ``iterations (yardstick)`` and ``digest (image)``, by
        which :func:`~pyro_hvae.densities.matching.matched` finds patches again. Attributes: sigma, numbers of patches and
        dimensions, settings, versions.
    :raises HVAEError: for patches of other sizes, not finite, or too few for their dimension.
    """
    if not (np.isfinite(sigma) and sigma > 0):
        raise HVAEError(f"sigma is the standard deviation of the observation noise and must be positive, got {sigma!r}")
    whole_number("limit", limit, 1)
    x, held_out = _patches(train, "training"), _patches(test, "held-out")
    if x.shape[1] != held_out.shape[1]:
        raise HVAEError(
            f"the training patches have {x.shape[1]} pixels and the held-out ones {held_out.shape[1]}; "
            "give patches of one size that went through the same preprocessing"
        )
    there = len(x)
    if there > limit:
        x = x[np.sort(np.random.default_rng(seed).choice(there, limit, replace=False))]
    axes = PrincipalAxes.fit(x)
    least = COMPONENTS * PATCHES_PER_DIMENSION * axes.dims
    if len(x) < least:
        raise HVAEError(
            f"{len(x)} training patches{f' (limit={limit} of {there})' if there > limit else ''} that vary in {axes.dims} "
            f"dimensions: {COMPONENTS} covariances need at least {least}; give more, or smaller ones"
        )
    y, held_out_y = axes.white(x), axes.white(held_out)
    rows: dict[str, list[Any]] = {"log_density": [], "train_log_density": [], "seconds": [], "iterations": []}
    for name in YARDSTICKS:
        start = time.perf_counter()
        if name == "Gaussian":
            density, fitted, iterations = axes.gaussian(held_out, sigma), axes.gaussian(x, sigma), 0
        else:
            evaluate, iterations = _fit(name, y, seed)
            density, fitted = (axes.log_density(a, evaluate(b), sigma) for a, b in ((held_out, held_out_y), (x, y)))
        values = (density, fitted.mean(), time.perf_counter() - start, iterations)
        for row, value in zip(rows.values(), values, strict=True):
            row.append(value)
        if progress is not None:
            progress(name, density.mean(), values[2])
    units = {"log_density": "nats", "train_log_density": "nats", "seconds": "s"}
    variables = {
        name: xr.Variable(("yardstick", "image")[: np.ndim(row)], np.array(row), {"units": units.get(name, "")})
        for name, row in rows.items()
    }
    variables["digest"] = xr.Variable("image", digests(held_out))
    coords = {"yardstick": list(YARDSTICKS), "image": np.arange(len(held_out))}
    settings = {"scales": SCALES, "components": COMPONENTS, "shared_scales": SHARED_SCALES, "tolerance": TOLERANCE}
    attrs = {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "sigma": float(sigma), "seed": seed, "limit": limit,
        "train": len(x), "pixels": x.shape[1], "dims": axes.dims, "yardsticks": json.dumps(YARDSTICKS),
        "settings": json.dumps(settings), "versions": json.dumps(versions()), "git_revision": git_revision(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return xr.Dataset(variables, coords, attrs)


def _patches(given: xr.Dataset | np.ndarray, which: str) -> np.ndarray:
    if isinstance(given, xr.Dataset):
        if "x" not in given or given["x"].dims != ("image", "pixel"):
            raise HVAEError(
                f"the {which} set has no x (image, pixel), but {dict(given.sizes)}; give data.train and data.test"
            )
        given = given["x"].values
    x = np.asarray(given)
    if x.ndim != 2 or x.dtype.kind not in "fiu":
        raise HVAEError(
            f"the {which} patches are {x.dtype} of shape {x.shape}; expected numbers (image, pixel), flattened"
        )
    if not len(x):
        raise HVAEError(f"there are no {which} patches; give at least one")
    if wrong := int((~np.isfinite(x)).any(1).sum()):
        raise HVAEError(f"{wrong} of {len(x)} {which} patches hold values that are not finite; leave those patches out")
    return x


def _fit(name: str, y: np.ndarray, seed: int) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Log density in white coordinates, and the number of iterations."""
    if name == "Laplace ICA":
        ica, iterations = fit_laplace_ica(y, seed=seed)
        return ica.log_density, iterations
    if name == "mixture of Gaussians":
        gaussians = _mixture_of_gaussians(y, seed)
        return gaussians.score_samples, gaussians.n_iter_
    if name == "GSM":
        mixture, trace = fit_scale_mixture(y, 1, SCALES, seed=seed, tolerance=TOLERANCE / 10)
    else:
        mixture, trace = fit_scale_mixture(
            y, COMPONENTS, SHARED_SCALES, seed=seed, prior=y.shape[1], tolerance=TOLERANCE
        )
    return mixture.log_density, len(trace) - 1


def _mixture_of_gaussians(y: np.ndarray, seed: int) -> GaussianMixture:
    """Starts from components that differ in contrast only, which EM reaches late from k-means."""
    dim = y.shape[1]
    scales = np.maximum(np.quantile(contrast(y), (np.arange(COMPONENTS) + 0.5) / COMPONENTS), SMALLEST)
    mixture = GaussianMixture(
        COMPONENTS, tol=TOLERANCE, max_iter=40, random_state=seed, weights_init=np.full(COMPONENTS, 1 / COMPONENTS),
        means_init=np.zeros((COMPONENTS, dim)), precisions_init=np.eye(dim) / scales[:, None, None] ** 2,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(y)
