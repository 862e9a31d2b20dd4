"""Every script of analyses/ runs on a posterior file, and covers every analysis there is."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.report import ANALYSES
from pyro_hvae.report.script import main

# guide_audit.py reads audit files, not posterior files; tests/test_cli.py runs it.
SCRIPTS = sorted(s for s in (Path(__file__).parents[2] / "analyses").glob("*.py") if s.stem != "guide_audit")


def test_there_is_a_script_for_every_analysis():
    assert {script.stem for script in SCRIPTS} == set(ANALYSES)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_saves_a_figure_and_prints_numbers(script, planted, edit, tmp_path, monkeypatch, capsys):
    def mask(tree):
        shown = np.arange(planted.size**2) % 9 > 0
        tiled = np.tile(shown, (tree["observed_data"].sizes["image"], 1))
        tree["observed_data"]["mask"] = xr.DataArray(tiled, dims=("image", "pixel"))

    path = edit(planted.path, mask, "planted.nc") if script.stem == "inpainting" else planted.path
    monkeypatch.setattr(sys, "argv", [str(script), str(path), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    figure = tmp_path / f"{script.stem}-planted.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "±" in printed or "[" in printed or "(no interval)" in printed
    assert "n = " in printed


def test_a_file_that_fails_is_named_and_the_others_are_done(planted, tmp_path, capsys):
    status = main("bound_terms", "", [str(tmp_path / "absent.nc"), str(planted.path), "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert status == 1
    assert "there is no posterior file" in printed.err
    assert "ELBO" in printed.out
    assert (tmp_path / "bound_terms-planted.png").exists()
