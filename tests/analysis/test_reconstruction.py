"""Reconstructions with a residual of known variance."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis import reconstructions
from pyro_hvae.analysis.reconstruction import plot_reconstruction
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def test_residual_is_the_planted_noise(planted):
    with open_posterior(planted.path) as tree:
        found = reconstructions(tree)
        x = tree["observed_data"]["x"].values.astype(float)
    for name in ("natural", "texture"):
        here = found.sel(set=name)
        assert abs(here["residual_variance"] - planted.sigma**2) < 4 * here["residual_variance_se"]
        members = x[: planted.natural] if name == "natural" else x[planted.natural :]
        total = ((members - members.mean(1, keepdims=True)) ** 2).mean()
        assert abs(here["explained_variance"] - (1 - planted.sigma**2 / total)) < 4 * here["explained_variance_se"]
    # n pixels of variance s² give s.e. s² sqrt(2 / n) of their mean square; the jackknife must find it within a third.
    expected = planted.sigma**2 * np.sqrt(2 / (planted.natural * planted.size**2))
    assert found["residual_variance_se"].sel(set="natural").item() == pytest.approx(expected, rel=0.35)
    assert found.attrs["sigma_squared"] == pytest.approx(0.16)
    np.testing.assert_array_equal(found["correlation_n"], [300, 300])


def test_correlation_is_that_of_numpy(planted):
    with open_posterior(planted.path) as tree:
        found = reconstructions(tree)
        x, y = tree["observed_data"]["x"].values, tree["posterior_predictive"]["x_mean"].values
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found["image_correlation"], expected, rtol=1e-5)


def test_a_perfect_and_a_useless_reconstruction(planted, edit):
    def perfect(tree: xr.DataTree) -> None:
        tree["posterior_predictive"]["x_mean"] = tree["observed_data"]["x"]

    def flat(tree: xr.DataTree) -> None:
        tree["posterior_predictive"]["x_mean"][:] = 0.0

    with open_posterior(edit(planted.path, perfect)) as tree:
        found = reconstructions(tree)
    np.testing.assert_allclose(found["explained_variance"], 1)
    np.testing.assert_allclose(found["correlation"], 1)
    with open_posterior(edit(planted.path, flat)) as tree:
        found = reconstructions(tree)
    assert (found["explained_variance"] < 0.01).all()
    assert found["correlation"].isnull().all()
    assert "texture: 300 images (or reconstructions) without variance have no correlation" in found.attrs["notes"]
    legend = [text.get_text() for text in plot_reconstruction(found).figure.axes[1].get_legend().get_texts()]
    assert legend == ["natural, n = 0", "texture, n = 0"]


def test_only_shown_pixels_of_masked_images_count(planted, edit):
    """Whatever stands in hidden pixels must not matter."""
    pixels = planted.size**2
    shown = np.arange(pixels) % 3 > 0

    def mask(value: float):
        def change(tree: xr.DataTree) -> None:
            tree["observed_data"]["mask"] = xr.DataArray(np.tile(shown, (600, 1)), dims=("image", "pixel"))
            tree["observed_data"]["x"][:, ~shown] = value

        return change

    results = []
    for value in (0.0, 100.0):
        with open_posterior(edit(planted.path, mask(value))) as tree:
            results.append(reconstructions(tree))
            x, y = tree["observed_data"]["x"].values, tree["posterior_predictive"]["x_mean"].values
    for key in ("correlation", "explained_variance", "residual_variance"):
        np.testing.assert_allclose(results[0][key], results[1][key], rtol=1e-5)
    expected = [np.corrcoef(a[shown], b[shown])[0, 1] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(results[1]["image_correlation"], expected, rtol=1e-4)


def test_one_image_has_a_value_and_no_error(plant):
    with open_posterior(plant(natural=1, train=0, test=0).path) as tree:
        found = reconstructions(tree)
    assert 0.5 < found["explained_variance"].item() < 1
    assert np.isnan(found["explained_variance_se"].item())
    caption = plot_reconstruction(found).caption
    assert f"natural: explained variance {found['explained_variance'].item():.3f} ± nan" in caption
    assert caption.endswith("n = 1 natural images.")


def test_nothing_finite_is_an_error(planted, edit):
    def spoil(tree: xr.DataTree) -> None:
        tree["posterior_predictive"]["x_mean"][:, 0] = np.inf

    with (
        open_posterior(edit(planted.path, spoil)) as tree,
        pytest.raises(HVAEError, match="no image has finite values"),
    ):
        reconstructions(tree)
