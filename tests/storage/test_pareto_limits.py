"""The limits of k-hat are those of Vehtari et al. (2024), and everyone goes by them."""

import re
from pathlib import Path

import pytest

from pyro_hvae.storage.pareto_limits import GOOD_K, k_limit


@pytest.mark.parametrize(("weights", "limit"), [(10, 0.0), (100, 0.5), (1000, 2 / 3), (2154, 0.7), (100_000, 0.7)])
def test_few_weights_lower_the_limit(weights, limit):
    assert k_limit(weights) == pytest.approx(limit, abs=1e-4)
    assert k_limit(weights) <= GOOD_K == 0.7


def test_the_limit_is_written_down_once():
    package = Path(__file__).parents[2] / "pyro_hvae"
    constants = {
        str(path.relative_to(package)): found
        for path in package.rglob("*.py")
        if (found := re.findall(r"^\w*_K = .*", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    }
    assert constants == {"storage/pareto_limits.py": ["GOOD_K = 0.7"]}
