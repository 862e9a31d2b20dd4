"""Moments and spectra of ancestral samples of a linear Laplace model, which are known exactly."""

import numpy as np
import pytest

from pyro_hvae.analysis import ancestral_samples
from pyro_hvae.analysis.ancestral_samples import _moments, _terms
from pyro_hvae.storage.posterior_file import open_posterior


def test_moments_of_samples_and_images_are_those_of_the_model(planted):
    variance, kurtosis = planted.moments_of_samples()
    with open_posterior(planted.path) as tree:
        found = ancestral_samples(tree)
    for which in ("samples", "observed"):  # both were drawn from the model, noise included
        here = found.sel(which=which)
        assert abs(here["variance"] - variance) < 4 * here["variance_se"]
        assert abs(here["kurtosis"] - kurtosis) < 4 * here["kurtosis_se"]
    means = found.sel(which="means")
    assert abs(means["variance"] - (variance - planted.sigma**2)) < 4 * means["variance_se"]
    assert found.attrs["image_set"] == "natural"
    np.testing.assert_array_equal(found["variance_n"], [planted.samples, planted.samples, planted.natural])


def test_noise_added_in_closed_form_equals_noise_added_by_drawing():
    rng = np.random.default_rng(0)
    means = rng.laplace(size=(4000, 36))
    drawn = means + 1.3 * rng.normal(size=means.shape)
    closed, sampled = _moments(_terms(means).sum(0), 1.3**2), _moments(_terms(drawn).sum(0), 0.0)
    np.testing.assert_allclose(closed[0], sampled[0], rtol=0.01)
    # Laplace: excess kurtosis 3 at variance 2, so 3 (2 / 3.69)² after the noise.
    assert closed[1] == pytest.approx(3 * (2 / 3.69) ** 2, abs=0.08)
    np.testing.assert_allclose(closed[2:], sampled[2:], rtol=0.03)


def test_spectrum_is_flat_for_white_noise_and_a_peak_for_a_grating():
    rng = np.random.default_rng(0)
    white = 0.7 * rng.normal(size=(2000, 256))
    np.testing.assert_allclose(_moments(_terms(white).sum(0), 0.0)[2:], 0.49, rtol=0.05)
    _, x = np.mgrid[:16, :16]
    grating = np.cos(2 * np.pi * 4 * x / 16).reshape(1, -1)
    spectrum = _moments(_terms(grating).sum(0), 0.0)[2:]
    assert spectrum.argmax() == 4 - 1
    np.testing.assert_allclose(np.delete(spectrum, 3), 0, atol=1e-12)


def test_textures_stand_in_where_there_are_no_natural_images(plant):
    with open_posterior(plant(natural=0).path) as tree:
        found = ancestral_samples(tree)
    assert found.attrs["image_set"] == "texture"
    assert "no natural images" in found.attrs["notes"]
