import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import IntensityMap

rng = np.random.default_rng(0)


def log_normal(n=40_000, sigma=0.7, mu=3.0):
    """Luminance at exact quantiles of a log-normal distribution: no Monte-Carlo error."""
    return np.exp(mu + sigma * norm.ppf((np.arange(n) + 0.5) / n))


def test_log_normal_luminance_gives_the_known_map():
    """Oracle: for log L ~ Normal(μ, σ) the map is (log L − μ)/σ, and dividing by the median removes μ."""
    fitted = IntensityMap.fit([log_normal()], floor=1e-3)
    np.testing.assert_allclose(fitted.knot_z, fitted.knot_log / 0.7, atol=2e-3)
    z = np.array([-6.0, -1.3, 0.0, 2.2, 6.0])  # beyond the outermost knots too
    np.testing.assert_allclose(fitted(np.exp(5 + 0.7 * z), median=np.exp(5)), z, atol=5e-3)


@pytest.mark.parametrize("exposure", ["image_median", "absolute"])
def test_grand_histogram_is_unit_normal(exposure):
    skewed = [rng.gamma(2.0, size=(60, 70)) * gain for gain in (1.0, 1.0, 1.0)]
    fitted = IntensityMap.fit(skewed, exposure=exposure, floor=1e-4)
    matched = np.concatenate([fitted(image).ravel() for image in skewed])
    # The knots are quantiles of this very sample: only interpolation between them is left, no sampling error.
    assert kstest(matched, "norm").statistic < 0.005
    assert abs(matched.mean()) < 0.005 and abs(matched.std() - 1) < 0.01


def test_image_median_forgets_the_exposure_and_absolute_does_not():
    image = log_normal(2_500).reshape(50, 50)
    median = IntensityMap.fit([image, image * 40])
    np.testing.assert_allclose(median(image), median(image * 40), atol=1e-5)
    absolute = IntensityMap.fit([image, image * 40], exposure="absolute")
    assert (absolute(image * 40) > absolute(image) + 1).all()
    # A unit common to all photographs is undone exactly.
    other_unit = IntensityMap.fit([image * 1000, image * 40_000], exposure="absolute")
    np.testing.assert_allclose(absolute(image), other_unit(image * 1000), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["image_median", "absolute"]), st.sampled_from([12, 40, 255]))
def test_strictly_increasing_and_invertible_for_quantised_photographs(seed, exposure, levels):
    r = np.random.default_rng(seed)
    image = np.round(r.beta(2, 4, size=(40, 40)) * levels) + 1.0
    fitted = IntensityMap.fit([image, image[:20] * 1.7], exposure=exposure)
    luminance = np.geomspace(fitted.floor * 1.001, 300.0, 400) * fitted.reference
    matched = fitted(luminance, median=1.0)
    assert (np.diff(matched) > 0).all()
    np.testing.assert_allclose(fitted.inverse(matched, median=1.0), luminance, rtol=1e-3)


def test_black_pixels_stay_finite():
    image = log_normal(2_500)
    image[:100] = 0
    assert np.isfinite(IntensityMap.fit([image])(image)).all()


def test_subsampling_hardly_moves_the_map():
    image = rng.lognormal(sigma=0.5, size=40_000)
    every, some = IntensityMap.fit([image]), IntensityMap.fit([image], pixels=16_000_000)  # stride 4
    assert len(some.knot_z) > 50
    at = np.exp(np.linspace(-1, 1, 21))
    # Standard error of a quantile in z at |z| ≤ 2: sqrt(p(1 − p)/n)/φ(z) ≤ 0.028 for n = 10,000.
    np.testing.assert_allclose(every(at, median=1.0), some(at, median=1.0), atol=4 * 0.028)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposure": "image_mean"}, "did you mean 'image_median'"),
        ({"floor": 0.0}, "floor is 0.0"),
        ({"floor": 2.0}, "floor is 2.0"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(HVAEError, match=message):
        IntensityMap.fit([log_normal(2_500)], **change)


def test_photographs_that_cannot_be_matched():
    with pytest.raises(HVAEError, match="no photograph"):
        IntensityMap.fit([])
    with pytest.raises(HVAEError, match="median luminance is 0"):
        IntensityMap.fit([np.r_[np.zeros(60), np.ones(40)]])
    with pytest.raises(HVAEError, match="distinct intensities"):
        IntensityMap.fit([np.r_[np.ones(60), np.full(40, 2.0)]])
    with pytest.raises(HVAEError, match="strictly increasing"):
        IntensityMap(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 2.0]))
