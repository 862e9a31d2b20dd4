"""The ArviZ tutorial runs as it is written, whichever ArviZ is installed."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr

PAGE = Path(__file__).parents[2] / "docs" / "tutorial-arviz.md"


@pytest.fixture
def posterior(planted, edit, tmp_path, monkeypatch):
    """The tutorial's posterior.nc: a planted file with likelihoods of its draws."""

    def add(tree):
        shape = tree["sample_stats"]["log_weight"].shape
        values = np.random.default_rng(0).normal(-100, 3, shape)
        tree["log_likelihood"] = xr.DataTree(xr.Dataset({"x": (("chain", "draw", "image"), values)}))

    path = edit(planted.path, add, "posterior.nc")
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_every_block_of_the_tutorial_runs(posterior, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 8
    names: dict = {}
    with matplotlib.rc_context({"backend": "Agg"}):
        matplotlib.use("Agg")
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
        matplotlib.pyplot.close("all")
    printed = capsys.readouterr().out
    assert "can be trusted for" in printed
    assert names["few"].sizes["image"] == 2
    assert float((abs(names["error"]) < 4 * names["standard_error"]).mean()) > 0.99
    assert "elpd_loo" in printed
    # log-mean-exp of weights Normal(0, 1): between the mean and the largest
    assert (names["bound"] > names["log_weight"].mean("particle")).all()
    assert (names["bound"] < names["top"]).all()
