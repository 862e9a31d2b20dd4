"""Packed runs: small, read back as runs everywhere, never resumed; and the pairs that ship."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError
from pyro_hvae.export import references as shipped
from pyro_hvae.export.packing import TOLERANCE, pack
from pyro_hvae.export.refinement import elbo
from pyro_hvae.training.run_directory import RunDirectory

QUICK = dict(steps=30, batch=20, learning_rate=1e-3, log_every=10, evaluate_every=30, checkpoint_every=10, progress=False,
             device="cpu")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing") / "run"
    hvae.fit(small_pair(), small_data(), out=folder, **QUICK)
    return folder


@pytest.mark.parametrize("precision", ["single", "half"])
def test_a_packed_run_is_the_run_to_its_precision(run, tmp_path, precision):
    folder = pack(run, tmp_path / "packed", precision=precision)
    original, back = hvae.load(run), hvae.load(folder)
    for (name, p), q in zip(original.named_parameters(), back.parameters(), strict=True):
        expected = p if precision == "single" else p.half().float()
        assert torch.equal(q, expected) and q.dtype == torch.float32, name
    packed = json.loads((folder / "config.json").read_text())["packed"]
    x = torch.from_numpy(small_data().test["x"].values)
    for pair, key in ((back, "held_out_elbo"), (original, "held_out_elbo_single")):
        value, error = elbo(pair, x, 400, 1)
        assert packed[key] == pytest.approx(float(value.mean()), abs=5 * float(error.mean() / len(x) ** 0.5) * 5 + 0.01)
    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        assert all(name.startswith("vae.") for name in file.keys())  # noqa: SIM118
    stored = sum(f.stat().st_size for f in folder.iterdir())
    assert stored < sum(f.stat().st_size for f in run.rglob("*") if f.is_file())


@pytest.mark.parametrize(("moved", "taken"), [(0.9, "half"), (1.1, "single")])
def test_half_precision_is_taken_where_the_bound_stays(run, tmp_path, monkeypatch, moved, taken):
    values = iter([-10.0, -10.0 - moved * TOLERANCE])
    monkeypatch.setattr("pyro_hvae.export.packing._mean_elbo", lambda *arguments: next(values))
    packed = json.loads((pack(run, tmp_path / "packed") / "config.json").read_text())["packed"]
    assert packed["precision"] == taken
    assert packed["held_out_elbo"] == (-10.0 if taken == "single" else -10.0 - moved * TOLERANCE)


def test_every_command_takes_it_as_a_run_and_none_resumes_it(run, tmp_path, capsys):
    folder = tmp_path / "packed"
    assert (
        main(
            [
                "pack",
                str(run),
                "--out",
                str(folder),
                "--precision",
                "half",
                "--held-out",
                "40",
                "--licence",
                "CC0-1.0",
                "--note",
                "Made up.",
            ]
        )
        == 0
    )
    assert "half precision, ELBO of 60 held-out patches" in capsys.readouterr().out
    assert RunDirectory.open(folder).held_out().sizes["image"] == 40
    posterior = tmp_path / "posterior.nc"
    assert main(["export", str(folder), "--out", str(posterior), "--textures", "none", "--moment-draws", "4"]) == 0
    with hvae.open_posterior(posterior) as tree:
        assert tree["observed_data"].sizes["image"] == 40
    assert main(["evidence", str(folder), "--particles", "30", "--limit", "5"]) == 0
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pyro_hvae\nlicense: cc0-1.0\n")
    for line in (
        "| guide | TopDownGuide |",
        "| steps | 30 of batch 20",
        "Made up.",
        "Licence of the weights: CC0-1.0.",
    ):
        assert line in card
    assert str(tmp_path) not in card
    with pytest.raises(HVAEError, match="packed run, without optimizer and random state, so it cannot be resumed"):
        hvae.fit(small_pair(), small_data(), out=folder, resume=True, **QUICK)
    with pytest.raises(HVAEError, match="packed run, which is not overwritten"):
        hvae.fit(small_pair(), small_data(), out=folder, overwrite=True, **QUICK)
    assert hvae.load(folder).sites == ("z1", "z2")


def test_nothing_of_the_photographs_travels_unless_asked(run, tmp_path):
    folder = pack(run, tmp_path / "packed")
    assert {f.name for f in folder.iterdir()} == {"config.json", "model.safetensors", "history.nc", "README.md"}


def test_refusals(run, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    for call, says in (
        (lambda: pack(run, tmp_path / "taken"), "taken exists; give a folder that does not"),
        (lambda: pack(tmp_path / "none", tmp_path / "out"), "is not a run directory"),
        (lambda: pack(run, tmp_path / "out", precision="helf"), "unknown precision 'helf'; did you mean 'half'"),
        (lambda: pack(run, tmp_path / "out", held_out=-1), "held_out is a number of patches"),
    ):
        with pytest.raises(HVAEError, match=says):
            call()
    assert (tmp_path / "taken" / "file").read_text() == "mine" and not (tmp_path / "out").exists()
    folder = pack(run, tmp_path / "packed")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(HVAEError, match=r"model\.safetensors.*damaged or truncated"):
        hvae.load(folder)


def test_every_reference_loads_without_network_and_reaches_what_its_card_says():
    """In a process that may open no socket."""
    for name, folder in hvae.references().items():
        vae, config = hvae.load_reference(name), json.loads((folder / "config.json").read_text())
        assert vae.preset == config["vae"]["preset"]
        patches = RunDirectory.open(folder).held_out()
        x = torch.from_numpy(np.ascontiguousarray(patches["x"].values))
        value, _ = elbo(vae, x, 4, 0)
        # of fewer patches than on the card: in standard errors over patches
        tolerance = 5 * float(value.std()) / len(x) ** 0.5
        assert float(value.mean()) == pytest.approx(config["packed"]["held_out_elbo"], abs=tolerance)
        assert (
            abs(config["packed"]["held_out_elbo"] - config["packed"]["held_out_elbo_single"]) < TOLERANCE + 1e-3
        )  # both are rounded
        assert sum(f.stat().st_size for f in folder.iterdir()) < 6e6
        assert (folder / "README.md").is_file() and not any(
            "/" in str(v) for v in [config["data"]["provenance"]["source"]]
        )
    assert sum(f.stat().st_size for folder in hvae.references().values() for f in folder.iterdir()) < 30e6
    script = (
        "import socket\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import pyro_hvae as hvae\n"
        "print(hvae.load_reference('TDVAE20').sites)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "('z1', 'z2')", done.stderr


def test_references_from_the_command_line(capsys, monkeypatch, tmp_path):
    assert main(["references"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in hvae.references())
    assert main(["references", "TDVAE20"]) == 0
    assert Path(capsys.readouterr().out.strip()) == hvae.references()["TDVAE20"]
    assert main(["references", "TDVAE2"]) == 2
    assert "did you mean 'TDVAE20'" in capsys.readouterr().err
    with pytest.raises(HVAEError, match="unknown reference 'TDVAE22'; did you mean 'TDVAE20'"):
        hvae.load_reference("TDVAE22")
    monkeypatch.setattr(shipped, "_HOMES", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(HVAEError, match="no trained pairs are installed.*install the wheel or clone"):
        hvae.references()
