"""Uncertainty and the form of numbers."""

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from pyro_hvae.analysis.results import collect, number, quantity
from pyro_hvae.errors import HVAEError


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
