"""Scarce memory gives smaller chunks and the same answers; enough of it always the same chunks."""

import numpy as np
import pytest
import torch
from oracles import GaussianGuide, affine_model, joint_gaussian, simulate
from pyro import poutine
from small import small_data, small_linear, small_pair

import pyro_hvae.sampling.memory as module
from pyro_hvae.export import moments
from pyro_hvae.export.moments import Moments, Request
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.programs import HVAE
from pyro_hvae.sampling import evidence
from pyro_hvae.sampling.evidence import evidence_ais, evidence_importance_sampling
from pyro_hvae.sampling.memory import chunk_bytes, free_bytes

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def free(monkeypatch):
    def set_to(amount):
        monkeypatch.setattr(module, "free_bytes", lambda device: amount)

    return set_to


def test_the_budget_is_a_constant_where_there_is_a_gibibyte_and_a_quarter_where_not(free):
    for amount in (GIB, 5 * GIB, 1000 * GIB):
        free(amount)
        assert chunk_bytes(moments.MEMORY, CPU) == moments.MEMORY
        assert chunk_bytes(evidence.SCRATCH_BYTES, CPU) == evidence.SCRATCH_BYTES
    free(GIB // 2)
    assert chunk_bytes(moments.MEMORY, CPU) == GIB // 8


def test_free_memory_is_no_more_than_the_container_allows(tmp_path, monkeypatch):
    assert 2**20 < free_bytes(CPU) <= module.psutil.virtual_memory().total
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    unlimited = free_bytes(CPU)
    for limit, used, cached, expected in ((3000, 2500, 400, 900), (3000, 3500, 0, 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
        assert free_bytes(CPU) == expected
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == pytest.approx(unlimited, rel=0.5)


def test_free_memory_of_a_gpu_counts_what_pytorch_keeps_cached(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert free_bytes(torch.device("cuda")) == 1300


@pytest.mark.parametrize("resample", [1, 4])
@torch.no_grad()
def test_chunks_shrink_with_free_memory_and_are_never_empty(free, resample):
    request = Request(draws=6, resample=resample, moment_draws=6, units=(0, 1))
    vae, images = small_pair(), small_data().test
    sizes = []
    for amount in (4 * GIB, 2**20, 2**16, 1, 0):
        free(amount)
        made = Moments(vae, images, request, CPU)
        sizes.append((made.chunk, made.block))
        assert made.chunk >= 1 and made.block >= 1
        assert made.of(images.isel(image=slice(made.chunk)))["posterior_moments"].sizes["image"] == min(made.chunk, 60)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == (1000, 6) and sizes[-1] == (1, 1)


def test_moments_are_exact_however_little_memory_there_is(free):
    """Of a one-layer pair: those of q(z1|x), which no draw enters; and of the pixels within four standard errors."""
    vae, data = small_linear(), small_data(test=7)
    with torch.no_grad():
        q = poutine.trace(vae.guide).get_trace(torch.from_numpy(data.test["x"].values)).nodes["z1"]["fn"]
        mean, variance = q.mean, q.variance
        A, c = vae.model.A, vae.model.to_image.bias
    for amount in (GIB, 0):
        free(amount)
        tree = export_posterior(vae, data.test, moment_draws=400)
        np.testing.assert_allclose(tree["posterior_moments"]["z1_mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(tree["posterior_moments"]["z1_variance"], variance, rtol=1e-4)
        error = ((variance @ A.square().T) / 400).sqrt()
        off = (torch.from_numpy(tree["posterior_predictive"]["x_mean"].values) - (mean @ A.T + c)) / error
        assert off.abs().max() < 4.5 and 0.7 < off.std() < 1.3


def test_evidence_is_exact_however_little_memory_there_is(free):
    model = affine_model((3,), pixels=4, noise=0.7, seed=1)
    _, x = simulate(model, 3)
    exact = joint_gaussian(model).log_evidence(x.numpy())
    vae = HVAE(model, GaussianGuide(model))
    for amount in (GIB, 0):
        free(amount)
        found = evidence_importance_sampling(vae, x, 300, seed=0)
        np.testing.assert_allclose(found.log_evidence, exact, atol=1e-4)
    found = evidence_ais(model, x[:2], num_temperatures=60, num_chains=40, leapfrog_steps=3, seed=0)
    np.testing.assert_allclose(found.log_evidence, exact[:2], atol=0.3)
