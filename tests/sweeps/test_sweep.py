"""Sweeps: every run as `fit` alone gives it, stopped and gone on with, failures kept apart, other designs refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster
from small import small_data

import pyro_hvae as hvae
from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import PatchData
from pyro_hvae.sweeps import member
from pyro_hvae.sweeps.design import Design, Settings, directory_name
from pyro_hvae.training.run_directory import RunDirectory

TINY = {"preset": "TDVAE20", "pixels": 16, "dim_z1": 6, "steps": 6, "batch": 50, "learning_rate": 1e-3, "beta_z2": "0:0.1,4:1",
        "log_every": 2, "evaluate_every": 3, "checkpoint_every": 2}  # fmt: skip
AXES = {"dim_z2": [2, 3], "seed": [0, 1]}
SMALL = dict(device="cpu", progress=False)


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client
    member.forget_closed_client()


@pytest.fixture(scope="module")
def swept(client, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "dims"
    return out, hvae.sweep(TINY, AXES, small_data(), out=out, scheduler=client, export=40, **SMALL)


def parameters(run):
    return {name: t for name, t in RunDirectory.open(run).latest().tensors.items() if name.startswith("vae.")}


def alone(data, out=None, **changed):
    s = TINY | changed
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=6, dim_z2=s["dim_z2"], seed=s["seed"])
    run = hvae.fit(vae, data, steps=s["steps"], batch=50, learning_rate=1e-3, beta={"z2": "0:0.1,4:1"}, seed=s["seed"],
                   log_every=2, evaluate_every=3, checkpoint_every=2, out=out, device="cpu", progress=False)  # fmt: skip
    return vae, run


def test_every_run_is_that_of_fit_alone(swept):
    out, results = swept
    assert results.sizes == {"dim_z2": 2, "seed": 2} and (results["status"] == "finished").all()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for dim, seed in ((2, 1), (3, 0)):
            vae, run = alone(small_data(), dim_z2=dim, seed=seed)
            point = results.sel(dim_z2=dim, seed=seed)
            theirs = parameters(out / point["run"].item())
            assert all(torch.equal(value, theirs[f"vae.{name}"]) for name, value in vae.state_dict().items())
            last = run.history.isel(evaluation=-1)
            for name in ("test_elbo", "test_reconstruction", "test_kl_z1", "test_kl_z2"):
                assert float(point[name]) == float(last[name])
            assert float(point["step"]) == 6 and float(point["seconds"]) > 0
    finally:
        torch.set_num_threads(before)
    saved = xr.load_dataset(out / "sweep.nc")
    assert saved["test_elbo"].identical(results["test_elbo"]) and saved["dim_z2"].values.tolist() == [2, 3]
    assert len(np.unique(results["test_elbo"])) == 4, "the runs differ"


def test_active_dimensions_are_those_of_the_analysis_of_the_exported_files(swept):
    out, results = swept
    files = sorted(out.glob("*/posterior.nc"))
    assert len(files) == 4
    for file in files:
        with hvae.open_posterior(file) as tree:
            assert tree["observed_data"].sizes["image"] == 40
            counts = hvae.analysis.active_dimensions(tree)["count"]
        at = results.where(results["run"] == file.parent.name, drop=True)
        for site in ("z1", "z2"):
            assert float(at[f"active_{site}"].values.item()) == float(counts.sel(site=site))
    from pyro_hvae.report.comparisons import active_by_size

    trees = [hvae.open_posterior(file) for file in files]
    assert active_by_size([hvae.analysis.active_dimensions(tree) for tree in trees])["size"].values.tolist() == [
        2,
        2,
        3,
        3,
    ]


def test_finished_runs_are_left_alone_and_files_asked_for_later_are_made(client, tmp_path):
    first = hvae.sweep(TINY, {"seed": [0, 1]}, small_data(), out=tmp_path / "s", scheduler=client, **SMALL)
    checkpoints = {run: RunDirectory.open(tmp_path / "s" / run).checkpoints()[-1] for run in first["run"].values}
    written = {run: path.stat().st_mtime_ns for run, path in checkpoints.items()}
    address = client.scheduler_info()["address"]
    again = hvae.sweep(TINY, {"seed": [0, 1]}, small_data(), out=tmp_path / "s", scheduler=address, export=20, **SMALL)
    assert {run: path.stat().st_mtime_ns for run, path in checkpoints.items()} == written
    assert all((tmp_path / "s" / run / "posterior.nc").is_file() for run in checkpoints)
    assert again["test_elbo"].identical(first["test_elbo"])


def test_an_interrupted_run_goes_on_from_its_checkpoint(client, tmp_path):
    """What a kill leaves: one run between two checkpoints, one between its directory and its first checkpoint."""
    out = tmp_path / "s"
    whole = hvae.sweep(TINY, {"dim_z2": [2, 3]}, small_data(), out=tmp_path / "whole", scheduler=client, **SMALL)
    hvae.sweep(TINY, {"dim_z2": [2, 3]}, small_data(), out=out, scheduler=client, **SMALL)
    first, second = out / "dim_z2=2", out / "dim_z2=3"
    for run in (first, second):
        (run / "summary.json").unlink()
    newest = RunDirectory.open(first).checkpoints()[-1]
    newest.unlink()
    assert RunDirectory.open(first).latest().step == 4
    kept = RunDirectory.open(first).checkpoints()[-1].stat().st_mtime_ns
    for checkpoint in RunDirectory.open(second).checkpoints():
        checkpoint.unlink()
    again = hvae.sweep(TINY, {"dim_z2": [2, 3]}, small_data(), out=out, scheduler=client, **SMALL)
    assert again["test_elbo"].identical(whole["test_elbo"]) and (again["step"] == 6).all()
    assert RunDirectory.open(first).checkpoints()[0].stat().st_mtime_ns == kept, "begun again instead of gone on with"
    for run in (first, second):
        ours, theirs = parameters(run), parameters(tmp_path / "whole" / run.name)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_fails_is_reported_and_the_others_go_on(client, tmp_path):
    out = tmp_path / "s"
    axes = {"learning_rate": [1e-3, 1e30], "seed": [0]}
    settings = {name: value for name, value in TINY.items() if name != "learning_rate"}
    results = hvae.sweep(settings, axes, small_data(), out=out, scheduler=client, **SMALL)
    assert results["status"].values[:, 0].tolist() == ["finished", "failed"]
    assert "not finite" in results["error"].values[1, 0] and results["error"].values[0, 0] == ""
    assert np.isnan(results["test_elbo"].values[1, 0]) and np.isfinite(results["test_elbo"].values[0, 0])
    assert "Traceback" in (out / "learning_rate=1e+30,seed=0.error.txt").read_text()
    again = hvae.sweep(settings, axes, small_data(), out=out, scheduler=client, **SMALL)
    assert again["status"].values[:, 0].tolist() == ["finished", "failed"], "tried again, and failed again"


def test_a_run_whose_worker_is_lost_is_reported(client, tmp_path, monkeypatch):
    def lost(*task):
        raise MemoryError("no worker survived this run")

    monkeypatch.setattr(member, "carry_out", lost)
    results = hvae.sweep(TINY, {"seed": [0, 1]}, small_data(), out=tmp_path / "s", scheduler=client, **SMALL)
    assert (results["status"] == "failed").all() and (
        results["error"] == "MemoryError: no worker survived this run"
    ).all()
    monkeypatch.undo()
    again = hvae.sweep(TINY, {"seed": [0, 1]}, small_data(), out=tmp_path / "s", scheduler=client, **SMALL)
    assert (again["status"] == "finished").all() and (again["error"] == "").all()


def test_another_design_in_the_same_directory_is_refused(swept, tmp_path):
    out, _ = swept
    before = (out / "sweep.json").read_bytes()
    for settings, axes, data, says in (
        (TINY | {"steps": 7}, AXES, small_data(), r"settings.steps: 7 given, 6 in the directory"),
        (TINY, {"dim_z2": [2, 4], "seed": [0, 1]}, small_data(), r"axes.dim_z2: \[2, 4\] given, \[2, 3\]"),
        (TINY, AXES, small_data(seed=1), r"data.provenance.seed: 1 given, 0 in the directory"),
    ):
        with pytest.raises(HVAEError, match=says):
            hvae.sweep(settings, axes, data, out=out, **SMALL)
    assert (out / "sweep.json").read_bytes() == before
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(HVAEError, match="is no sweep"):
        hvae.sweep(TINY, AXES, small_data(), out=tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("settings", "axes", "says"),
    [
        (TINY, {"dim_z3": [1]}, "unknown axis 'dim_z3'; did you mean 'dim_z"),
        (TINY | {"learningrate": 1}, AXES, "unknown setting 'learningrate'; did you mean 'learning_rate'"),
        (TINY, {"dim_z2": 5}, "axes must be a mapping from a text to a sequence, got 5"),
        (TINY, {"dim_z2": [5, 5]}, "each of them once"),
        (TINY, {"dim_z2": []}, "needs values"),
        (TINY, {"dim_z2": ["five"]}, "dim_z2 must be a whole number or None, got 'five'"),
        (TINY, {"seed": [True]}, "seed must be a whole number, got True"),
        (TINY, {}, "at least one axis"),
        (TINY, {"steps": [1, 2]}, "steps cannot be a setting of all runs and an axis"),
        (TINY, {"guide": ["top_down", "topdown"]}, "did you mean 'top_down'"),
        (TINY, {"gradient": ["stl"], "objective": ["elbo", "importance_weighted"], "particles": [3]}, "biased"),
        (TINY, {"learning_rate": ["fast"]}, "cannot be a setting"),
        (TINY, {"precision": ["float32", "float16"]}, "did you mean 'bfloat16'|Known: bfloat16"),
        ({"steps": 3}, AXES, "needs a preset"),
        ({"steps": 3}, {"preset": ["TDVAE20", "TDVAE40"]}, "share their patches"),
        (TINY, {"clip": ["0:1"]}, "clip must be a number or None"),
        ({**TINY, "pixels": 25}, AXES, "the patches have 16 pixels and the models of the sweep 25"),
    ],
)  # fmt: skip
def test_designs_that_cannot_be_are_refused_before_anything_is_written(tmp_path, settings, axes, says):
    with pytest.raises(HVAEError, match=says):
        hvae.sweep(settings, axes, small_data(), out=tmp_path / "s", **SMALL)
    assert not (tmp_path / "s").exists()


def test_wrong_sources_and_options_leave_nothing(tmp_path):
    out = tmp_path / "s"
    for data, says in (
        (str(tmp_path / "nowhere"), "nowhere"),
        ({"sauce": "embedded"}, "did you mean 'source'"),
        (tmp_path / "none.nc", "no such file"),
    ):
        with pytest.raises(HVAEError, match=says):
            hvae.sweep(TINY, AXES, data, out=out, **SMALL)
    for options, says in (
        ({"workers": 0}, "workers must be"),
        ({"export": -1}, "export must be"),
        ({"scheduler": "tcp://127.0.0.1:1", "workers": 2}, "give one of the two"),
    ):
        with pytest.raises(HVAEError, match=says):
            hvae.sweep(TINY, AXES, small_data(), out=out, **SMALL, **options)
    assert not out.exists()


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_hvae.sweeps.run.CONNECT", "0.3s")
    with pytest.raises(HVAEError, match=r"no dask scheduler at tcp://127.0.0.1:1 .* such as tcp://host:8786"):
        hvae.sweep(TINY, AXES, small_data(), out=tmp_path / "s", scheduler="tcp://127.0.0.1:1", **SMALL)


def test_names_of_runs_are_readable_and_do_not_depend_on_types_of_numbers():
    assert directory_name({"dim_z2": 5, "beta_z2": "0:0.1, 4:1", "guide": "top_down"}) == (
        "dim_z2=5,beta_z2=0-0.1_4-1,guide=top_down"
    )
    design = Design.of(TINY, {"dim_z2": np.array([2, 3]), "noise": np.array([0.5, 1.0])})
    assert next(iter(design.members())) == "dim_z2=2,noise=0.5"
    json.dumps(design.to_dict())


def test_settings_are_those_of_the_preset_where_not_given():
    vae = hvae.build("TD-IWAE20-k4")
    settings = Settings(preset="TD-IWAE20-k4")
    assert (
        settings.make_objective().num_particles == 4
        and type(settings.make_objective()).__name__ == "ImportanceWeightedELBO"
    )
    assert settings.size == vae.pixels
    assert (
        Settings(preset="TDVAE20", objective="importance_weighted", particles=10).make_objective().num_particles == 10
    )


def test_every_setting_is_an_option_of_the_command():
    from dataclasses import fields

    from pyro_hvae.cli import parser
    from pyro_hvae.sweeps.settings import SETTINGS

    assert tuple(SETTINGS) == tuple(f.name for f in fields(Settings))
    parsed = vars(parser().parse_args(["sweep", "TDVAE20", "--axis", "seed", "0", "--out", "x"]))
    assert set(SETTINGS) <= set(parsed)


def test_the_page_on_sweeps_lists_every_setting():
    import re

    from pyro_hvae.sweeps.settings import SETTINGS

    page = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    table = page.split("| settings, each of which can be an axis |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(SETTINGS)


def test_the_help_of_the_command_says_what_every_setting_is(capsys):
    from pyro_hvae.sweeps.settings import SETTINGS

    with pytest.raises(SystemExit, match="0"):
        main(["sweep", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(text.split()) in shown for name, text in SETTINGS.items() if name != "preset")


def test_a_run_that_another_process_works_on_is_not_touched(tmp_path):
    import fcntl

    data = tmp_path / "patches.nc"
    small_data().save(data)
    with open(tmp_path / ".seed=0.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert member.carry_out(TINY, str(data), str(tmp_path / "seed=0"), 0, "cpu", 1) == member.UNFINISHED
    assert not (tmp_path / "seed=0").exists()
    assert member.carry_out(TINY, str(data), str(tmp_path / "seed=0"), 0, "cpu", 1) == member.FINISHED


EVERY = ("log_every", "evaluate_every", "checkpoint_every")
PROCESS = ["--pixels", "16", "--dim-z1", "6", "--batch", "50", "--learning-rate", "1e-3", "--device", "cpu",
           "--workers", "1", *(word for name in EVERY for word in ("--" + name.replace("_", "-"), "20"))]  # fmt: skip


def gone(group, seconds=10):
    """Whether no process of the group is left."""
    for _ in range(10 * seconds):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_ctrl_c_leaves_every_run_at_a_checkpoint_and_ends_the_workers(tmp_path):
    """As from a shell: the signal goes to every process of the group. No checkpoint is due before the end of the runs."""
    small_data().save(tmp_path / "made.nc")
    out, rare = tmp_path / "s", ["--checkpoint-every", "100000", "--workers", "2"]
    axis = ["--beta-z2", "1", "--axis", "dim_z2", "2", "3", "4"]
    command = [sys.executable, "-m", "pyro_hvae", "sweep", "TDVAE20", *PROCESS, *rare, *axis, "--patches",
               str(tmp_path / "made.nc"), "--steps", "100000", "--compile", "false", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(out.glob("*/heldout.nc"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=100)
    assert process.returncode == 130 and "go on with the same command" in errors, (printed, errors)
    assert "Traceback" not in errors, errors
    assert gone(process.pid), "workers are still there"
    runs = [out / f"dim_z2={dim}" for dim in (2, 3, 4)]
    assert [member.status(run) for run in runs] == [member.UNFINISHED, member.UNFINISHED, member.WAITING]
    assert xr.load_dataset(out / "sweep.nc")["status"].values.tolist() == [member.status(run) for run in runs]
    for dim, run in zip((2, 3), runs[:2], strict=True):
        reached = RunDirectory.open(run).latest().step
        assert 1 <= reached < 100_000
        settings = {"steps": reached + 3, "dim_z2": dim, "beta_z2": 1, **dict.fromkeys(EVERY, 20)}
        shorter = TINY | settings | {"checkpoint_every": 100_000, "compile": False}
        assert member.carry_out(shorter, str(out / "patches.nc"), str(run), 0, "cpu", 1) == member.FINISHED
        assert RunDirectory.open(run).latest().step == reached + 3


def test_a_stop_that_comes_while_a_run_is_set_up_is_heeded(tmp_path, monkeypatch):
    small_data().save(tmp_path / "made.nc")
    load = PatchData.load

    def load_and_stop(path):
        member.stop("ours")
        return load(path)

    monkeypatch.setattr(PatchData, "load", load_and_stop)
    run = tmp_path / "seed=0"
    assert member.carry_out(TINY, str(tmp_path / "made.nc"), str(run), 0, "cpu", 1, "ours") == member.UNFINISHED
    assert RunDirectory.open(run).latest().step == 1


SCRIPT = """
import pyro_hvae as hvae
from pyro_hvae.sweeps import run

def start():
    return hvae.sweep({settings!r}, {{"seed": [0, 1]}}, {data!r}, out={out!r}, workers=1, device="cpu", progress=False)

{last}
"""


@pytest.mark.parametrize("last", ["start()", *(pytest.param(last, marks=pytest.mark.slow) for last in (
    "for again in range(1):\n    print(start())", "if True:\n    start()"))])  # fmt: skip
def test_a_script_without_a_main_guard_is_told_in_a_line(tmp_path, last):
    small_data().save(tmp_path / "made.nc")
    script, out = tmp_path / "script.py", tmp_path / "s"
    script.write_text(SCRIPT.format(settings=TINY, data=str(tmp_path / "made.nc"), out=str(out), last=last))
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    told = [line for line in result.stderr.splitlines() if "__main__" in line]
    assert result.returncode == 1 and len(result.stderr.splitlines()) < 20, result.stderr
    assert len(told) == 1 and f"{script}, line " in told[0] and "put the call below that line" in told[0]
    assert not out.exists()


@pytest.mark.slow
def test_a_script_with_a_main_guard_sweeps(tmp_path):
    small_data().save(tmp_path / "made.nc")
    script, out = tmp_path / "script.py", tmp_path / "s"
    last = "if __name__ == '__main__':\n    print(start()['status'].values.tolist())"
    script.write_text(SCRIPT.format(settings=TINY, data=str(tmp_path / "made.nc"), out=str(out), last=last))
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert result.stdout.strip() == "['finished', 'finished']", result.stderr


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"exported": "x"}', '{"exported": 0, "step": null}'])
def test_damaged_results_of_a_run_are_named(swept, content, tmp_path):
    import shutil

    out = shutil.copytree(swept[0], tmp_path / "s")
    file = out / "dim_z2=2,seed=0" / "summary.json"
    file.write_text(content)
    with pytest.raises(HVAEError, match=r"summary.json is damaged .*delete it, and the run is measured again"):
        hvae.sweep(TINY, AXES, small_data(), out=out, export=40, **SMALL)


def test_the_command_from_design_to_dataset(tmp_path, capsys):
    small_data().save(tmp_path / "made.nc")
    out = tmp_path / "s"
    command = ["sweep", *PROCESS, "--axis", "preset", "LinearVAE20", "TDVAE20", "--patches", str(tmp_path / "made.nc"),
               "--export", "30", "--out", str(out), "--steps"]  # fmt: skip
    assert main([*command, "8"]) == 0
    printed = capsys.readouterr().out
    assert "preset=TDVAE20: held-out ELBO" in printed and "2 of 2 runs finished" in printed
    assert "next: pyro-hvae analyse" in printed and len(list(out.glob("*/posterior.nc"))) == 2
    results = xr.load_dataset(out / "sweep.nc")
    assert np.isnan(results["active_z2"].sel(preset="LinearVAE20")) and np.isfinite(results["active_z1"]).all()
    assert main([*command, "9"]) == 2
    assert "settings.steps: 9 given, 8 in the directory" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["gone", "closed", "running"])
def test_a_client_closed_under_a_run_leaves_no_scheduler_behind(monkeypatch, closed):
    """In a cluster of threads the run's task outlives its client; every later write of this process failed then."""
    import dask

    def default_client():
        if closed == "gone":
            raise ValueError("no clients found")
        return SimpleNamespace(status=closed)

    monkeypatch.setattr("distributed.default_client", default_client)
    with dask.config.set(scheduler="dask.distributed"):  # as a client sets it
        with member._without_scheduler():
            assert dask.config.get("scheduler") == "synchronous"
        assert dask.config.get("scheduler", None) == ("dask.distributed" if closed == "running" else None)
