"""Planted kinds of units, each of any orientation, are found again, and no kinds where there are none."""

import numpy as np
import pytest
from planted_physiology import plant
from sklearn.metrics import adjusted_rand_score

from pyro_hvae.analysis import unit_clusters
from pyro_hvae.analysis.unit_clusters import aligned, plot_unit_clusters
from pyro_hvae.errors import HVAEError


def test_alignment_turns_units_of_any_orientation_into_the_same_one():
    orientation = np.arange(0.0, 180, 10)
    preferred = np.array([0.0, 37.0, 90.0, 171.3])
    surface = np.exp(2 * np.cos(2 * np.deg2rad(orientation - preferred[:, None])))[:, :, None] * np.ones(3)
    turned = aligned(surface, preferred)
    np.testing.assert_allclose(turned, np.broadcast_to(turned[:1], turned.shape), rtol=1e-4)
    np.testing.assert_allclose(turned[0], surface[0], rtol=1e-12)


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_planted_kinds_are_found_whatever_the_orientation(kinds):
    tree = plant(120, kinds=kinds, series=False)
    found = unit_clusters(tree)
    if kinds == 1:
        assert found["clusters"].item() <= 2
        return
    assert found["clusters"].item() == kinds
    assert adjusted_rand_score(tree["blank"]["z1_kind"], found["z1_cluster"]) > 0.95
    assert found["stability"].item() > 0.95
    np.testing.assert_allclose(found["z1_confusion"].sum("z1_kind_bis"), 1)
    assert "120 units" in plot_unit_clusters(found).caption


def test_kinds_are_not_mixed_by_properties_that_vary_within_them():
    """With the own series, in which suppression is spread within a kind: more clusters, but each of one kind."""
    tree = plant(120)
    labels = unit_clusters(tree)["z1_cluster"].values
    table = np.zeros((2, labels.max() + 1))
    np.add.at(table, (tree["blank"]["z1_kind"].values, labels), 1)
    assert ((table > 0).sum(0) == 1).all()


def test_orientation_itself_makes_no_clusters():
    """Two heaps of preferred orientations, one kind of tuning."""
    tree = plant(120, kinds=1, series=False)
    far = tree["blank"]["z1_unit"].values % 2 == 1
    values = tree["gratings"]["z1_mean"].values
    values[far] = np.roll(values[far], 9, 1)
    labels = unit_clusters(tree)["z1_cluster"].values
    assert abs(adjusted_rand_score(far, labels)) < 0.05


def test_few_units_are_named_and_not_clustered():
    with pytest.raises(HVAEError, match="too few to be clustered"):
        unit_clusters(plant(10))
