"""Files of every kind are opened as what they are; another kind is one entry."""

import pytest
import xarray as xr
from analysis.test_guide_audit import plant as plant_audit

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import quantity
from pyro_hvae.errors import HVAEError
from pyro_hvae.report import analyse
from pyro_hvae.report.files import AUDIT, KINDS, POSTERIOR, FileKind, file_labels, open_file
from pyro_hvae.report.needs import Headline
from pyro_hvae.report.registry import Analysis
from pyro_hvae.storage.audit_file import write_audit


def test_a_file_is_opened_as_what_it_says_it_is(planted, plant, tmp_path):
    write_audit(plant_audit(images=4), tmp_path / "audit.nc")
    zarr = plant("planted.zarr", natural=3, families=(), draws=0, units=0, samples=4).path
    for path, kind, images in ((planted.path, POSTERIOR, 600), (zarr, POSTERIOR, 3), (tmp_path / "audit.nc", AUDIT, 4)):
        file = open_file(path, "label")
        with file.tree:
            assert (file.kind, file.path, file.label) == (kind, path, "label")
            assert file.tree["observed_data"].sizes["image"] == images


def test_a_damaged_audit_is_refused_as_an_audit(tmp_path):
    tree = plant_audit(images=4)
    del tree["guide"]["z1_correlation"]
    tree.to_netcdf(tmp_path / "audit.nc", engine="netcdf4")
    with pytest.raises(HVAEError, match="breaks the schema of an audit: guide/z1_correlation is missing"):
        open_file(tmp_path / "audit.nc")


def test_labels_of_files_are_short_and_distinct():
    assert file_labels(["x/top.nc", "y/bottom.nc"]) == ["top", "bottom"]
    assert file_labels(["x/posterior.nc", "y/posterior.nc"]) == ["x", "y"]
    assert file_labels(["x/a.nc", "x/b.nc", "y/a.nc"]) == ["x-a", "x-b", "y-a"]
    assert file_labels(["1/x/a.nc", "2/x/a.nc"]) == ["1-x-a", "2-x-a"]
    assert file_labels(["my run/a b.nc"]) == ["a_b"]


def test_another_kind_of_file_is_one_entry(tmp_path, monkeypatch):
    """Recordings: a kind with an analysis of its own is opened, analysed, tabled and drawn."""

    def rate(tree):
        variables = quantity("rate", [], tree["spikes"]["count"].mean(), title="firing rate", unit="Hz", n=3, se=0.5)
        return xr.Dataset(variables, attrs={"analysis": "rate", "notes": ""})

    def plot(dataset):
        return style.Picture(style.figure(1, 1), f"Rates of {int(dataset['rate_n'])} cells.")

    analysis = Analysis("rate", "Firing rates", "Spikes a second.", rate, plot, (), (Headline("rate"),))
    kind = FileKind(
        name="recording",
        schema="recording",
        command="record FILE",
        open=lambda path: xr.open_datatree(path, engine="netcdf4"),
        analyses={"rate": analysis},
        facts=lambda tree: {"kind": "recording", "images": "none", "layers (dimensions)": "none", "cells": "3"},
        lacks=lambda tree: [],
    )
    for module in ("files", "report", "page"):
        monkeypatch.setattr(f"pyro_hvae.report.{module}.KINDS", (*KINDS, kind))
    tree = xr.DataTree.from_dict({"spikes": xr.Dataset({"count": ("cell", [1.0, 2.0, 6.0])})})
    tree.attrs["schema"] = "recording"
    tree.to_netcdf(tmp_path / "cells.nc", engine="netcdf4")
    write_audit(plant_audit(images=4), tmp_path / "audit.nc")
    page = analyse([tmp_path / "cells.nc", tmp_path / "audit.nc"], tmp_path / "out").read_text(encoding="utf-8")
    assert '<h2 id="rate">Firing rates</h2>\n<p>Spikes a second.</p>' in page
    assert (
        '<th scope="row">firing rate</th><td>3.00 ± 0.50<span class="n">n = 3</span></td><td class="muted">Hz' in page
    )
    assert '<th scope="row">cells</th><td>3</td><td></td>' in page
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {
        "rate-cells.png",
        "guide_audit-audit.png",
    }
    with pytest.raises(HVAEError, match="no posterior file, audit, physiology file or recording .*`record FILE`"):
        open_file(tmp_path / "absent.nc")
