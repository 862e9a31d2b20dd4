"""Standard errors and intervals cover at their level, and agree with textbook values."""

import numpy as np
import pytest

from pyro_hvae.analysis.uncertainty import binomial_interval, jackknife, mean_and_se, median_and_interval


def test_jackknife_of_a_mean_is_the_textbook_error():
    values = np.random.default_rng(0).normal(size=(4000, 1))
    mean, se = jackknife(np.hstack([values, np.ones_like(values)]), lambda s: s[0] / s[1])
    assert mean == pytest.approx(values.mean())
    # 50 groups leave the error itself an s.d. of a tenth.
    assert se == pytest.approx(values.std(ddof=1) / np.sqrt(4000), rel=0.3)
    _, exact = jackknife(np.hstack([values[:30], np.ones((30, 1))]), lambda s: s[0] / s[1])
    assert exact == pytest.approx(values[:30].std(ddof=1) / np.sqrt(30))


def test_jackknife_of_a_ratio_covers_at_its_level():
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(400):
        a = rng.gamma(2.0, size=(200, 1))
        value, se = jackknife(np.hstack([a * rng.normal(3, 1, size=a.shape), a]), lambda s: s[0] / s[1])
        hits.append(abs(value - 3) < 1.96 * se)
    assert abs(np.mean(hits) - 0.95) < 3 * np.sqrt(0.05 * 0.95 / 400)


def test_jackknife_of_one_image_has_no_error():
    value, se = jackknife(np.array([[2.0, 4.0]]), lambda s: s[0] / s[1])
    assert (value, np.isnan(se)) == (0.5, True)


def test_wilson_interval():
    assert binomial_interval(0, 10)[1][0] == 0
    assert binomial_interval(0, 10)[1][1] == pytest.approx(0.2775, abs=1e-4)  # Wilson 1927, as in any table
    assert binomial_interval(5, 10)[1] == pytest.approx((0.2366, 0.7634), abs=1e-4)
    share, interval = binomial_interval(0, 0)
    assert np.isnan(share) and np.isnan(interval).all()


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


def test_mean_and_error_of_three_numbers():
    mean, se = mean_and_se(np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]]))
    np.testing.assert_allclose(mean, [3.0, 5.0])
    np.testing.assert_allclose(se, [np.sqrt(7 / 3), 0.0])  # squares 4, 1, 9 over n - 1 = 2, over n = 3
    assert np.isnan(mean_and_se(np.array([4.0]))[1])
