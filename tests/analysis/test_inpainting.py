"""Planted slopes inside and outside the mask come back, at the stated level."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis import inpainting
from pyro_hvae.analysis.inpainting import plot_inpainting
from pyro_hvae.errors import HVAEError

SIDE = 10
y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2


def file(
    rng: np.random.Generator, slopes=(0.4, 0.9), radii=(2.0, 3.5), n: int = 60, *, original=True, label=True, noise=1.0
):
    """Posterior predictive means with the given slope inside and outside, plus noise."""
    images = rng.normal(size=(n * len(radii), SIDE**2))
    radius = np.repeat(radii, n)
    shown = (x**2 + y**2).ravel() > radius[:, None] ** 2
    means = np.where(shown, slopes[1], slopes[0]) * images + noise * rng.normal(size=images.shape) + 0.3
    dims = ("image", "pixel")
    observed = {"x": (dims, np.where(shown, images, 0.0)), "mask": (dims, shown)}
    if original:
        observed["original"] = (dims, images)
    coords = {"radius": ("image", radius)} if label else {}
    return xr.DataTree.from_dict({
        "observed_data": xr.Dataset(observed),
        "posterior_predictive": xr.Dataset({"x_mean": (dims, means)}),
        "constant_data": xr.Dataset(coords=coords),
    })  # fmt: skip


def test_planted_slopes_come_back():
    found = inpainting(file(np.random.default_rng(0), n=2000))
    np.testing.assert_array_equal(found["radius"], [2.0, 3.5])
    for region, slope in (("inside", 0.4), ("outside", 0.9)):
        at = found.sel(region=region)
        np.testing.assert_allclose(at["slope"], slope, atol=0.03)
        np.testing.assert_allclose(at["correlation"], slope / np.sqrt(slope**2 + 1), atol=0.03)
    assert found["slope_n"].values.tolist() == [[2000, 2000]] * 2
    assert "2000 of radius 2, 2000 of radius 3.5" in plot_inpainting(found).caption


def test_the_interval_over_five_subsets_covers_at_its_level():
    rng, hits = np.random.default_rng(1), []
    for _ in range(300):
        found = inpainting(file(rng, n=30, radii=(3.0,)))
        low, high = found["slope_interval"].values[0].T
        hits.append((low < [0.4, 0.9]) & (high > [0.4, 0.9]))
    np.testing.assert_allclose(np.mean(hits, 0), 0.95, atol=3.5 * np.sqrt(0.95 * 0.05 / 300))


def test_the_radius_is_read_from_the_mask_where_no_label_says_it():
    found = inpainting(file(np.random.default_rng(2), label=False))
    hidden = [(x**2 + y**2 <= r**2).sum() for r in (2.0, 3.5)]
    np.testing.assert_allclose(found["radius"], np.round(np.sqrt(np.array(hidden) / np.pi), 1))


def test_noiseless_reconstruction_has_slope_one():
    found = inpainting(file(np.random.default_rng(3), slopes=(0.0, 1.0), noise=0.0))
    np.testing.assert_allclose(found["slope"].sel(region="outside"), 1, atol=1e-6)
    np.testing.assert_allclose(found["slope"].sel(region="inside"), 0, atol=1e-6)


def test_what_is_missing_is_said():
    rng = np.random.default_rng(4)
    with pytest.raises(HVAEError, match="x holds nothing under the mask"):
        inpainting(file(rng, original=False))
    with pytest.raises(HVAEError, match="the mask hides no pixel"):
        inpainting(file(rng, radii=(0.0,)))
    with pytest.raises(HVAEError, match="no radius has two images"):
        inpainting(file(rng, n=1))
    spoilt = file(rng)
    spoilt["posterior_predictive"]["x_mean"].values[:3] = np.nan
    assert "3 of 120 images left out" in inpainting(spoilt).attrs["notes"]
