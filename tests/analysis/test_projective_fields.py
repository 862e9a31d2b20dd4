"""Fields are the columns of A, and their area is known for shapes whose participation ratio is known."""

import numpy as np
import pytest

from pyro_hvae.analysis import projective_fields
from pyro_hvae.analysis.projective_fields import plot_projective_fields
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def test_fields_are_the_generative_map(planted):
    with open_posterior(planted.path) as tree:
        found = projective_fields(tree)
        fields = tree["constant_data"]["z2_field"].values
    np.testing.assert_allclose(found["z1_field"].values.T, planted.generative_map())
    np.testing.assert_array_equal(found["z2_field"].values, fields)
    np.testing.assert_array_equal(np.flatnonzero(found["z1_active"]), planted.z1_places())
    areas = [(f**2).sum() ** 2 / (f**4).sum() for f in planted.generative_map().T[planted.z1_places()]]
    assert found["area"].sel(site="z1").item() == pytest.approx(np.median(areas))
    assert "n = 70 of 70 active z1 dimensions; n = 5 of 5 active z2" in plot_projective_fields(found).caption


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


def test_a_patch_that_is_not_square_has_no_picture(planted, edit):
    def cut(tree):
        for group in ("constant_data", "observed_data", "posterior_predictive", "prior_predictive"):
            tree[group] = type(tree)(tree[group].to_dataset().isel(pixel=slice(99)))

    with open_posterior(edit(planted.path, cut)) as tree:
        found = projective_fields(tree)
        with pytest.raises(HVAEError, match="99 pixels are no square patch"):
            plot_projective_fields(found)


def test_location_share_is_the_variance_along_the_field(planted, edit):
    """White images of variance 4 in every direction: a field of norm 1 accounts for 1/4, one of norm 0.4 for 0.04."""

    def plant(tree):
        n = tree["observed_data"].sizes["image"]
        white = np.random.default_rng(0).normal(size=(planted.natural, planted.size**2))
        white -= white.mean(0)
        white = 2 * np.sqrt(planted.natural - 1) * np.linalg.svd(white, full_matrices=False)[0]
        tree["observed_data"]["x"].values[: planted.natural] = white
        tree["observed_data"]["x"].values[planted.natural : n] = 1e3  # textures do not count
        fields = tree["constant_data"]["z2_field"].values
        fields[:] = 0
        fields[0, 3], fields[1, :4], fields[2, 5] = 1.0, 0.2, 4.0

    with open_posterior(edit(planted.path, plant)) as tree:
        found = projective_fields(tree)
    np.testing.assert_allclose(found["z2_location_share"].values[:4], [0.25, 0.04, 4.0, 0], rtol=1e-4)
    np.testing.assert_array_equal(np.flatnonzero(found["z2_shown"]), [0, 2])
    assert found["area"].sel(site="z2") == pytest.approx(1) and found["area_n"].sel(site="z2") == 2  # single pixels
    said = "3 of 5 active dimensions have no field to speak of: they account for less than 5% of the variance of images"
    assert said in found.attrs["notes"]
    picture = plot_projective_fields(found)
    assert f"n = 2 of 5 active z2 dimensions ({said} along it; not drawn)" in picture.caption
    assert [axis.get_title() for axis in picture.figure.axes] == ["z1", "z2"]


def test_a_layer_without_fields_to_speak_of_is_not_drawn(planted, edit):
    with open_posterior(
        edit(planted.path, lambda tree: tree["constant_data"]["z2_field"].values.__imul__(0.1))
    ) as tree:
        found = projective_fields(tree)
    assert np.isnan(found["area"].sel(site="z2")) and found["area_n"].sel(site="z2") == 0
    picture = plot_projective_fields(found)
    assert [axis.get_title() for axis in picture.figure.axes] == ["z1"]
    assert "z2, not drawn: 5 of 5 active dimensions have no field to speak of" in picture.caption
