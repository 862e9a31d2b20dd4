"""The precision of a pair belongs to its run: loaded, resumed and exported in it."""

import numpy as np
import pytest
import torch
import xarray as xr
from small import SIZE, small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError
from pyro_hvae.training.fit import fit, resume
from pyro_hvae.training.run_directory import RunDirectory, load

QUICK = dict(batch=20, device="cpu", progress=False, checkpoint_every=5, learning_rate=1e-2)


def double():
    return hvae.build("TDVAE20", pixels=SIZE**2, dim_z1=6, dim_z2=3, seed=0).double()


def dtypes(vae):
    return {p.dtype for p in (*vae.parameters(), *vae.buffers()) if p.is_floating_point()}


def test_a_run_in_double_precision_is_loaded_and_goes_on_in_it(tmp_path):
    whole = fit(double(), small_data(), steps=12, **QUICK).vae
    fit(double(), small_data(), steps=5, **QUICK, out=tmp_path / "run")
    for vae in (load(tmp_path / "run"), load(next((tmp_path / "run" / "checkpoints").iterdir())),
                load(tmp_path / "run", vae=double().float())):  # fmt: skip
        assert dtypes(vae) == {torch.float64}
    fit(double(), small_data(), steps=12, **QUICK, out=tmp_path / "run", resume=True)
    for name, value in load(tmp_path / "run").state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_the_record_suffices_to_resume_it(tmp_path, monkeypatch):
    whole = fit(double(), small_data(), steps=12, **QUICK).vae
    fit(double(), small_data(), steps=5, **QUICK, out=tmp_path / "run")
    monkeypatch.setattr("pyro_hvae.training.fit.recorded_data", lambda *args: small_data())
    resume(tmp_path / "run", steps=12, device="cpu", progress=False)
    for name, value in load(tmp_path / "run").state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_a_pair_of_another_precision_does_not_go_on_with_a_run(tmp_path):
    fit(double(), small_data(), steps=5, **QUICK, out=tmp_path / "run")
    with pytest.raises(HVAEError, match=r"vae.dtype: None given, 'float64' in the run"):
        fit(double().float(), small_data(), steps=12, **QUICK, out=tmp_path / "run", resume=True)
    fit(double().float(), small_data(), steps=5, **QUICK, out=tmp_path / "single")
    with pytest.raises(HVAEError, match=r"vae.dtype: 'float64' given, None in the run"):
        fit(double(), small_data(), steps=12, **QUICK, out=tmp_path / "single", resume=True)
    assert dtypes(load(tmp_path / "single")) == {torch.float32}
    assert "dtype" not in RunDirectory.open(tmp_path / "single").config["vae"]  # as runs of before


def test_what_an_export_stores_and_in_what_it_was_computed(tmp_path, capsys):
    fit(double(), small_data(), steps=5, **QUICK, out=tmp_path / "run")
    x = small_data().test["x"].values[:4]
    for vae, name in ((load(tmp_path / "run"), "float64"), (small_pair(), "float32")):
        tree = hvae.export_posterior(vae, x, moment_draws=2)
        assert (tree.attrs["computed_in"], tree.attrs["stored_in"]) == (name, "float32")
        assert tree["posterior_moments"]["z1_mean"].dtype == np.float32
        assert str(tree["constant_data"]["A"].dtype) == name
    out = tmp_path / "e.nc"
    assert (
        main(
            [
                "evidence",
                str(tmp_path / "run"),
                "--limit",
                "3",
                "--particles",
                "9",
                "--device",
                "cpu",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert xr.load_dataset(out)["elbo"].dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pairs_are_refused(dtype):
    pair = small_pair().to(dtype)
    with pytest.raises(HVAEError, match=r"parameters of .*float16.*precision='bfloat16'"):
        fit(pair, small_data(), steps=5, **QUICK)
    with pytest.raises(HVAEError, match="parameters of .*float16"):
        hvae.export_posterior(pair, np.zeros((2, 16), np.float32), moment_draws=2)
