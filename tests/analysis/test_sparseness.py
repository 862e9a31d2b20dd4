"""Sparseness indices of responses whose distribution is known."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from planted import gabors

from pyro_hvae.analysis import sparseness
from pyro_hvae.analysis.sparseness import REFERENCES, _indices, _powers, plot_sparseness
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def file(z1: np.ndarray, families: list[str]) -> xr.DataTree:
    n, units = z1.shape
    ones = (("image", "z1_dim"), np.ones((n, units)))
    moments = {"z1_mean": (("image", "z1_dim"), z1), "z1_variance": ones, "z1_kl": ones}
    rng = np.random.default_rng(0)
    return xr.DataTree.from_dict({
        "posterior_moments": xr.Dataset(moments),
        "observed_data": xr.Dataset({"x": (("image", "pixel"), rng.normal(size=(n, 100)))}),
        "constant_data": xr.Dataset({"A": (("pixel", "z1_dim"), gabors(10, units, rng))}, {"family": ("image", families)}),
    })  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [  # E|r|² / E r² is 2/π for a normal and 1/2 for a Laplace distribution
        ("normal", {"treves_rolls": 0.36338, "hoyer": 0.20212, "kurtosis": 0.0}),
        ("laplace", {"treves_rolls": 0.5, "hoyer": 0.29289, "kurtosis": 3.0}),
    ],
)
def test_known_distributions_have_their_known_sparseness(kind, expected):
    rng = np.random.default_rng(0)
    z1 = getattr(rng, kind)(size=(2000, 200))
    found = sparseness(file(z1, [""] * 2000))
    for index, value in expected.items():
        assert REFERENCES[kind][index] == pytest.approx(value, abs=1e-5)  # the lines of the figure
        at = found.sel(set="natural", index=index)
        # finite n: the ratio of means is biased by O(1/n), the kurtosis of 200 (2000) Laplace draws by a few per cent
        slack = {"treves_rolls": 0.004, "hoyer": 0.006, "kurtosis": 0.05 + 0.08 * value}[index]
        assert at["lifetime"] == pytest.approx(value, abs=slack + 4 * at["lifetime_se"].item())
        assert at["population"] == pytest.approx(value, abs=3 * slack + 4 * at["population_se"].item())
    assert found.attrs["notes"].startswith("no selectivity")


@given(st.integers(2, 50), st.integers(0, 49), st.floats(0.01, 100), st.integers(0, 2**31))
def test_bounds_and_invariances(n, k, scale, seed):
    one = np.zeros(n)
    one[k % n] = -scale
    flat = scale * np.random.default_rng(seed).choice([-1.0, 1.0], n)
    r = np.random.default_rng(seed).normal(size=n)
    ends = _indices(_powers(np.stack([one, flat, r, scale * r]), 1), n)
    np.testing.assert_allclose(ends[:2, 0], 1, atol=1e-9)
    np.testing.assert_allclose(ends[:2, 1], 0, atol=1e-9)
    np.testing.assert_allclose(ends[:, 2], ends[:, 3], rtol=1e-6, atol=1e-9)
    assert (ends[:2, 2] > -1e-9).all() and (ends[:2, 2] < 1 + 1e-9).all()


def test_selectivity_is_the_planted_share_and_nothing_on_null_data():
    """Family means at -1, 0, 1 with unit variance within: 2/3 of 5/3 lies between; other units: 0 on average."""
    rng = np.random.default_rng(1)
    family = np.repeat(["a", "b", "c"], 200)
    z1 = rng.normal(size=(600, 60))
    z1[:, :20] += np.repeat([-1.0, 0.0, 1.0], 200)[:, None]
    found = sparseness(file(z1, list(family)))
    np.testing.assert_allclose(found["unit_selectivity"].values[:20].mean(), 0.4, atol=0.02)
    null = found["unit_selectivity"].values[20:]
    assert abs(null.mean()) < 4 * null.std() / np.sqrt(null.size)
    mean = found["unit_selectivity"].values.mean()
    assert found["family_selectivity"].item() == pytest.approx(mean)
    caption = plot_sparseness(found).caption
    assert f"between texture families: {mean:.3f} ± " in caption and "60 active z1 units" in caption


def test_one_image_and_no_active_unit(plant, planted, edit):
    with open_posterior(plant(natural=1, train=0, test=0).path) as tree:
        found = sparseness(tree)
    assert "one image has no lifetime sparseness" in found.attrs["notes"]
    assert np.isfinite(found["population"]).all() and np.isnan(found["lifetime"]).all()
    assert plot_sparseness(found).caption.endswith("n = 1 natural images.")

    def erase(tree):
        tree["constant_data"]["A"] = 0.0 * tree["constant_data"]["A"]

    with open_posterior(edit(planted.path, erase)) as tree, pytest.raises(HVAEError, match="two active z1 units"):
        sparseness(tree)
