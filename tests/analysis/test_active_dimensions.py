"""Planted active dimensions are counted; one cluster is never taken for two."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_hvae.analysis import active_dimensions, collect
from pyro_hvae.analysis.active_dimensions import plot_active_dimensions, split_clusters
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def test_planted_dimensions_are_found(planted):
    with open_posterior(planted.path) as tree:
        found = active_dimensions(tree)
    assert found["count"].sel(site="z1") == planted.z1_active
    assert found["count"].sel(site="z2") == planted.z2_active
    np.testing.assert_array_equal(np.flatnonzero(found["z1_active"]), planted.z1_places())
    np.testing.assert_array_equal(found["z2_active"], [True] * planted.z2_active + [False] * planted.z2_collapsed)
    # Both thresholds lie far inside their gaps, so half a decade more or less changes nothing.
    np.testing.assert_array_equal(found["count_interval"].sel(site="z1"), [planted.z1_active] * 2)
    assert list(found["clusters"].values) == [2, 2]
    # Unit-norm Gabors have power 1/pixels, collapsed columns 1e-10.
    assert found["gap"].sel(site="z1").item() == pytest.approx(np.log10(1 / planted.size**2 / 1e-10), abs=0.3)
    assert found.attrs["images"] == planted.natural
    assert found.attrs["notes"] == ""


def test_moments_over_images_are_the_planted_ones(planted):
    with open_posterior(planted.path) as tree:
        found = active_dimensions(tree)
        kl = tree["posterior_moments"]["z1_kl"].values[: planted.natural].astype(float)
    n, active = planted.natural, found["z2_active"].values
    # The variance of n standard normal values has s.d. sqrt(2 / n); 5 of them, so 4 s.d. is a bound.
    np.testing.assert_allclose(found["z2_variance_of_means"][active], 1.0, atol=4 * np.sqrt(2 / n))
    np.testing.assert_allclose(found["z2_mean_variance"][active], 0.1, rtol=1e-6)
    np.testing.assert_allclose(found["z1_kl"], kl.mean(0), rtol=1e-6)
    assert found["kl"].sel(site="z1").item() == pytest.approx(kl.sum(1).mean())
    assert found["kl_se"].sel(site="z1").item() == pytest.approx(kl.sum(1).std(ddof=1) / np.sqrt(n))
    # KL of an active z1 unit is Gamma(4, 1/4) with mean 1; 70 units.
    se = found["kl_se"].sel(site="z1").item()
    assert abs(found["kl"].sel(site="z1").item() - planted.z1_active) < 4 * se


def test_collapsed_units_carry_the_share_that_was_planted(planted):
    with open_posterior(planted.path) as tree:
        found = active_dimensions(tree)
        pixel_variance = tree["observed_data"]["x"].values[: planted.natural].var()
    # Power 1e-10 with variance 2.0 in each of the collapsed units.
    expected = planted.z1_collapsed * 1e-10 * 2.0 / pixel_variance
    assert found["collapsed_share"].item() == pytest.approx(expected, rel=0.15)


def test_one_cluster_is_rarely_split_in_two():
    """Log-normal values of one cluster, of many spreads and sizes: at most 1% are split."""
    rng = np.random.default_rng(0)
    for spread, size, rate in (
        (0.1, 5, 0),
        (0.3, 5, 0.01),
        (0.3, 450, 0),
        (0.5, 20, 0.01),
        (0.5, 450, 0.01),
        (1, 450, 0.01),
    ):
        split = [split_clusters(10 ** (spread * rng.normal(size=size))).clusters == 2 for _ in range(500)]
        assert np.mean(split) <= rate + 3 * np.sqrt(rate / 500), (spread, size)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=40),
    st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=40),
    st.floats(2.5, 9.0),
    st.floats(1e-8, 1e8),
)
def test_two_clusters_are_split_between_them_on_any_scale(high, low, distance, scale):
    values = scale * 10 ** np.r_[high, np.array(low) - distance]
    split = split_clusters(values)
    assert split.clusters == 2
    np.testing.assert_array_equal(values > split.threshold, [True] * len(high) + [False] * len(low))
    assert distance - 0.61 <= split.gap <= distance + 0.61


def test_zeros_do_not_make_a_cluster_of_their_own():
    """Columns of exact zeros lie below the collapsed ones; the split must stay between active and collapsed."""
    values = np.r_[np.full(10, 1.0), np.full(5, 1e-9), np.zeros(5)]
    split = split_clusters(values)
    assert split.clusters == 2
    assert (values > split.threshold).sum() == 10


def test_all_active_and_all_collapsed_are_told_apart_and_said(plant, edit):
    everything = plant(z1_active=112, z1_collapsed=0, z2_active=8, z2_collapsed=0)
    with open_posterior(everything.path) as tree:
        found = active_dimensions(tree)
    np.testing.assert_array_equal(found["count"], [112, 8])
    assert found.attrs["notes"].count("one cluster only") == 2

    def nothing(tree: xr.DataTree) -> None:
        tree["constant_data"]["A"] = 1e-6 * tree["constant_data"]["A"]
        tree["posterior_moments"]["z2_mean"] = 1e-3 * tree["posterior_moments"]["z2_mean"]

    with open_posterior(edit(everything.path, nothing)) as tree:
        found = active_dimensions(tree)
    np.testing.assert_array_equal(found["count"], [0, 0])
    assert "z1: no active dimension" in found.attrs["notes"]
    assert plot_active_dimensions(found).caption.startswith("Active dimensions: z1 0 of 112 (one cluster)")


def test_two_clusters_of_nothing_are_not_active(planted, edit):
    """Scaled down by 1e-7 the map keeps its gap, but nothing it draws can be seen."""

    def fade(tree: xr.DataTree) -> None:
        tree["constant_data"]["A"] = 1e-7 * tree["constant_data"]["A"]

    with open_posterior(edit(planted.path, fade)) as tree:
        found = active_dimensions(tree)
    assert found["count"].sel(site="z1") == 0
    assert found["clusters"].sel(site="z1") == 2
    assert "z1: two clusters, the upper one negligible as well" in found.attrs["notes"]
    assert "dimensions: z1 0 of 112 (gap of 7.9 decades), z2 5 of 8 (gap" in plot_active_dimensions(found).caption


def test_one_image_leaves_deeper_layers_unjudged(plant):
    with open_posterior(plant(natural=1, train=0, test=0).path) as tree:
        found = active_dimensions(tree)
    assert found["count"].sel(site="z1") == 70
    entries = {entry["name"]: entry for entry in collect(found)}
    assert entries["count[z2]"]["value"] is None
    assert entries["count[z2]"]["interval"] == [None, None]
    assert entries["kl[z1]"]["se"] is None
    assert "at least two images" in found.attrs["notes"]
    assert "cluster" not in found.attrs["notes"]
    assert "z2 not judged" in plot_active_dimensions(found).caption


def test_images_that_are_not_finite_are_left_out_and_counted(planted, edit):
    def spoil(tree: xr.DataTree) -> None:
        tree["posterior_moments"]["z1_mean"][:7, 3] = np.nan

    with open_posterior(edit(planted.path, spoil)) as tree:
        found = active_dimensions(tree)
    assert found.attrs["images"] == planted.natural - 7
    assert "7 of 600 images left out: posterior_moments/z1_mean is not finite" in found.attrs["notes"]

    with (
        open_posterior(edit(planted.path, lambda tree: tree["constant_data"]["A"].__setitem__((0, 0), np.nan))) as tree,
        pytest.raises(HVAEError, match="constant_data/A holds 1 values that are not finite"),
    ):
        active_dimensions(tree)
