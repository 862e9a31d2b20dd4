"""Planted Gabor functions come back with their parameters; what is no Gabor function is told apart."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_hvae.analysis import gabor_fits
from pyro_hvae.analysis.gabor import _grid, _jacobian, _values, fit_gabors, gabor, spatial_spread, uncertainty
from pyro_hvae.analysis.gabor_fits import field_shapes
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior

SIDE = 20


def parameters(n: int, rng: np.random.Generator, margin: float = 4.0) -> np.ndarray:
    """Random Gabor functions of unit amplitude well inside the patch."""
    p = np.zeros((n, 8))
    p[:, :2] = rng.uniform(margin, SIDE - 1 - margin, (n, 2))
    p[:, 2], p[:, 3] = rng.uniform(0, np.pi, n), rng.uniform(0.1, 0.35, n)
    p[:, 4:6] = np.log(rng.uniform(1.8, 3.2, (n, 2)))
    phase = rng.uniform(0, 2 * np.pi, n)
    p[:, 6], p[:, 7] = np.cos(phase), np.sin(phase)
    return p


def test_jacobian_is_the_derivative():
    p = parameters(5, np.random.default_rng(0))
    x, y = _grid(SIDE)
    jacobian = _jacobian(p, _values(p, x, y))
    for k in range(8):
        step = 1e-6 * np.eye(8)[k]
        numeric = (gabor(p + step, SIDE) - gabor(p - step, SIDE)) / 2e-6
        np.testing.assert_allclose(jacobian[:, k], numeric, atol=1e-8)


def test_planted_parameters_come_back_within_their_least_squares_error():
    """Noise of known variance: errors over the Cramer-Rao bound of each parameter have variance 1, and no fit is lost."""
    rng = np.random.default_rng(1)
    p, noise = parameters(200, rng), 0.05
    fields = gabor(p, SIDE)
    started = time.perf_counter()
    found, explained = fit_gabors(fields + noise * rng.normal(size=fields.shape))
    assert time.perf_counter() - started < 60
    error = found - p
    turned = np.abs(np.round(error[:, 2] / np.pi)).astype(bool)  # angles 0 and π are the same
    error[turned, 2] -= np.pi * np.sign(error[turned, 2])
    error[turned, 7] = -found[turned, 7] - p[turned, 7]
    jacobian = _jacobian(p, _values(p, *_grid(SIDE)))
    bound = noise * np.sqrt(np.diagonal(np.linalg.inv(jacobian @ jacobian.transpose(0, 2, 1)), axis1=1, axis2=2))
    z = error / bound
    assert np.abs(z).max() < 6
    np.testing.assert_allclose((z**2).mean(0), 1, atol=4 * np.sqrt(2 / 200))
    expected = 1 - 392 * noise**2 / ((fields**2).sum(1) + 400 * noise**2)
    np.testing.assert_allclose(explained, expected, atol=0.03)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.01, 1e3), st.booleans())
def test_scale_and_sign_change_amplitude_and_phase_only(seed, scale, flip):
    fields = gabor(parameters(3, np.random.default_rng(seed)), SIDE)
    factor = -scale if flip else scale
    (a, one), (b, two) = fit_gabors(fields), fit_gabors(factor * fields)
    np.testing.assert_allclose(a[:, [0, 1, 3, 4, 5]], b[:, [0, 1, 3, 4, 5]], atol=1e-3)
    np.testing.assert_allclose(gabor(b, SIDE) / factor, gabor(a, SIDE), atol=1e-3)
    np.testing.assert_allclose([one, two], 1, atol=1e-6)


def test_noise_gratings_and_nothing():
    rng = np.random.default_rng(2)
    x, y = _grid(SIDE)
    grating = np.cos(2 * np.pi * 0.2 * x)[None]
    noise = rng.normal(size=(20, SIDE**2))
    spot = np.exp(-((x - 9.5) ** 2 + (y - 9.5) ** 2) / (2 * 2.0**2))[None]
    shapes = field_shapes(np.concatenate([grating, noise, spot, np.zeros((1, SIDE**2))]))
    spread = shapes["spread"].values
    assert spread[0] == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(spread[1:21], 1, atol=0.1)
    assert spread[21] == pytest.approx(2.0 / np.sqrt((SIDE**2 - 1) / 6), rel=1e-3)  # s.d. 2/sqrt(2) along either axis
    assert np.isnan(spread[22]) and np.isnan(shapes["explained"].values[22])
    assert shapes["localized"].values.tolist() == [False] * 21 + [True, False]
    assert (shapes["explained"].values[1:21] < 0.2).all()
    assert shapes["explained"].values[0] > 0.99 and shapes["frequency"].values[0] == pytest.approx(0.2, abs=1e-3)
    assert (shapes["uncertainty"].values[1:21] > 100).all()


def test_a_gabor_function_has_the_least_uncertainty_and_a_cut_spectrum_more():
    p = np.array([[9.5, 9.5, 0.7, 0.2, np.log(2.5), np.log(2.0), 1.0, 0.0]])
    field = gabor(p, SIDE)
    assert uncertainty(field)[0] == pytest.approx(1, abs=0.02)
    assert uncertainty(np.sign(field) * (np.abs(field) > 0.2))[0] > 1.3
    assert spatial_spread(field)[0] < 0.6


def test_orientation_is_that_of_the_bars_with_y_up():
    """A wave along x has vertical bars (90 degrees); bars that rise to the right, y pointing down, are at 45."""
    base = np.array([9.5, 9.5, 0.0, 0.2, np.log(2.5), np.log(2.5), 1.0, 0.0])
    tilted = base.copy()
    tilted[2] = np.pi / 4  # wave vector down and to the right: bars up and to the right
    lying = base.copy()
    lying[2], lying[6] = np.pi / 2, -1.0
    shapes = field_shapes(gabor(np.stack([base, tilted, lying]), SIDE))
    np.testing.assert_allclose(shapes["orientation"].values[:2], [90, 45], atol=0.01)
    assert min(shapes["orientation"].values[2] % 180, 180 - shapes["orientation"].values[2] % 180) < 0.01
    np.testing.assert_allclose(np.cos(np.radians(shapes["phase"].values)), [1, 1, -1], atol=1e-4)
    bars = gabor(tilted[None], SIDE).reshape(SIDE, SIDE)
    assert bars[7, 12] > 0.3 > 0 > bars[12, 12]


def test_fits_of_a_file_count_localized_units(planted, edit):
    def widen(tree):
        rng = np.random.default_rng(3)
        tree["constant_data"]["A"].values[:, planted.z1_places()[:10]] = rng.normal(size=(planted.size**2, 10)) / 10

    with open_posterior(edit(planted.path, widen)) as tree:
        found = gabor_fits(tree)
    assert found["localized_count"].item() == planted.z1_active - 10
    assert found["goodness"].sel(group="localized") > 0.95 > 0.5 > found["goodness"].sel(group="other")
    assert found["median_uncertainty"].sel(group="other") > 5 * found["median_uncertainty"].sel(group="localized")
    np.testing.assert_array_equal(found["unit"], planted.z1_places())


def test_without_active_units_there_is_nothing_to_fit(planted, edit):
    def erase(tree):
        tree["constant_data"]["A"] = 0.0 * tree["constant_data"]["A"]

    with open_posterior(edit(planted.path, erase)) as tree, pytest.raises(HVAEError, match="no z1 unit is active"):
        gabor_fits(tree)
