"""The run directory on its own: which checkpoint is the newest."""

import pytest
import torch
import xarray as xr
from small import small_data, small_pair

from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.audit_file import audit_sites
from pyro_hvae.training.fit import fit
from pyro_hvae.training.run_directory import Checkpoint, RunDirectory


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
