"""Planted selective dimensions are found, and the others tell nothing."""

import numpy as np
import pytest

from pyro_hvae.analysis import texture_selectivity
from pyro_hvae.analysis.texture_selectivity import _greedy, plot_texture_selectivity
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def test_selective_dimensions_are_the_planted_ones(plant):
    """Three families, each on an axis of its own; two of five active dimensions carry nothing."""
    truth = plant(separation=4.0, train=200, test=200, natural=50, z2_active=5)
    with open_posterior(truth.path) as tree:
        found = texture_selectivity(tree)
    selective = np.flatnonzero(found["selective"].values)
    assert set(selective) <= {0, 1, 2} and len(selective) >= 2  # the third axis tells what two leave open
    assert found["active"].sum() == 5
    accuracy = found["accuracy"].to_series()
    assert accuracy["selective"] > 0.9 and accuracy["all"] >= accuracy["selective"] - 0.03
    # Shares between families of a mixture at distance 4, weight 1/3: 16 * 2/9 / (16 * 2/9 + 1)
    shift = 16 * (1 / 3) * (2 / 3)
    np.testing.assert_allclose(found["variance_explained"].values[:3], shift / (shift + 1), atol=0.05)
    np.testing.assert_allclose(found["variance_explained"].values[3:5], 0, atol=0.02)
    assert "n = 600 test images" in plot_texture_selectivity(found).caption


def test_without_texture_no_dimension_is_selective(plant):
    with open_posterior(plant(separation=0.0, train=100, test=100).path) as tree:
        found = texture_selectivity(tree)
    assert found["selective_count"].item() == 0
    assert not found["selective"].any()
    assert "none counts as selective" in found.attrs["notes"]
    low, high = found["accuracy_interval"].sel(part="non_selective").values
    assert low < 1 / 3 < high
    assert "dotted: the 0 selective ones. b: all 5 active" in plot_texture_selectivity(found).caption


def test_greedy_addition_takes_the_best_first_and_then_what_it_lacks():
    """Column 1 tells family 0, column 2 repeats it with noise, column 3 tells family 1 from 2."""
    rng = np.random.default_rng(0)
    truth = np.arange(3000) % 3
    inputs = rng.normal(size=(3000, 5))
    inputs[:, 1] += 6.0 * (truth == 0)
    inputs[:, 2] = inputs[:, 1] + rng.normal(size=3000)
    inputs[:, 3] += 3.0 * (truth == 1)
    path, judged = _greedy(inputs, truth, np.arange(3000) % 2 == 0, 3)
    assert path[:2] == [1, 3] or path[:2] == [3, 1]
    assert judged[1] > judged[0] + 0.15
    assert abs(judged[-1] - judged[1]) < 0.02


def test_what_is_missing_is_said(plant, planted, edit):
    with open_posterior(plant(families=("bark",)).path) as tree, pytest.raises(HVAEError, match="two texture families"):
        texture_selectivity(tree)

    def collapse(tree):
        tree["posterior_moments"]["z2_mean"][:] = 0.0

    with (
        open_posterior(edit(planted.path, collapse)) as tree,
        pytest.raises(HVAEError, match="no z2 dimension is active"),
    ):
        texture_selectivity(tree)
