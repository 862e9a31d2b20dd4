"""Units that are known Gabors, energies and divisively normalised energies, measured as a physiologist would."""

import numpy as np
import pytest
import torch
from physiology.planted_units import FREQUENCY, ORIENTATION, SD, SIZE, X, Y, planted_pair
from small import small_data, small_pair

from pyro_hvae.analysis import (
    contrast_response,
    contrast_uncertainty,
    cross_orientation,
    grating_tuning,
    surround_suppression,
    v1_scorecard,
)
from pyro_hvae.analysis.tuning import rate
from pyro_hvae.errors import HVAEError
from pyro_hvae.physiology import measure_physiology, responses, unit_responses
from pyro_hvae.stimuli import natural_patches
from pyro_hvae.storage.physiology_file import open_physiology

SEMI = 0.2


@pytest.fixture(scope="module")
def measured():
    images = np.random.default_rng(0).normal(size=(20, SIZE**2))
    return {
        kind: measure_physiology(planted_pair(kind, SEMI), images=images, draws=2, pixels_per_degree=10)
        for kind in ("gabor", "energy", "normalised")
    }


@pytest.mark.parametrize("kind", ["gabor", "energy", "normalised"])
def test_preferred_values_and_places_are_the_planted_ones(measured, kind):
    found = measured[kind]["preferred"]
    np.testing.assert_allclose(found["z1_orientation"], ORIENTATION, atol=1)
    np.testing.assert_allclose(found["z1_frequency"], FREQUENCY, rtol=0.06)
    np.testing.assert_allclose(found["z1_x"], X, atol=0.5)
    np.testing.assert_allclose(found["z1_y"], Y, atol=0.5)


def test_a_gabor_is_simple_and_an_energy_complex(measured):
    """F1/F0 is π/2 for a rectified sinusoid, up to the 8 phases at which it is sampled, and 0 for an energy."""
    simple = grating_tuning(measured["gabor"])
    np.testing.assert_allclose(simple["z1_modulation"], np.pi / 2, rtol=0.07)
    assert simple["simple"].item() == 1 and simple["responsive"].item() == 1
    complex_ = grating_tuning(measured["energy"])
    np.testing.assert_allclose(complex_["z1_modulation"], 0, atol=1e-5)
    assert complex_["simple"].item() == 0


def test_bandwidths_are_those_of_the_spectrum_of_a_gabor(measured):
    """Across orientations θ of gratings of frequency g an even Gabor of width s and frequency f answers
    cosh((2π s)² f g cos θ), from the two lobes of its spectrum; the mean energy over phases has twice the argument."""
    for kind, power in (("gabor", 1), ("energy", 2)):
        found, grid = grating_tuning(measured[kind]), measured[kind]["gratings"]["frequency"].values
        g = grid[np.abs(grid - FREQUENCY[:, None]).argmin(1)]
        k = power * (2 * np.pi * SD) ** 2 * FREQUENCY * g
        expected = 2 * np.rad2deg(np.arccos(np.arccosh(np.cosh(k) / 2) / k))
        np.testing.assert_allclose(found["z1_bandwidth"], expected, rtol=0.04)
        assert found["bandwidth"].item() == pytest.approx(np.median(expected), rel=0.03)
        theta = np.deg2rad(np.arange(0, 180, 10))
        curve = np.cosh(k[:, None] * np.cos(theta)) / np.cosh(k)[:, None]
        variance = 1 - np.abs((curve * np.exp(2j * theta)).sum(1)) / curve.sum(1)
        np.testing.assert_allclose(found["z1_circular_variance"], variance, atol=0.02)


def test_frequencies_are_in_declared_cycles_per_degree(measured):
    found = grating_tuning(measured["gabor"])
    np.testing.assert_allclose(found["z1_frequency"], 10 * FREQUENCY, rtol=0.06)
    assert found["frequency"].attrs["units"] == "cycles/degree"


def test_contrast_responses_are_linear_quadratic_and_saturating(measured):
    """Normalised energy: c² / (semi² + c²/2), so n = 2 and c50 = √2 semi."""
    linear = contrast_response(measured["gabor"])
    np.testing.assert_allclose(linear["z1_saturation"], 1, rtol=1e-3)
    assert linear["saturating"].item() == 0 and linear["exponent"].item() == pytest.approx(1, abs=0.12)
    assert contrast_response(measured["energy"])["exponent"].item() == pytest.approx(2, abs=0.03)
    normalised = contrast_response(measured["normalised"])
    assert normalised["exponent"].item() == pytest.approx(2, abs=0.06)
    np.testing.assert_allclose(normalised["z1_c50"], np.sqrt(2) * SEMI, rtol=0.03)
    assert normalised["saturating"].item() == 1


def test_only_normalisation_suppresses_from_the_surround_and_across_orientations(measured):
    """Full-field pool c²/2 at contrast 0.3; with the mask twice that: 1 - (s² + c²/2) / (s² + c²)."""
    for kind in ("gabor", "energy"):
        assert surround_suppression(measured[kind])["suppression"].item() == pytest.approx(0, abs=1e-3)
        assert cross_orientation(measured[kind])["suppression"].item() == pytest.approx(0, abs=0.02)
    size, plaid = surround_suppression(measured["normalised"]), cross_orientation(measured["normalised"])
    assert size["suppression"].item() > 0.25 and size["suppressed"].item() == 1
    assert (size["z1_summation"] < size["z1_surround"]).all()
    assert size["annulus"].item() < 0.3
    expected = 1 - (SEMI**2 + 0.045) / (SEMI**2 + 0.09)
    assert plaid["suppression"].item() == pytest.approx(expected, abs=0.02)


def test_summation_field_of_a_gabor_is_that_of_its_envelope(measured):
    """95% of the envelope within a disk, 1 - exp(-d²/8s²) = 0.95, where the square of the carrier averages to half."""
    found = surround_suppression(measured["gabor"])
    expected = SD * np.sqrt(-8 * np.log(0.05)) / 10
    np.testing.assert_allclose(found["z1_summation"], expected, rtol=0.15)


def test_a_constant_posterior_has_no_slope_with_contrast(measured):
    found = contrast_uncertainty(measured["energy"])
    assert found["slope"].item() == pytest.approx(0, abs=1e-6)
    assert found["blank"].item() == pytest.approx(1) and found["from_above"].item() == pytest.approx(0, abs=1e-9)


def test_a_posterior_that_widens_with_contrast_has_its_slope():
    pair = planted_pair("gabor")

    class Widening(type(pair.guide)):
        def forward(self, x):
            import pyro
            import pyro.distributions as dist

            with pyro.plate("image", len(x), dim=-1):
                scale = (0.01 + (x**2).mean(-1, keepdim=True)).pow(0.25)  # variance as contrast, far above 0.1
                pyro.sample("z1", dist.Normal(self.mean(x), scale + 0 * self.mean(x)).to_event(1))

    pair.guide.__class__ = Widening
    images = 10 * np.random.default_rng(0).normal(size=(20, SIZE**2))
    tree = measure_physiology(pair, images=images, draws=2, parts=["natural_contrast"])
    assert contrast_uncertainty(tree)["slope"].item() == pytest.approx(1, abs=0.01)


def test_the_response_is_the_declared_one(measured):
    both = measure_physiology(planted_pair("gabor"), response="absolute_mean", draws=2, parts=[])
    assert grating_tuning(both)["modulation"].item() < 0.1  # both halves of a sinusoid: F2, no F1
    with pytest.raises(HVAEError, match="no unit responds to gratings by its sd"):
        grating_tuning(measure_physiology(planted_pair("gabor"), response="sd", draws=2, parts=[]))
    assert rate(np.array([-2.0, 3.0]), np.ones(2), np.ones(2), np.ones(2), "mean").tolist() == [0, 2]


def test_one_unit_an_image_is_what_all_units_are():
    for guide in ("top_down", "bottom_up", "mean_field"):
        vae, x = small_pair(guide), small_data().test["x"].values[:12]
        index = np.arange(12) % vae.latents["z1"]
        every = responses(vae, x, draws=4, seed=3)
        one = unit_responses(vae, x, "z1", index, draws=4, seed=3)
        for all_units, own in zip(every["z1"], one, strict=True):
            np.testing.assert_allclose(own, all_units[np.arange(12), index], rtol=1e-5)


def test_moments_are_those_of_the_posterior_file():
    import pyro_hvae as hvae

    vae, x = small_pair(), small_data().test["x"].values[:5]
    exported = hvae.export_posterior(vae, x, moment_draws=4000, prior_samples=1, receptive_fields=0)
    found = responses(vae, x, draws=4000)
    for site in vae.sites:
        mean, variance = (exported["posterior_moments"][f"{site}_{m}"].values for m in ("mean", "variance"))
        np.testing.assert_allclose(found[site].mean, mean, atol=5 * np.sqrt(variance.max() / 4000))
        np.testing.assert_allclose(found[site].sd ** 2, variance, rtol=0.1)


def test_variance_that_comes_through_the_layer_above_is_in_the_sd():
    """A linear-Gaussian hierarchy in which 98% of the variance of z1 does: the exact posterior variance is 0.502."""
    from analysis.test_layer_dependence import KNOWN, Exact, model

    from pyro_hvae.programs import HVAE

    found = responses(HVAE(model(0.1), Exact(0.1)), np.linspace(-1, 1, 20)[:, None], draws=2000)["z1"]
    assert (found.sd**2).mean() == pytest.approx(KNOWN[0.1][0], rel=4 * np.sqrt(2 / 2000 / 20) + 1e-3)


def test_stimuli_go_through_the_transform_of_the_run():
    photographs = np.random.default_rng(0).gamma(2, size=(3, 60, 60))
    data = natural_patches(20, photographs, train=800, test=20)
    pair = planted_pair("gabor")
    with_transform = measure_physiology(pair, images=data, draws=2, parts=[])
    assert "natural_contrast" not in with_transform.children
    blank = torch.from_numpy(data.transform(data.transform.match_intensity(np.ones((1, 400)), median=1.0)))
    np.testing.assert_allclose(
        with_transform["blank"]["z1_mean"], pair.guide.mean(blank)[0].numpy(), rtol=1e-4, atol=1e-5
    )


def test_the_file_is_read_back_and_refused_where_it_is_damaged(measured, tmp_path):
    path = tmp_path / "physiology.nc"
    tree = measure_physiology(planted_pair("gabor"), draws=2, parts=["contrast"], units=3, path=path)
    assert tree["blank"].sizes == {"z1_unit": 3}
    with open_physiology(path) as opened:
        assert contrast_response(opened)["exponent"].item() == contrast_response(tree)["exponent"].item()
        assert opened.attrs["response"] == "mean"
    with pytest.raises(HVAEError, match="exists"):
        measure_physiology(planted_pair("gabor"), draws=2, path=path)
    damaged = tree.copy()
    damaged["gratings"] = damaged["gratings"].to_dataset().drop_vars("z1_sd")
    (tmp_path / "other.nc").unlink(missing_ok=True)
    damaged.to_netcdf(tmp_path / "other.nc")
    with pytest.raises(HVAEError, match="gratings/z1_sd is missing"):
        open_physiology(tmp_path / "other.nc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"response": "rate"}, "response"),
        ({"parts": ["colour"]}, "part of a measurement"),
        ({"parts": ["natural_contrast"]}, "shows natural images"),
        ({"contrast": 0.0}, "contrast must be"),
        ({"pixels_per_degree": -1.0}, "pixels_per_degree must be"),
        ({"draws": 1}, "draws"),
        ({"units": 0}, "units"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message):
    with pytest.raises(HVAEError, match=message):
        measure_physiology(planted_pair("gabor"), **options)


def test_too_few_units_are_not_scored(measured):
    with pytest.raises(HVAEError, match="too few units"):
        v1_scorecard(measured["normalised"])
