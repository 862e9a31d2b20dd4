"""What commands print and write: tables column by column, and paths checked before anything is computed."""

import os
import re
import shlex
import subprocess
import sys
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


@pytest.mark.parametrize(
    "more", [[], *(pytest.param([o], marks=pytest.mark.slow) for o in ("--ais", "--bdmc")), ["--ais", "--bdmc"]]
)
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


def test_the_demo_sets_each_guide_in_its_own_column(capsys, monkeypatch):
    from pyro_hvae.cli.demo import _print_comparison

    monkeypatch.setenv("COLUMNS", "160")
    entry = {"analysis": "bound_terms", "name": "elbo", "title": "ELBO", "interval": None, "n": 3, "unit": "nats"}
    entries = [entry | {"file": name, "value": value, "se": 0.1} for name, value in (("one", 1.0), ("two", 2.0))]
    monkeypatch.setattr("pyro_hvae.report.page.comparison", lambda results: [
        {"title": "ELBO", "unit": "nats", "cells": [{"text": "1.00 ± 0.10"}, {"text": "2.00 ± 0.10"}]},
        {"title": "active", "unit": "1", "cells": [None, {"text": "7"}]}])  # fmt: skip
    _print_comparison(entries)
    elbo, active = table(capsys.readouterr().out)
    assert elbo == {"": "ELBO", "one guide": "1.00 ± 0.10", "two guide": "2.00 ± 0.10", "unit": "nats"}
    assert active == {"": "active", "one guide": "–", "two guide": "7", "unit": "1"}


def demo_results(**changed):
    """Entries of results.json of a demo in which everything holds."""
    values = {
        ("ladder", "gabor_fits", "localized_count"): 280,
        ("ladder", "active_dimensions", "count[z1]"): 314,
        ("ladder", "gabor_fits", "goodness[localized]"): 0.88,
        ("ladder", "texture_decoding", "accuracy[z2_mean]"): 0.81,
        ("ladder", "texture_decoding", "accuracy[norm]"): 0.66,
        ("ladder", "trust", "below_07[natural]"): 0.4,
        ("top_down", "trust", "below_07[natural]"): 0.0,
    }
    for key, value in changed.items():
        values[next(k for k in values if "_".join(k).startswith(key))] = value
    return [{"file": f, "analysis": a, "name": n, "value": v} for (f, a, n), v in values.items()]


def test_the_demo_says_of_each_claim_whether_it_holds_and_which_guide_to_believe():
    from pyro_hvae.cli.demo import claims

    lines = claims(demo_results(), "ladder", "top_down")
    assert [line.split(":")[0] for line in lines] == ["holds"] * 3 + ["Which guide to believe"]
    assert "280 of 314 localized" in lines[0] and "88%" in lines[0]
    assert (
        "0.81 against 0.66" in lines[1] and "40% (ladder), 0% (top_down)" in lines[2] and "believe: ladder" in lines[3]
    )
    for changed, line in (({"ladder_gabor_fits_localized": 150}, 0), ({"ladder_gabor_fits_goodness": 0.6}, 0),
                          ({"ladder_texture_decoding_accuracy[z2": 0.65}, 1), ({"ladder_trust": 0.0}, 2)):  # fmt: skip
        assert claims(demo_results(**changed), "ladder", "top_down")[line].startswith("does not hold:")
    assert "neither is shown" in claims(demo_results(ladder_trust=0.0), "ladder", "top_down")[3]
    assert "believe: top_down" in claims(demo_results(top_down_trust=0.6), "ladder", "top_down")[3]
    missing = [e for e in demo_results() if e["analysis"] != "gabor_fits"]
    assert claims(missing, "ladder", "top_down")[0].startswith("does not hold:")


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


# -- one way through the command line


def _contents(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(runs, tmp_path, monkeypatch, capsys):
    """Run a command that must be refused: its line on standard error. ``RUN``, ``DATA``, ``POSTERIOR`` stand for right ones."""
    small_data().save(tmp_path / "data.nc")
    (tmp_path / "a-file").write_bytes(b"mine")
    (tmp_path / "a-directory").mkdir()
    (tmp_path / "a-directory" / "mine").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(runs / "a"), "DATA": "data.nc"}

    def command(text: str) -> str:
        before = _contents(tmp_path)
        code = main([places.get(word, word) for word in text.split()])
        captured = capsys.readouterr()
        assert code == 2, (text, captured)
        assert captured.err.startswith("pyro-hvae: ") and len(captured.err.splitlines()) == 1, captured.err
        assert _contents(tmp_path) == before, text
        return captured.err

    return command


# Every command that writes, with all that it needs but for --out.
WRITERS = {
    "train": "train TDVAE20 --patches DATA --steps 1",
    "export": "export RUN --textures none --limit 2",
    "analyse": "analyse POSTERIOR",
    "evidence": "evidence RUN --limit 2 --particles 2",
    "audit": "audit RUN --limit 1",
    "stimuli": "stimuli gratings --size 4",
    "demo": "demo --steps 2",
    "sweep": "sweep TDVAE20 --pixels 16 --axis seed 0 --patches DATA",
}
FILES = ("export", "evidence", "audit", "stimuli")


@pytest.mark.parametrize("name", list(WRITERS))
@pytest.mark.parametrize("out", ["a-file/x", "/proc/nowhere/x", "a-file", "a-directory"])
def test_places_that_cannot_be_written_are_refused_in_a_line(refused, name, out):
    printed = refused(f"{WRITERS[name]} --out {out}")
    assert any(word in printed for word in (out, out.rpartition("/")[0] or out, "POSTERIOR"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("out", ["a-file", "a-directory"])
def test_overwrite_replaces_nothing_of_another_kind(refused, name, out):
    assert out in refused(f"{WRITERS[name]} --out {out} --overwrite")


COUNTS = [
    *(("audit RUN --out x.nc", option) for option in ("--limit", "--units", "--samples", "--warmup", "--chains")),
    *(("evidence RUN", option) for option in ("--limit", "--particles", "--temperatures", "--chains")),
    *(("export RUN --out x.nc", option) for option in ("--limit", "--resample", "--moment-draws", "--evidence-images")),
    *(("train TDVAE20 --out x", option) for option in ("--steps", "--batch", "--particles", "--dim-z1", "--log-every",
                                                       "--train-patches", "--checkpoint-every")),
    *(("sweep TDVAE20 --axis seed 0 --out x", option) for option in ("--workers", "--threads", "--train-patches")),
    *(("yardstick RUN", option) for option in ("--limit", "--particles")), ("demo --out x", "--steps"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "option"), COUNTS)
def test_numbers_beyond_their_limits_are_refused_in_a_line(refused, command, option):
    for value in ("0", "-3", "two", "1.5", "9" * 40):
        assert f"argument {option}" in refused(f"{command} {option}={value}"), (option, value)


def test_zero_means_none_and_less_is_refused(refused):
    for option in ("--draws", "--evidence", "--refine", "--gap", "--receptive-fields", "--units"):
        assert f"argument {option}" in refused(f"export RUN --out x.nc {option}=-1")


@pytest.mark.parametrize(
    "text",
    [
        "trian", "export", "export RUN", "export RUN --out x.nc --drwas 3", "train TDVAE20 --out x --compile perhaps",
        "stimuli gratings", "stimuli gratings --out x.nc --size four", "stimuli natural --out x.nc --source a-file",
        "analyse a-file --out x", "analyse a-directory --out x", "analyse nowhere.nc --out x", "export a-file --out x.nc",
        "export RUN --patches a-file --out x.nc --textures none", "export RUN --out x.nc --textures nowhere",
        "audit a-directory --out x.nc", "evidence RUN nowhere", "yardstick a-file", "train --resume --out a-file",
        "train TDVAE20 --out x --patches a-directory", "train TDVAE20 --out x --noise nan --patches DATA",
        "sweep TDVAE20 --axis seed 0 --out x --patches a-file",
        "sweep TDVAE20 --axis seed 0 --out x --steps many --patches DATA",
        "train TDVAE20 --out x --seed 99999999999999999999 --patches DATA",
    ],
)  # fmt: skip
def test_whatever_is_wrong_is_told_in_a_line(refused, text):
    refused(text)


def test_a_missing_audit_is_told_how_to_make_one(refused):
    from pyro_hvae.storage.audit_file import open_audit

    assert "pyro-hvae audit RUN --out FILE" in refused("analyse audit.nc --out x")
    with pytest.raises(HVAEError, match="there is no audit audit.nc; make one with `pyro-hvae audit RUN --out FILE`"):
        open_audit("audit.nc")


def test_what_the_file_system_refuses_is_told_in_a_line(monkeypatch, capsys):
    from pyro_hvae.cli import presets

    def fails(error):
        def run(arguments):
            raise error

        return run

    for error, says in (
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ):
        monkeypatch.setattr(presets, "run", fails(error))
        assert main(["presets"]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith(f"pyro-hvae: {says}") and len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(e, marks=pytest.mark.slow) for e in ("latin-1", "cp1252"))]
)
def test_a_terminal_that_is_not_utf8(runs, encoding):
    command = [
        sys.executable,
        "-m",
        "pyro_hvae",
        "evidence",
        "a",
        "--limit",
        "3",
        "--particles",
        "9",
        "--device",
        "cpu",
    ]
    result = subprocess.run(
        command, capture_output=True, cwd=runs, env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    )
    assert result.returncode == 0 and b"IW-9" in result.stdout and b"Traceback" not in result.stderr, result.stderr


def test_output_that_nobody_reads_any_more_ends_quietly():
    command = f"{sys.executable} -m pyro_hvae presets | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode in (0, 1, 141)  # rich ends with 1
    assert result.stderr == ""


def test_next_lines_can_be_pasted_into_a_shell(runs, tmp_path, monkeypatch, capsys):
    """From a folder whose name a shell would take apart."""
    import shutil

    folder = tmp_path / "my runs; (2)"
    folder.mkdir()
    shutil.copytree(runs / "a", folder / "it's a")
    monkeypatch.chdir(folder)
    out = folder / "p 1.nc"
    assert main(["export", "it's a", "--out", str(out), "--limit", "3", "--textures", "none", "--moment-draws", "2",
                 "--receptive-fields", "0", "--device", "cpu"]) == 0  # fmt: skip
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    assert shlex.split(line)[1:] == ["pyro-hvae", "analyse", str(out), "--out", str(folder / "report")]
    set_of = folder / "gratings $HOME.nc"
    assert main(["stimuli", "gratings", "--size", "4", "--out", str(set_of)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    assert shlex.split(line)[1:6] == ["pyro-hvae", "export", "RUN", "--patches", str(set_of)]
