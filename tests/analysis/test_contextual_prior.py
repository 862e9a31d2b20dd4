"""Contextual prior, aggregate posterior and receptive fields of planted files."""

import numpy as np
import pytest
import xarray as xr
from scipy import integrate, stats

from pyro_hvae.analysis import aggregate_posterior, contextual_prior, receptive_fields
from pyro_hvae.analysis.aggregate_posterior import plot_aggregate_posterior
from pyro_hvae.analysis.contextual_prior import plot_contextual_prior
from pyro_hvae.analysis.receptive_fields import plot_receptive_fields
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def test_effects_of_z2_on_z1_are_the_planted_ones(planted):
    with open_posterior(planted.path) as tree:
        found = contextual_prior(tree)
    np.testing.assert_allclose(found["effect"], [0.1, 0.3], rtol=1e-6)
    assert found["reach"] == pytest.approx(planted.z1_active)  # every active unit by as much
    np.testing.assert_allclose(found["location_effect"].values[planted.z2_active :], 0)
    assert found["effect_n"].values.tolist() == [planted.z2_active] * 2
    caption = plot_contextual_prior(found).caption
    assert "median over active ones 0.1 and 0.3. n = 5 active of 8 z2 dimensions." in caption


def test_the_contextual_map_is_where_the_units_are(planted, edit):
    """A dimension that raises the log scale of all units by 0.5 raises it by 0.5 at every pixel; one unit, where it is."""
    unit = int(planted.z1_places()[0])

    def set_effects(tree):
        scale = tree["constant_data"]["z2_to_z1_log_scale"]
        scale[0] = 0.5
        scale[1] = 0.0
        scale[1, unit] = 1.0

    with open_posterior(edit(planted.path, set_effects)) as tree:
        found = contextual_prior(tree)
    np.testing.assert_allclose(found["context"].values[0], 0.5, rtol=1e-6)
    assert found["dim_reach"].values[1] == pytest.approx(1)
    assert np.corrcoef(found["context"].values[1], planted.generative_map()[:, unit] ** 2)[0, 1] > 0.5


def test_traversals_are_drawn_only_where_there_is_something_to_see(planted, edit):
    """Of five dimensions two have fields a tenth as strong: their places in the row of traversals stay empty."""

    def weaken(tree):
        tree["constant_data"]["z2_field"].values[[1, 3]] *= 0.1

    with open_posterior(edit(planted.path, weaken)) as tree:
        found = contextual_prior(tree)
    np.testing.assert_array_equal(np.flatnonzero(found["location_share"] >= 0.05), [0, 2, 4])
    picture = plot_contextual_prior(found)
    canvas = np.asarray(picture.figure.axes[0].images[0].get_array().filled(np.nan))
    side = planted.size
    filled = [np.isfinite(canvas[0, (side + 1) * k]) for k in range(5)]
    order = np.argsort(-found["log_scale_effect"].values[:5])
    assert filled == [dim not in (1, 3) for dim in order]
    assert "not drawn for the 2 that account for less than 5% of the variance of images along it" in picture.caption
    with open_posterior(
        edit(planted.path, lambda tree: tree["constant_data"]["z2_field"].values.__imul__(0.01))
    ) as tree:
        picture = plot_contextual_prior(contextual_prior(tree))
    assert [text.get_text() for text in picture.figure.axes[0].texts] == ["context"]


def test_without_active_dimensions_there_is_no_context(planted, edit):
    def erase(tree):
        tree["constant_data"]["A"] = 0.0 * tree["constant_data"]["A"]

    with open_posterior(edit(planted.path, erase)) as tree, pytest.raises(HVAEError, match="0 z1 units and 5 z2 dim"):
        contextual_prior(tree)


def test_divergence_of_known_aggregates(planted, edit):
    """Posteriors Normal(m, v) with m ~ Normal(0, 1 - v): the prior itself. Shifted by 1 and halved: closed forms."""
    rng = np.random.default_rng(0)
    n = planted.natural

    def set_moments(tree):
        mean, variance = tree["posterior_moments"]["z2_mean"], tree["posterior_moments"]["z2_variance"]
        quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
        variance[:n, :4] = 0.5
        for dim in range(4):
            mean[:n, dim] = rng.permutation(quantiles) * np.sqrt(0.5)
        mean[:n, 1] += 1.0
        mean[:n, 2], variance[:n, 2] = rng.permutation(quantiles) * 0.4, 0.09
        mean[:n, 3], variance[:n, 3] = np.where(np.arange(n) % 2, -2.0, 2.0), 0.1

    with open_posterior(edit(planted.path, set_moments)) as tree:
        found = aggregate_posterior(tree)

    def density(z):
        return 0.5 * (stats.norm.pdf(z, -2, 0.1**0.5) + stats.norm.pdf(z, 2, 0.1**0.5))

    modes = integrate.quad(
        lambda z: density(z) * (np.log(density(z)) - stats.norm.logpdf(z)), -5, 5, points=[-2, 0, 2]
    )[0]
    expected = [0.0, 0.5, 0.5 * (0.25 - 1 - np.log(0.25)), modes]
    np.testing.assert_allclose(found["dim_divergence"].values[:4], expected, atol=0.01)
    np.testing.assert_allclose(found["dim_sd"].values[:4], [1, 1, 0.5, np.sqrt(4.1)], atol=0.01)
    np.testing.assert_allclose(integrate.trapezoid(found["density"].values[:4], found["value"], axis=1), 1, atol=1e-3)
    picture = plot_aggregate_posterior(found)
    shown = [axis.get_title() for axis in picture.figure.axes if axis.get_title()]
    # of the five active ones, the farthest first: two modes, the shifted one, the narrow one, then the prior itself
    assert shown[:3] == ["[3]", "[1]", "[2]"] and set(shown[3:]) == {"[0]", "[4]"}
    assert f"n = {n} images (natural)" in picture.caption


def test_receptive_fields_of_linear_units_are_their_weights(plant, edit):
    truth = plant(natural=1200, train=2, test=2)
    rng = np.random.default_rng(1)
    units = truth.z1_places()
    weights = rng.normal(size=(truth.size**2, len(units)))
    weights[:, 0] = truth.generative_map()[:, units[0]]

    def linear(tree):
        z = tree["posterior_moments"]["z1_mean"]
        tree["observed_data"]["x"].values += 3.0  # a common offset must not matter
        noiseless = tree["observed_data"]["x"].values @ weights
        noisy = noiseless + noiseless.std(0) * rng.normal(size=noiseless.shape)
        noisy[:, :10] = noiseless[:, :10]
        z.values[:, units] = noisy

    with open_posterior(edit(truth.path, linear)) as tree:
        found = receptive_fields(tree)
    # The one penalty suits the many noisy units; it costs the noiseless ones a little.
    np.testing.assert_allclose(found["unit_explained"].values[:10], 1, atol=0.05)
    # Half of the variance is noise; of the signal a share of about pixels / images is lost in fitting (100 of 600).
    assert 0.35 < np.median(found["unit_explained"].values[10:]) < 0.52
    cosines = [np.corrcoef(found["receptive_field"].values[k], weights[:, k])[0, 1] for k in range(10)]
    assert min(cosines) > 0.9
    assert found["unit_similarity"].values[0] > 0.95 > 0.5 > np.abs(found["unit_similarity"].values[1:]).max()
    assert "n = 70 active units, 1200 images (natural)." in plot_receptive_fields(found).caption


def test_units_without_relation_to_the_image_have_no_receptive_field(plant, edit):
    def unrelated(tree):
        z = tree["posterior_moments"]["z1_mean"]
        z[:] = np.random.default_rng(2).normal(size=z.shape)

    with open_posterior(edit(plant(natural=600).path, unrelated)) as tree:
        found = receptive_fields(tree)
    assert found["explained"].item() < 0.03
    with (
        open_posterior(plant("one.nc", natural=3, families=()).path) as tree,
        pytest.raises(HVAEError, match="at least 8; the file has 3"),
    ):
        receptive_fields(tree)


def test_gradient_fields_stand_beside_the_regression(plant, edit):
    """Noiseless linear units of images that are white in 60 directions of 100: there the gradient is the regression, for every
    other unit."""
    truth = plant(natural=1200, train=2, test=2)
    rng = np.random.default_rng(1)
    units = truth.z1_places()
    span, _ = np.linalg.qr(rng.normal(size=(truth.size**2, 60)))
    weights = span @ rng.normal(size=(60, len(units)))

    def linear(tree):
        x = rng.normal(size=(tree["observed_data"].sizes["image"], 60)) @ span.T
        tree["observed_data"]["x"].values[:] = x
        tree["posterior_moments"]["z1_mean"].values[:, units] = x @ weights
        gradient = rng.normal(size=(truth.z1_active + truth.z1_collapsed, truth.size**2))
        gradient[units[::2]] += 3 * weights.T[::2] - gradient[units[::2]] @ span @ span.T
        attrs = {"images": 50, "image_set": "natural"}
        tree["constant_data"]["z1_receptive_field"] = xr.DataArray(gradient, dims=("z1_dim", "pixel"), attrs=attrs)

    with open_posterior(edit(truth.path, linear)) as tree:
        found = receptive_fields(tree)
    agreement = found["unit_gradient_agreement"].values
    assert agreement[::2].min() > 0.999 and abs(agreement[1::2]).max() < 0.6
    assert found["gradient_agreement"].item() == pytest.approx(np.median(agreement))
    A = truth.generative_map()[:, units]
    expected = (A * weights).sum(0) / np.linalg.norm(A, axis=0) / np.linalg.norm(weights, axis=0)
    np.testing.assert_allclose(found["unit_gradient_similarity"].values[::2], expected[::2], atol=1e-5)
    assert "averaged over 50 natural images" in plot_receptive_fields(found).caption


def test_a_gradient_that_is_not_finite_is_left_out(planted, edit):
    def spoil(tree):
        shape = (planted.z1_active + planted.z1_collapsed, planted.size**2)
        tree["constant_data"]["z1_receptive_field"] = xr.DataArray(np.full(shape, np.nan), dims=("z1_dim", "pixel"))

    with open_posterior(edit(planted.path, spoil)) as tree:
        found = receptive_fields(tree)
    assert "gradient is left out" in found.attrs["notes"] and "gradient_field" not in found and "explained" in found
