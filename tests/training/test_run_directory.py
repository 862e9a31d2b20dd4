"""The run directory on its own: which checkpoint is the newest."""

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from small import small_data, small_pair

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import natural_patches
from pyro_hvae.storage.audit_file import audit_sites
from pyro_hvae.training.fit import fit
from pyro_hvae.training.run_directory import Checkpoint, RunDirectory, load
from pyro_hvae.training.training_loop import Loop


def test_checkpoints_are_ordered_by_step_whatever_the_number_of_digits(tmp_path):
    fit(small_pair(), small_data(), steps=2, batch=20, device="cpu", progress=False, out=tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run")
    for step in (99_999_000, 99_999_999, 100_000_000, 100_001_000, 1_000_000_000):
        directory.write_checkpoint(Checkpoint(step, {"vae.a": torch.zeros(1)}, ""))
        assert directory.latest().step == step
    assert [Checkpoint.read(path).step for path in directory.checkpoints()] == [100_001_000, 1_000_000_000]


def test_the_checkpoint_to_go_back_to_is_the_newest_other_one(tmp_path):
    fit(small_pair(), small_data(), steps=2, batch=20, device="cpu", progress=False, out=tmp_path / "run")
    directory = RunDirectory.open(tmp_path / "run")
    for step in (99_999_999, 100_000_000):
        directory.write_checkpoint(Checkpoint(step, {"vae.a": torch.zeros(1)}, ""))
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-100001000.safetensors").write_bytes(b"garbage")
    with pytest.raises(HVAEError, match=r"go on from step-100000000.safetensors"):
        directory.latest()


def test_layers_of_an_audit_are_ordered_by_number():
    names = {f"z{l}_mean": ("half", [0.0, 0.0]) for l in (10, 2, 1, 11)}
    tree = xr.DataTree.from_dict({"reference": xr.Dataset(names)})
    assert audit_sites(tree) == ["z1", "z2", "z10", "z11"]


def one_run(path, **options):
    return fit(small_pair(), small_data(), batch=20, device="cpu", progress=False, out=path, **{"steps": 4, **options})


def test_a_flipped_weight_is_found_and_the_checkpoint_to_go_back_to_named(tmp_path):
    one_run(tmp_path / "run", checkpoint_every=2)
    newest = RunDirectory.open(tmp_path / "run").checkpoints()[-1]
    content = bytearray(newest.read_bytes())
    content[-9] ^= 4  # a number; the header is at the start
    newest.write_bytes(content)
    with pytest.raises(HVAEError, match=r"other numbers .*; delete it to go on from step-00000002.safetensors"):
        load(tmp_path / "run")
    newest.unlink()
    assert load(tmp_path / "run").record["step"] == 2


def test_a_checkpoint_under_another_step_or_of_another_run_is_refused(tmp_path):
    one_run(tmp_path / "run", checkpoint_every=2)
    one_run(tmp_path / "other", learning_rate=0.5)
    folder = tmp_path / "run" / "checkpoints"
    older, newest = sorted(folder.iterdir())
    kept = newest.read_bytes()
    newest.write_bytes(older.read_bytes())
    with pytest.raises(HVAEError, match="is of step 2, not of the one in its name"):
        load(tmp_path / "run")
    newest.write_bytes((tmp_path / "other" / "checkpoints" / newest.name).read_bytes())
    with pytest.raises(HVAEError, match="of another configuration than config.json has"):
        load(tmp_path / "run")
    newest.write_bytes(kept)
    assert load(tmp_path / "run").record["step"] == 4


def test_a_transform_that_is_gone_is_missed(tmp_path):
    patches = natural_patches(4, np.random.default_rng(0).gamma(2, size=(3, 40, 40)), train=100, test=20)
    fit(small_pair(), patches, steps=1, batch=10, device="cpu", progress=False, out=tmp_path / "run")
    assert RunDirectory.open(tmp_path / "run").transform() is not None
    (tmp_path / "run" / "transform.nc").unlink()
    with pytest.raises(HVAEError, match=r"transform.nc: no such file"):
        RunDirectory.open(tmp_path / "run").transform()
    one_run(tmp_path / "preprocessed", steps=1)
    assert RunDirectory.open(tmp_path / "preprocessed").transform() is None


def test_one_process_trains_a_run_at_a_time(tmp_path):
    one_run(tmp_path / "run")
    script = (
        "import sys; from pyro_hvae.training.run_directory import RunDirectory; RunDirectory.open(sys.argv[1]).claim(); "
        "print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "1\n"
        before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(HVAEError, match="another process is training this run"):
                one_run(tmp_path / "run", steps=6, **options)
        assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
        other.kill()
    assert one_run(tmp_path / "run", steps=6, resume=True).step == 6  # the claim ended with the process
    assert one_run(tmp_path / "run", overwrite=True).step == 4  # and that of a run that is done, with it


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_costs_what_was_trained_since_the_checkpoint(tmp_path, monkeypatch, failure):
    whole = one_run(tmp_path / "whole", steps=9, checkpoint_every=3)
    real = os.replace

    def full(source, target):
        if str(target).endswith("step-00000006.safetensors"):
            raise OSError(failure, os.strerror(failure))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(HVAEError, match=r"step-00000006.safetensors could not be written"):
            one_run(tmp_path / "run", steps=9, checkpoint_every=3)
    resumed = one_run(tmp_path / "run", steps=9, checkpoint_every=3, resume=True)
    assert all(a.equal(b) for a, b in zip(resumed.vae.parameters(), whole.vae.parameters(), strict=True))
    assert resumed.history.drop_vars("seconds").identical(whole.history.drop_vars("seconds"))
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_folder_that_vanishes_is_an_error_that_names_it(tmp_path, monkeypatch):
    finish = Loop.finish_step

    def vanish(loop, bar):
        if loop.done == 2:
            shutil.rmtree(tmp_path / "run")
        finish(loop, bar)

    monkeypatch.setattr(Loop, "finish_step", vanish)
    with pytest.raises(HVAEError, match=r"there is no directory .*run"):
        one_run(tmp_path / "run", checkpoint_every=3)
    assert not (tmp_path / "run").exists()
