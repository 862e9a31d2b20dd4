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
    """The tutorial's posterior.nc: a planted file with likelihoods of its draws and the evidence of every other image."""

    def add(tree):
        shape = tree["sample_stats"]["log_weight"].shape
        values = np.random.default_rng(0).normal(-100, 3, shape)
        elbo = tree["bound"]["elbo"].values
        known = np.arange(elbo.size) % 2 == 0
        columns = {"log_evidence": elbo + 3.0, "standard_error": 0.1, "ess": 50.0, "pareto_k": 0.5}
        rows = {name: ("image", np.where(known, values, np.nan)) for name, values in columns.items()}
        tree["evidence"] = xr.DataTree(xr.Dataset(rows, {"image": np.arange(elbo.size)}, {"num_particles": 5000}))
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
    assert "5000 draws; 300 of 300 images" in printed
    np.testing.assert_allclose(names["gap"], 3.0, atol=1e-4)
    # Weights exp(Normal(0, 1)) that know nothing of z2: its means stay where they were, within errors of 60 draws.
    shift = names["corrected"] - names["moments"]["z2_mean"]
    assert abs(shift / np.sqrt(names["moments"]["z2_variance"])).mean() < 4 / np.sqrt(60)
    assert xr.corr(names["smoothed"], names["log_weight"]) > 0.9
    np.testing.assert_allclose(np.exp(names["smoothed"]).sum(("chain", "draw")), 1, rtol=1e-6)
