"""Uncertainty and the form of numbers."""

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from pyro_hvae.analysis.reading import patch_side
from pyro_hvae.analysis.results import collect, number, quantity
from pyro_hvae.analysis.uncertainty import jackknife
from pyro_hvae.errors import HVAEError


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


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_are_strict_json(value):
    encoded = json.dumps(number(value), allow_nan=False)
    back = json.loads(encoded)
    assert back is None if not np.isfinite(value) else back == value


def test_quantities_come_out_one_by_one():
    variables = quantity("a", ["set"], [1.5, np.nan], title="A", unit="nats", n=[3, 4], se=[0.1, np.nan])
    variables |= quantity("b", [], 2.0, title="B", unit="1", n=9, interval=[1.0, 3.0])
    variables["c"] = xr.Variable((), 7.0)
    found = collect(xr.Dataset(variables, {"set": ["x", "y_1"]}, {"analysis": "test"}))
    assert found == [
        {"analysis": "test", "name": "a[x]", "title": "A, x", "value": 1.5, "n": 3, "unit": "nats", "se": 0.1},
        {"analysis": "test", "name": "a[y_1]", "title": "A, y 1", "value": None, "n": 4, "unit": "nats", "se": None},
        {"analysis": "test", "name": "b", "title": "B", "value": 2, "n": 9, "unit": "1", "interval": [1, 3]},
    ]
    with pytest.raises(HVAEError, match="either se or interval"):
        quantity("a", [], 1.0, title="", unit="", n=1)


def test_only_square_patches_have_a_side():
    assert patch_side(400) == 20
    with pytest.raises(HVAEError, match="399 pixels"):
        patch_side(399)
