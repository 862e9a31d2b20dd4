"""The five yardsticks as a whole: exact where it can be, normalised, the right patches, and errors that say what to do."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import pyro_hvae as hvae
from pyro_hvae.densities.matching import matched, outdated
from pyro_hvae.densities.yardsticks import YARDSTICKS, yardsticks
from pyro_hvae.errors import HVAEError
from pyro_hvae.sampling.linear_gaussian import linear_gaussian_posterior

SIGMA = 0.4
OFFSET = np.array([0.3, -0.2, 0.1, 0.0, 0.5])


def patches(n, seed, live=3):
    """Heavy-tailed patches of five pixels that vary in ``live`` dimensions, one of them less than the noise."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(5, 5)))[0][:, :live]
    spread = np.array([2.0, 1.0, 0.1])[:live]
    return (rng.laplace(size=(n, live)) * rng.gamma(3, 0.3, (n, 1)) * spread) @ basis.T + OFFSET


@pytest.fixture(scope="module")
def fitted():
    train, test = patches(600, 0), patches(80, 1)
    return train, test, yardsticks(train, test, sigma=SIGMA)


def optimal(train):
    """The covariance that maximises the likelihood among all that are at least sigma^2."""
    values, vectors = np.linalg.eigh(np.cov(train.T, bias=True))
    return (vectors * np.maximum(values, SIGMA**2)) @ vectors.T


def test_gaussian_is_the_normal_with_the_best_covariance(fitted):
    train, test, found = fitted
    exact = stats.multivariate_normal(train.mean(0), optimal(train)).logpdf(test)
    np.testing.assert_allclose(found["log_density"].sel(yardstick="Gaussian"), exact, rtol=1e-6)


def test_no_covariance_nearby_has_a_higher_likelihood():
    train, best = patches(600, 0), optimal(patches(600, 0))
    top = stats.multivariate_normal(train.mean(0), best).logpdf(train).mean()
    rng = np.random.default_rng(0)
    for _ in range(20):
        root = np.linalg.cholesky(best - SIGMA**2 * np.eye(5) + 1e-9 * np.eye(5)) + 0.05 * rng.normal(size=(5, 5))
        other = root @ root.T + SIGMA**2 * np.eye(5)
        assert stats.multivariate_normal(train.mean(0), other).logpdf(train).mean() < top


def test_gaussian_is_the_evidence_of_the_best_linear_gaussian_model(fitted):
    train, test, found = fitted
    values, vectors = np.linalg.eigh(np.cov(train.T, bias=True))
    model = hvae.LinearModel(5, (5,), ("normal",), noise=SIGMA).double()
    with torch.no_grad():
        model.log_sigma.fill_(np.log(SIGMA))
        model.to_image.weight.copy_(torch.from_numpy(vectors * np.sqrt(np.maximum(values - SIGMA**2, 0))))
        model.to_image.bias.copy_(torch.from_numpy(train.mean(0)))
    evidence = linear_gaussian_posterior(model, torch.from_numpy(test)).log_evidence.numpy()
    np.testing.assert_allclose(found["log_density"].sel(yardstick="Gaussian"), evidence, rtol=1e-6)


def test_every_density_integrates_to_one():
    """Over two live dimensions and a dead one, on a grid that is finer near the mean."""
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    rng = np.random.default_rng(4)
    train = (rng.laplace(size=(800, 2)) * rng.gamma(3, 0.3, (800, 1)) * [2.0, 0.5]) @ basis[:, :2].T + OFFSET[:3]
    t = np.linspace(-9, 9, 161)
    fine, dense = 0.01 * np.sinh(t), 0.01 * np.cosh(t) * (t[1] - t[0])
    dead = np.linspace(-5, 5, 11) * SIGMA
    grid = np.stack(np.meshgrid(fine, fine, dead, indexing="ij"), -1).reshape(-1, 3)
    volume = (dense[:, None, None] * dense[:, None] * (dead[1] - dead[0]) * np.ones(11)).ravel()
    found = yardsticks(train, grid @ basis.T + train.mean(0), sigma=SIGMA)
    assert found.attrs["dims"] == 2
    total = (np.exp(found["log_density"].values) * volume).sum(1)
    np.testing.assert_allclose(total, 1, atol=3e-3)


def test_dead_dimensions_are_normal_with_the_models_noise(fitted):
    """A held-out patch moved off the subspace: the same for every yardstick."""
    train, test, found = fitted
    off = np.linalg.svd(train - train.mean(0))[2][-1]
    moved = yardsticks(train, test + 0.5 * off, sigma=SIGMA)
    lost = found["log_density"] - moved["log_density"]
    np.testing.assert_allclose(lost, 0.5 * (0.5 / SIGMA) ** 2, rtol=1e-4)
    assert found.attrs["dims"] == 3 and found.attrs["pixels"] == 5
    wider = yardsticks(train, test, sigma=2 * SIGMA)
    change = (found["log_density"] - wider["log_density"]).sel(yardstick="GSM")
    np.testing.assert_allclose(change, 2 * np.log(2), rtol=1e-4)


def test_richer_densities_reach_more_on_heavy_tails(fitted):
    train, _, found = fitted
    mean = yardsticks(train, patches(2000, 2), sigma=SIGMA)["log_density"].mean("image")
    assert mean.sel(yardstick="GSM") > mean.sel(yardstick="Gaussian") + 0.5
    assert list(found["yardstick"].values) == list(YARDSTICKS)
    assert (found["seconds"] > 0).all() and (found["train_log_density"] > found["log_density"].mean("image") - 1).all()
    assert json.loads(found.attrs["yardsticks"]) == YARDSTICKS


def test_the_same_seed_gives_the_same_and_the_limit_chooses_patches(fitted):
    train, test, found = fitted
    xr.testing.assert_identical(yardsticks(train, test, sigma=SIGMA)["log_density"], found["log_density"])
    fewer = yardsticks(train, test, sigma=SIGMA, limit=300)
    assert fewer.attrs["train"] == 300 and not np.allclose(fewer["log_density"], found["log_density"])
    told = []
    yardsticks(train, test, sigma=SIGMA, progress=lambda name, mean, seconds: told.append((name, mean, seconds > 0)))
    assert told == [(name, float(found["log_density"].sel(yardstick=name).mean()), True) for name in YARDSTICKS]


def test_patches_are_matched_by_content(fitted):
    _, test, found = fitted
    order = np.random.default_rng(0).permutation(80)[:30]
    x = np.concatenate([patches(5, 5), test[order]]).astype(np.float32)
    rows = matched(found, x)
    assert np.isnan(rows[:, :5]).all()
    np.testing.assert_array_equal(rows[:, 5:], found["log_density"].values[:, order])


def test_what_is_outdated_is_named(fitted):
    _, test, found = fitted
    assert outdated(found, sigma=np.float32(SIGMA), held_out=test, limit=60_000, seed=0) == ""
    assert outdated(found, sigma=0.5) == "sigma=0.4, not 0.5"
    assert outdated(found, sigma=SIGMA, held_out=test[:3], seed=1) == "seed=0, not 1, other held-out patches"


@pytest.mark.parametrize(
    ("train", "test", "options", "says"),
    [
        (patches(47, 0), patches(9, 1), {}, "47 training patches that vary in 3 dimensions: .* at least 48; give more"),
        (patches(90, 0), patches(9, 1), {"limit": 40}, "40 training patches \\(limit=40 of 90\\)"),
        (patches(90, 0), patches(9, 1)[:, :4], {}, "5 pixels and the held-out ones 4"),
        (patches(90, 0), patches(9, 1)[:0], {}, "no held-out patches"),
        (patches(90, 0) * np.nan, patches(9, 1), {}, "90 of 90 training patches .* not finite"),
        (np.ones((90, 5)), patches(9, 1), {}, "do not vary"),
        (patches(90, 0).reshape(90, 5, 1), patches(9, 1), {}, "expected numbers \\(image, pixel\\)"),
        (xr.Dataset({"y": ("image", [1.0])}), patches(9, 1), {}, "training set has no x"),
        (patches(90, 0), patches(9, 1), {"sigma": 0.0}, "must be positive"),
        (patches(90, 0), patches(9, 1), {"limit": 0}, "limit must be a whole number of at least 1, got 0"),
    ],
)
def test_errors_say_what_to_do(train, test, options, says):
    with pytest.raises(HVAEError, match=says):
        yardsticks(train, test, **({"sigma": SIGMA} | options))
