"""Fields are the columns of A, and their area is known for shapes whose participation ratio is known."""

import numpy as np
import pytest

from pyro_hvae.analysis import projective_fields
from pyro_hvae.analysis.projective_fields import plot_projective_fields
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def test_fields_are_the_generative_map(planted):
    with open_posterior(planted.path) as tree:
        found = projective_fields(tree)
    np.testing.assert_allclose(found["z1_field"].values.T, planted.generative_map())
    assert found["z1_active"].sum() == planted.z1_active
    assert found["z2_field"].dims == ("z2_dim", "pixel")


def test_area_of_known_shapes(planted, edit):
    """One pixel: 1. Flat: all pixels. A block of 12 pixels: 12. Gaussian noise: a third of the pixels."""
    pixels = planted.size**2
    noise = np.random.default_rng(0).normal(size=pixels)

    def shapes(tree):
        fields = tree["constant_data"]["z2_field"]
        fields[:] = 0.0
        fields[0, 7] = -2.0
        fields[1] = 0.3
        fields[2, :12] = 5.0
        fields[3] = noise

    with open_posterior(edit(planted.path, shapes)) as tree:
        found = projective_fields(tree)
    area = found["z2_area"].values
    np.testing.assert_allclose(area[:3], [1, pixels, 12], rtol=1e-6)
    assert area[3] == pytest.approx(pixels / 3, rel=0.5)
    assert np.isnan(area[4:]).all()


def test_median_interval_covers_the_median_at_its_level():
    """Exact coverage of the order-statistic interval: at least 95%, within Monte Carlo error of 3000 repeats."""
    rng = np.random.default_rng(0)
    hits = [
        low <= 0.0 <= high for _, (low, high) in (median_and_interval(rng.standard_cauchy(40)) for _ in range(3000))
    ]
    assert 0.95 - 3 * np.sqrt(0.05 * 0.95 / 3000) < np.mean(hits) < 0.98


def test_median_of_nothing_and_of_too_little():
    assert np.isnan(median_and_interval(np.array([]))[0])
    median, interval = median_and_interval(np.array([1.0, 2.0, 9.0]))
    assert median == 2.0
    assert np.isnan(interval).all()


def test_a_patch_that_is_not_square_has_no_picture(planted, edit):
    def cut(tree):
        for group in ("constant_data", "observed_data", "posterior_predictive", "prior_predictive"):
            tree[group] = type(tree)(tree[group].to_dataset().isel(pixel=slice(99)))

    with open_posterior(edit(planted.path, cut)) as tree:
        found = projective_fields(tree)
        with pytest.raises(HVAEError, match="99 pixels are no square patch"):
            plot_projective_fields(found)
