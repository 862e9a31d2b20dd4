"""EM for mixtures that share scales: monotone, the Gaussian where nothing is mixed, and planted mixtures come back."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture

from pyro_hvae.densities.scale_mixture import ScaleMixture, fit_scale_mixture, scale_grid

DIM = 4


def planted(n, seed, covariances=None, scales=(0.3, 1.0, 2.5), weights=(0.3, 0.5, 0.2)):
    """Patches and their true log density: a component at random, times a scale at random."""
    rng = np.random.default_rng(seed)
    if covariances is None:
        root = np.random.default_rng(7).normal(size=(DIM, DIM))
        covariances = (root @ root.T)[None]
    j, k = rng.integers(len(covariances), size=n), rng.choice(len(scales), size=n, p=weights)
    noise = rng.normal(size=(n, covariances.shape[1]))
    y = np.array(scales)[k, None] * np.einsum("nab,nb->na", np.linalg.cholesky(covariances)[j], noise)
    zero = np.zeros(y.shape[1])
    terms = [
        np.log(w / len(covariances)) + stats.multivariate_normal(zero, s**2 * c).logpdf(y)
        for s, w in zip(scales, weights, strict=True)
        for c in covariances
    ]
    return y, logsumexp(terms, axis=0)


def test_density_is_the_sum_of_its_normals():
    covariances = np.stack([np.eye(3), np.diag([3.0, 1.0, 0.2])])
    y, truth = planted(50, 0, covariances)
    weights = np.outer([0.5, 0.5], [0.3, 0.5, 0.2])
    found = ScaleMixture(weights, np.array([0.3, 1.0, 2.5]), covariances).log_density(y)
    np.testing.assert_allclose(found, truth, rtol=1e-10)


def test_one_component_of_one_scale_is_the_gaussian():
    y, _ = planted(300, 1)
    y -= y.mean(0)
    mixture, trace = fit_scale_mixture(y, 1, 1)
    exact = stats.multivariate_normal(np.zeros(DIM), y.T @ y / len(y)).logpdf(y)
    np.testing.assert_allclose(mixture.log_density(y), exact, rtol=1e-10)
    assert trace[-1] == pytest.approx(exact.mean())


def test_prior_is_patches_of_unit_covariance():
    y, _ = planted(50, 11)
    mixture, _ = fit_scale_mixture(y, 1, 1, prior=25)
    np.testing.assert_allclose(mixture.covariances[0], (y.T @ y + 25 * np.eye(DIM)) / 75, rtol=1e-10)


@pytest.mark.parametrize(("components", "scales", "prior"), [(1, 6, 0.0), (3, 1, 0.0), (3, 5, 0.0), (4, 6, 10.0)])
def test_no_iteration_lowers_what_is_maximised(components, scales, prior):
    y, _ = planted(400, 2)
    mixture, trace = fit_scale_mixture(y, components, scales, prior=prior, tolerance=-np.inf, iterations=30)
    assert len(trace) == 31
    assert (np.diff(trace) > -1e-10).all() and trace[-1] > trace[0]
    assert mixture.weights.sum() == pytest.approx(1)
    if not prior:
        assert trace[-1] == pytest.approx(mixture.log_density(y).mean())


def test_planted_scale_mixture_reaches_its_own_density():
    """On held-out patches, within the standard error of the paired difference and what fitting 10 + 15 numbers costs."""
    y, _ = planted(8000, 3)
    held_out, truth = planted(4000, 4)
    mixture, _ = fit_scale_mixture(y, 1, 16, tolerance=1e-4, iterations=200)
    gap = truth - mixture.log_density(held_out)
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap)) + 25 / (2 * len(y))
    gaussian, _ = fit_scale_mixture(y, 1, 1)
    assert truth.mean() - gaussian.log_density(held_out).mean() > 20 * abs(gap.mean()), "the test can tell a Gaussian"


def test_planted_mixture_of_scale_mixtures_reaches_its_own_density():
    axes = np.stack([np.diag([4.0, 0.1, 1.0]), np.diag([0.1, 4.0, 1.0])])
    y, _ = planted(8000, 5, axes)
    held_out, truth = planted(4000, 6, axes)
    mixture, _ = fit_scale_mixture(y, 2, 12, tolerance=1e-4, iterations=200)
    gap = truth - mixture.log_density(held_out)
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap)) + (12 + 23) / (2 * len(y))


def test_without_scales_it_is_scikit_learns_mixture_of_gaussians():
    """At zero means: the density of scikit-learn's with the same parameters."""
    y, _ = planted(500, 8)
    mixture, _ = fit_scale_mixture(y, 2, 1)
    other = GaussianMixture(2)
    other.weights_, other.means_, other.covariances_ = mixture.weights[:, 0], np.zeros((2, DIM)), mixture.covariances
    other.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(mixture.covariances)).transpose(0, 2, 1)
    np.testing.assert_allclose(mixture.log_density(y), other.score_samples(y), rtol=1e-8)


def test_single_precision_changes_little():
    y, _ = planted(2000, 9)
    found = [fit_scale_mixture(a, 3, 6, tolerance=1e-3)[0].log_density(a) for a in (y, y.astype(np.float32))]
    np.testing.assert_allclose(found[0], found[1], atol=2e-2)


def test_blank_patches_and_small_components_do_not_break_it():
    y, _ = planted(200, 10)
    y[:20] = 0
    grid = scale_grid(y, 5)
    assert (grid > 0).all() and (np.diff(grid) > 0).all()
    mixture, trace = fit_scale_mixture(y[:40], 8, 5, prior=DIM)
    assert np.isfinite(trace).all() and np.isfinite(mixture.log_density(y)).all()
