"""The report of a physiology file holds every analysis; what was not measured is said."""

import json

import pytest
from planted_physiology import plant

from pyro_hvae.analysis import style
from pyro_hvae.errors import HVAEError
from pyro_hvae.report import analyse
from pyro_hvae.report.needs import Measured
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.storage.physiology_file import write_physiology


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(style.Picture, "png", lambda picture: b"not drawn")


def results(path, out):
    page = analyse(path, out)
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))["results"]
    return page.read_text(encoding="utf-8"), {
        name: [e for e in found if e["analysis"] == name] for name in PHYSIOLOGY_ANALYSES
    }


def test_every_analysis_is_in_the_report_of_a_whole_file(tmp_path):
    write_physiology(plant(40), tmp_path / "p.nc")
    page, found = results(tmp_path / "p.nc", tmp_path / "report")
    for name, entries in found.items():
        assert entries and entries[0]["value"] is not None, f"{name}: {entries}"
        assert PHYSIOLOGY_ANALYSES[name].title in page
        for headline in PHYSIOLOGY_ANALYSES[name].headlines:
            if headline.quantity != "difference":  # of two layers; the planted file has one
                assert any(headline.shows(e["name"]) for e in entries), (name, headline)
    assert "physiology, response: mean" in page and "failed with" not in page


def test_what_was_not_measured_is_said_and_the_rest_goes_on(tmp_path):
    write_physiology(plant(40, series=False), tmp_path / "p.nc")
    page, found = results(tmp_path / "p.nc", tmp_path / "report")
    assert "contrast_response does not apply: the file lacks contrast (it was not measured)" in page
    assert found["grating_tuning"][0]["value"] is not None and found["texture_modulation"][0]["value"] is None


def test_a_need_of_an_unknown_group_is_refused_when_it_is_written():
    with pytest.raises(HVAEError, match="gratings"):
        Measured("grating")
