"""Modulation fields of planted files: what z2 does to z1 units of known place, orientation and frequency."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from pyro_hvae.analysis import modulation_fields
from pyro_hvae.analysis.gabor import gabor
from pyro_hvae.analysis.modulation_fields import plot_modulation_fields
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


@pytest.fixture
def known(planted, edit):
    """A file whose 70 active z1 units are Gabor functions of unit norm, and what is known of these; z2 does not modulate."""
    rng = np.random.default_rng(0)
    p = np.zeros((planted.z1_active, 8))
    p[:, :2] = rng.uniform(2.5, 6.5, (len(p), 2))
    p[:, 2], p[:, 3] = rng.uniform(0, np.pi, len(p)), rng.uniform(0.15, 0.3, len(p))
    p[:, 4:6] = np.log(1.4)
    p[:, 6] = 1.0
    # Unit 0 at (3, 6) has its wave along x, so that its bar is upright; unit 1 at (5, 4) lies.
    p[0, :3], p[1, :3] = (3.0, 6.0, 0.0), (5.0, 4.0, np.pi / 2)
    fields = gabor(p, planted.size)

    def with_modulation(rows, change=lambda tree: None):
        def plant(tree):
            tree["constant_data"]["A"].values[:, planted.z1_places()] = (
                fields / np.linalg.norm(fields, axis=1)[:, None]
            ).T
            modulation = tree["constant_data"]["z2_to_z1_log_scale"].values
            modulation[:] = 0
            for dim, row in enumerate(rows):
                modulation[dim, planted.z1_places()] = row
            change(tree)

        with open_posterior(edit(planted.path, plant)) as tree:
            return modulation_fields(tree)

    return p, with_modulation


def by_dim(found, name):
    """A variable over z2 dimensions in the order of their indices."""
    return found[name].isel(z2_dim=np.argsort(found["z2_dim"].values))


def test_a_gain_a_place_an_orientation_and_a_frequency_are_told_apart(known):
    p, modulated = known
    noise = np.random.default_rng(1).normal(size=len(p))
    found = modulated([
        np.full(len(p), 0.5),                      # a gain of everything
        0.1 * (p[:, 0] - p[:, 0].mean()),          # louder to the right, quieter to the left
        0.2 * np.cos(2 * (p[:, 2] - 0.4)),         # louder at one orientation, quieter at the other
        0.3 * (np.log2(p[:, 3]) - np.log2(p[:, 3]).mean()),  # louder where fine
        0.01 * (noise - noise.mean()),
    ])  # fmt: skip
    common, explained = by_dim(found, "dim_common").values, by_dim(found, "dim_explained")
    np.testing.assert_allclose(common[[0, 1, 3, 4]], [1, 0, 0, 0], atol=1e-6)
    assert np.isnan(explained.values[:, 0]).all()  # of a gain nothing is left
    for dim, own in ((1, "place"), (2, "orientation"), (3, "frequency")):
        for name in ("place", "orientation", "frequency"):
            share = explained.sel(property=name).values[dim]
            assert share == pytest.approx(1, abs=0.01) if name == own else share < 0.35
        assert explained.sel(property="all").values[dim] == pytest.approx(1, abs=0.01)
    assert np.abs(explained.values[:, 4]).max() < 0.3  # noise: adjusted, so about zero
    assert found["z2_dim"].values[-1] == 4  # the weakest last
    assert found["common_n"] == 5 and found["explained_n"].values.tolist() == [4] * 4
    assert found["common"].item() == pytest.approx(np.median(common))


def test_chance_explains_nothing_on_average(known):
    p, modulated = known
    found = modulated(np.random.default_rng(2).normal(size=(5, len(p))))
    # Each share has a standard deviation of about sqrt(2 k) / n = 0.06 for all nine regressors of 70 units.
    np.testing.assert_allclose(found["dim_explained"].mean("z2_dim"), 0, atol=4 * 0.07 / 5**0.5)


def test_half_and_half_has_half_in_common(known):
    p, modulated = known
    found = modulated([np.where(np.arange(len(p)) % 2, 0.4, 0.0)])
    assert found["strength"].values[0] == pytest.approx(0.4 * np.sqrt(0.5))
    assert found["dim_common"].values[0] == pytest.approx(0.5)
    assert np.isnan(found["dim_common"].values[1:]).all() and found["common_n"] == 1  # the others modulate nothing


def test_examples_are_the_images_of_lowest_and_highest_posterior_mean(known, planted):
    p, modulated = known
    kept = {}

    def order(tree):
        means = tree["posterior_moments"]["z2_mean"].values
        means[11, 0], means[22, 0], means[33, 0] = 50.0, 40.0, -50.0
        means[planted.natural :, 0] = 100.0  # textures are no examples where there are natural images
        kept["x"] = tree["observed_data"]["x"].values.copy()

    found = modulated([np.full(len(p), 0.5)], order).sel(z2_dim=0)
    np.testing.assert_allclose(found["high_patch"].values[:2], kept["x"][[11, 22]])
    np.testing.assert_allclose(found["low_patch"].values[0], kept["x"][33])
    np.testing.assert_allclose(found["high_value"].values[:2], [50, 40])
    assert found["low_value"].values[0] == -50 and (np.diff(found["low_value"]) >= 0).all()


def test_bars_stand_where_and_as_the_units_do_in_the_colour_of_their_modulation(known, planted):
    p, modulated = known
    rows = np.zeros((2, len(p)))
    rows[0, 0], rows[0, 1] = 0.8, -0.4
    found = modulated(rows)
    np.testing.assert_array_equal(found["unit"], planted.z1_places())
    picture = plot_modulation_fields(found)
    panels = [axis for axis in picture.figure.axes if axis.get_title().startswith("z2 [")]
    assert panels[0].get_title().startswith("z2 [0]") and len(panels) == 5
    (lines,) = [each for each in panels[0].collections if isinstance(each, LineCollection)]
    upright, lying = (lines.get_segments()[k] for k in (-1, -2))  # the strongest in front
    np.testing.assert_allclose(upright.mean(0), [3, 6], atol=0.05)
    np.testing.assert_allclose(np.ptp(upright, axis=0), [0, 1.4], atol=0.05)  # one s.d. of the envelope
    np.testing.assert_allclose(lying.mean(0), [5, 4], atol=0.05)
    np.testing.assert_allclose(np.ptp(lying, axis=0), [1.4, 0], atol=0.05)
    np.testing.assert_allclose(lines.get_array()[-2:], [-0.4, 0.8], atol=1e-6)
    red, blue = (lines.to_rgba(lines.get_array())[k] for k in (-1, -2))
    assert red[0] > red[2] and blue[2] > blue[0]
    assert "n = 5 active z2 dimensions (of 8)" in picture.caption and "n = 70 of 70 active z1 units" in picture.caption


def test_units_without_a_localized_gabor_function_are_left_out(known, planted):
    p, modulated = known

    def spoil(tree):
        noise = np.random.default_rng(3).normal(size=(planted.size**2, 12)) / planted.size
        tree["constant_data"]["A"].values[:, planted.z1_places()[:12]] = noise

    found = modulated([np.full(len(p), 0.5)], spoil)
    np.testing.assert_array_equal(found["unit"], planted.z1_places()[12:])
    assert "12 of 70 active z1 units left out" in found.attrs["notes"]


def test_where_there_is_nothing_to_draw_the_reason_is_said(known, planted):
    _, modulated = known

    def extend(tree):
        A = tree["constant_data"]["A"].values
        A[:, planted.z1_places()] = np.random.default_rng(4).normal(size=(planted.size**2, planted.z1_active)) / 10

    def silence(tree):
        tree["posterior_moments"]["z2_mean"].values[:] *= 1e-3

    with pytest.raises(HVAEError, match="none of the 70 active z1 units is localized and well fitted"):
        modulated([], extend)
    with pytest.raises(HVAEError, match="no z2 dimension is active, so none modulates z1"):
        modulated([], silence)
    with pytest.raises(HVAEError, match="no z1 unit is active, so there is nothing to modulate"):
        modulated([], lambda tree: tree["constant_data"]["A"].values.__imul__(0))
