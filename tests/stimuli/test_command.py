import argparse
import importlib
import inspect

import numpy as np
import pytest

from pyro_hvae.cli import stimuli
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import PatchData, gratings, masked, natural_patches, texture_patches
from tests.stimuli.conftest import photograph


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    stimuli.add(parser.add_subparsers())
    parsed = parser.parse_args(["stimuli", *map(str, arguments)])
    return parsed.run(parsed)


@pytest.fixture(scope="module")
def data():
    return natural_patches(8, np.stack([photograph(i) for i in range(4)]), train=2_000, test=100)


@pytest.fixture
def saved(tmp_path, data):
    return data.save(tmp_path / "natural.nc")


def test_the_kinds_of_stimuli():
    assert set(stimuli.KINDS) == {
        "natural", "highest-contrast", "disjoint-subsets", "contrast-matched", "masked", "textures", "synthesised-textures",
        "synthesised-patches", "gratings", "gabors", "differences-of-gaussians", "plaids", "bars", "edges", "illusory-contours",
        "dead-leaves", "sprites", "digits", "optic-flow",
    }  # fmt: skip


@pytest.mark.parametrize("kind", stimuli.KINDS)
def test_every_kind_has_a_function_a_page_of_help_and_options_of_known_types(kind, capsys):
    module, name = stimuli.KINDS[kind]
    make = getattr(importlib.import_module(module), name)
    with pytest.raises(SystemExit) as stopped:
        command(kind, "--help")
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and inspect.getdoc(make).splitlines()[0][:40] in shown
    for option in inspect.signature(make).parameters:
        assert f"--{option.replace('_', '-')}" in shown


def test_options_reach_the_function_and_the_size_follows_the_transform(tmp_path, saved, data, capsys):
    out = tmp_path / "gratings.nc"
    given = ("--transform", saved, "--orientation", 0, 45, "--contrast", -0.2, "--frequency", 0.1)
    assert command("gratings", *given, "--out", out) == 0
    expected = gratings(8, orientation=[0, 45], contrast=[-0.2], frequency=[0.1], transform=data.transform)
    np.testing.assert_array_equal(PatchData.load(out).test["x"], expected["x"])
    assert "0 training and 8 test images of 8×8 pixels" in capsys.readouterr().out
    with pytest.raises(HVAEError, match="exists"):
        command("gratings", *given, "--out", out)
    assert command("gratings", *given, "--out", out, "--overwrite") == 0


def test_patches_in_patches_out(tmp_path, saved, data):
    command("masked", "--patches", saved, "--shape", "right", "--out", tmp_path / "m.nc")
    assert PatchData.load(tmp_path / "m.nc").test.identical(masked(data, shape="right").test)


def test_families_are_decoded_from_pixels(tmp_path, saved, data, capsys):
    out = tmp_path / "t.nc"
    command("textures", "--transform", saved, "--train", 300, "--test", 300, "--no-centre", "--out", out)
    assert "family from pixels, linearly: 0." in capsys.readouterr().out
    expected = texture_patches(8, transform=data.transform, train=300, test=300, centre=False)
    assert PatchData.load(out).train.identical(expected.train)


def test_errors(tmp_path):
    with pytest.raises(HVAEError, match="unknown kind of stimulus 'grating'; did you mean 'gratings'"):
        command("grating", "--out", tmp_path / "x.nc")
    with pytest.raises(HVAEError, match="--out"):
        command("gratings")
    with pytest.raises(HVAEError, match="unrecognized arguments: --orientashun"):
        command("gratings", "--out", tmp_path / "x.nc", "--orientashun", 3)
