"""ICA on planted Laplace sources reaches the true density, whether the mixing is a rotation or any matrix."""

import numpy as np
import pytest
from scipy import stats

from pyro_hvae.densities.laplace_ica import LaplaceICA, fit_laplace_ica

DIM, TRAIN, TEST = 8, 6000, 4000


def planted(orthogonal, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(DIM, DIM))
    if orthogonal:
        mixing = np.linalg.qr(mixing)[0]
    scale = rng.uniform(0.5, 2.0, DIM)
    sources = rng.laplace(scale=scale, size=(TRAIN + TEST, DIM))
    truth = stats.laplace(scale=scale).logpdf(sources).sum(1) - np.linalg.slogdet(mixing)[1]
    y = sources @ mixing.T
    values, vectors = np.linalg.eigh(np.cov(y.T))  # white coordinates, as the fit expects
    y, truth = y @ vectors / np.sqrt(values), truth + 0.5 * np.log(values).sum()
    return y[:TRAIN], y[TRAIN:], truth[TRAIN:]


@pytest.mark.parametrize("orthogonal", [True, False])
def test_planted_sources_reach_their_own_density(orthogonal):
    y, held_out, truth = planted(orthogonal)
    density, iterations = fit_laplace_ica(y, tolerance=1e-5)
    gap = truth - density.log_density(held_out)
    # Fitting DIM^2 filters and DIM locations costs about half a nat a parameter over n.
    cost = (DIM**2 + DIM) / TRAIN
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(TEST) + cost
    assert iterations > 0
    gaussian = stats.multivariate_normal(y.mean(0), np.cov(y.T)).logpdf(held_out)
    assert truth.mean() - gaussian.mean() > 10 * cost, "the test can tell a Gaussian"


def test_density_is_the_product_of_its_sources():
    rng = np.random.default_rng(1)
    filters, location, scale = rng.normal(size=(3, 3)), rng.normal(size=3), rng.uniform(0.5, 2, 3)
    y = rng.normal(size=(20, 3))
    exact = stats.laplace(location, scale).logpdf(y @ filters.T).sum(1) + np.log(abs(np.linalg.det(filters)))
    np.testing.assert_allclose(LaplaceICA(filters, location, scale).log_density(y), exact, rtol=1e-10)


def test_filters_are_where_the_likelihood_is_highest_also_beyond_rotations():
    """E[sign(s_i) s_j] is diagonal at the maximum; for five sources in three dimensions no rotation makes it so."""
    y = np.random.default_rng(2).laplace(size=(4000, 5)) @ np.random.default_rng(3).normal(size=(5, 3))
    values, vectors = np.linalg.eigh(np.cov(y.T))
    y = (y - y.mean(0)) @ vectors / np.sqrt(values)
    density, _ = fit_laplace_ica(y, tolerance=1e-9)
    s = y @ density.filters.T
    np.testing.assert_allclose(np.sign(s).T @ s / len(s), np.eye(3), atol=5e-3)
    np.testing.assert_allclose(density.scale, 1, atol=5e-3)


def test_same_seed_same_density():
    y, held_out, _ = planted(True, 3)
    one, two = (fit_laplace_ica(y[:1000], seed=4)[0].log_density(held_out) for _ in range(2))
    np.testing.assert_array_equal(one, two)
