"""What commands print and write: tables column by column, and paths checked before anything is computed."""

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError

QUICK = dict(steps=4, batch=20, device="cpu", progress=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one architecture, a and b."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate("ab"):
        vae = hvae.build("TDVAE20", pixels=16, dim_z1=6, dim_z2=3, seed=seed)
        hvae.fit(vae, small_data(), **QUICK, seed=seed, learning_rate=1e-2 * seed, out=folder / name)
    return folder


def table(printed: str) -> list[dict[str, str]]:
    """A printed table of rich's, by column."""
    header = re.split("┃", next(line for line in printed.splitlines() if line.startswith("┃")))[1:-1]
    lines = [re.split("│", line)[1:-1] for line in printed.splitlines() if line.startswith("│")]
    return [dict(zip((h.strip() for h in header), (cell.strip() for cell in line), strict=True)) for line in lines]


@pytest.mark.parametrize("more", [[], ["--ais"], ["--bdmc"], ["--ais", "--bdmc"]])
def test_every_column_of_evidence_holds_what_its_head_says(runs, tmp_path, capsys, monkeypatch, more):
    monkeypatch.chdir(runs)
    monkeypatch.setenv("COLUMNS", "160")
    options = ["--limit", "4", "--particles", "40", "--temperatures", "10", "--chains", "4", "--device", "cpu"]
    assert main(["evidence", "a", "b", *options, *more, "--out", str(tmp_path / "e.nc")]) == 0
    first, second = table(capsys.readouterr().out)
    e = xr.load_dataset(tmp_path / "e.nc")

    def number(text: str) -> tuple[float, float]:
        mean, error = text.replace("\u2212", "-").split(" ± ")
        return float(mean), float(error)

    def mean(values: xr.DataArray) -> tuple[float, float]:
        x = values.dropna("image").values if "image" in values.dims else values.values
        return pytest.approx((x.mean(), x.std(ddof=1) / len(x) ** 0.5), abs=0.0051)

    for row, name in ((first, "a"), (second, "b")):
        of = e.sel(run=name)
        assert row["run"] == name
        assert number(row["ELBO"]) == mean(of["elbo"])
        assert number(row["IW-40"]) == mean(of["log_evidence"])
        trusted = np.mean(of["pareto_k"].values < 0.7)
        assert row["k-hat < 0.7"] == f"{trusted:.0%}"
        if "--ais" in more:
            assert number(row["AIS"]) == mean(of["ais_log_evidence"])
        if "--bdmc" in more:
            assert number(row["BDMC gap"]) == mean(of["bdmc_gap"])
    assert first["IW, less the first run's"] == "–"
    difference = e["log_evidence"].sel(run="b") - e["log_evidence"].sel(run="a")
    assert number(second["IW, less the first run's"]) == mean(difference)
    assert len(first) == 5 + len(more)


def test_the_demo_sets_each_guide_in_its_own_column(tmp_path, capsys, monkeypatch):
    import json

    from pyro_hvae.cli.demo import _print_comparison

    monkeypatch.setenv("COLUMNS", "160")
    entry = {"analysis": "bound_terms", "name": "elbo", "title": "ELBO", "interval": None, "n": 3, "unit": "nats"}
    entries = [entry | {"file": name, "value": value, "se": 0.1} for name, value in (("one", 1.0), ("two", 2.0))]
    (tmp_path / "results.json").write_text(json.dumps({"results": entries}))
    monkeypatch.setattr("pyro_hvae.report.page.comparison", lambda results: [
        {"title": "ELBO", "unit": "nats", "cells": [{"text": "1.00 ± 0.10"}, {"text": "2.00 ± 0.10"}]},
        {"title": "active", "unit": "1", "cells": [None, {"text": "7"}]}])  # fmt: skip
    _print_comparison(tmp_path)
    elbo, active = table(capsys.readouterr().out)
    assert elbo == {"": "ELBO", "one guide": "1.00 ± 0.10", "two guide": "2.00 ± 0.10", "unit": "nats"}
    assert active == {"": "active", "one guide": "–", "two guide": "7", "unit": "1"}


# -- paths


@pytest.fixture
def nothing_computed(monkeypatch):
    """Whatever would take long, taken away."""

    def fail(*args, **kwargs):
        raise AssertionError("computed before the paths were checked")

    for name in ("pyro_hvae.export.audit.export_posterior", "pyro_hvae.sampling.evidence.evidence_importance_sampling",
                 "pyro_hvae.stimuli.texture_patches", "pyro_hvae.stimuli.natural_patches", "pyro_hvae.training.fit.fit",
                 "pyro_hvae.cli.stimuli._write", "pyro_hvae.export.posterior.Moments",
                 "pyro_hvae.training.run_directory.load"):  # fmt: skip
        monkeypatch.setattr(name, fail)


@pytest.mark.parametrize("where", ["missing/o.nc", "file/o.nc", "/proc/o.nc", "taken.nc", "run"])
@pytest.mark.parametrize(
    "command", ["audit {run}", "evidence {run}", "export {run}", "stimuli gabors --size 4", "train TDVAE20 --steps 1",
                "analyse {posterior}", "demo"],
)  # fmt: skip
def test_paths_are_checked_before_anything_is_computed(runs, tmp_path, capsys, nothing_computed, where, command):
    makes_parents = ("train", "analyse", "demo", "stimuli")
    name = command.split()[0]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken.nc").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("mine")
    if (where == "missing/o.nc" and name in makes_parents) or (where == "run" and name == "analyse"):
        return
    words = command.format(run=runs / "a", posterior=tmp_path / "none.nc").split()
    out = str(tmp_path / where)
    assert main([*words, "--out", out]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("pyro-hvae: ") and str(Path(out).parent) in printed
    assert (tmp_path / "taken.nc").read_text() == "mine" and (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "run", "taken.nc"]


def test_an_audit_does_not_take_the_place_of_a_picture(runs, tmp_path, capsys, nothing_computed):
    (tmp_path / "mine.png").write_bytes(b"\x89PNG mine")
    for more in ([], ["--overwrite"]):
        assert main(["audit", str(runs / "a"), "--out", str(tmp_path / "mine.nc"), *more]) == 2
        assert "mine.png" in capsys.readouterr().err
    assert main(["audit", str(runs / "a"), "--out", str(tmp_path / "new.png")]) == 2
    assert "ends in .nc" in capsys.readouterr().err
    assert (tmp_path / "mine.png").read_bytes() == b"\x89PNG mine" and not (tmp_path / "mine.nc").exists()


def test_functions_check_their_paths_first(tmp_path, nothing_computed):
    (tmp_path / "mine.nc").write_text("mine")
    x = np.zeros((2, 16), np.float32)
    for path in (tmp_path / "mine.nc", tmp_path / "missing" / "a.nc", tmp_path):
        with pytest.raises(HVAEError, match=re.escape(str(path.parent))):
            hvae.audit(small_pair(), x, path=path)
        with pytest.raises(HVAEError, match=re.escape(str(path.parent))):
            hvae.export_posterior(small_pair(), x, path=Path(path))
