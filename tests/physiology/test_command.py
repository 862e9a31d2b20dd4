"""The command line: a reference or a run in, a file and a page out."""

import pytest
import torch
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.analysis import style
from pyro_hvae.cli import main
from pyro_hvae.stimuli import natural_patches
from pyro_hvae.storage.writing import FIGURE


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Pictures are most of the time of a page; scripts draw them in tests/report."""
    monkeypatch.setattr(style.Picture, "png", lambda picture: b"\x89PNG Source\0" + FIGURE.encode())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    import numpy as np

    folder = tmp_path_factory.mktemp("run") / "run"
    photographs = np.random.default_rng(0).gamma(2, size=(3, 60, 60))
    data = natural_patches(4, photographs, train=300, test=20)
    torch.manual_seed(0)
    hvae.fit(small_pair(), data, steps=2, batch=10, out=folder, device="cpu", progress=False)
    return folder


def test_a_run_becomes_a_file_and_a_page(run, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "physiology",
        str(run),
        "--out",
        str(out),
        "--draws",
        "2",
        "--texture-patches",
        "12",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "6 units of z1, 3 units of z2" in printed and str(out / "report.html") in printed
    page = (out / "report.html").read_text(encoding="utf-8")
    for title in ("Tuning to gratings", "Scorecard", "Textures against noise", "Most and least exciting images"):
        assert title in page
    with hvae.open_physiology(out / "physiology.nc") as tree:
        assert set(tree.children) == {
            "blank", "gratings", "preferred", "places", "contrast", "size", "annulus", "plaid", "natural_contrast", "optima",
            "texture", "time_course",
        }  # fmt: skip
        assert tree.attrs["transform"] != "none"
    assert main(arguments) == 2 and "exists" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--parts", "contrast"]) == 0


def test_a_run_of_patches_that_arrived_preprocessed_has_no_textures(tmp_path):
    hvae.fit(small_pair(), small_data(), steps=1, batch=10, out=tmp_path / "run", device="cpu", progress=False)
    assert (
        main(
            [
                "physiology",
                str(tmp_path / "run"),
                "--out",
                str(tmp_path / "out"),
                "--draws",
                "2",
                "--units",
                "2",
                "--parts",
                "contrast",
            ]
        )
        == 0
    )
    with hvae.open_physiology(tmp_path / "out" / "physiology.nc") as tree:
        assert "texture" not in tree.children and tree.attrs["transform"] == "none"
        assert tree["blank"].sizes == {"z1_unit": 2, "z2_unit": 2}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a run directory, or --reference"),
        (["--reference", "TDVAE2O"], "Did you mean|TDVAE20"),
        (["nowhere"], "not a run directory"),
        (["--reference", "LinearVAE20", "--response", "spikes"], "response"),
        (["--reference", "LinearVAE20", "--parts", "colour"], "part of a measurement"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_and_nothing_is_left(arguments, says, tmp_path, capsys):
    import re

    assert main(["physiology", *arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert re.search(says, printed) and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()
