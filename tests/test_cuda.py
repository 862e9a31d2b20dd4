"""On a CUDA device everything gives what it gives on a CPU: training, densities, samplers, posterior files.

``make test-gpu``. Random numbers differ between the two, so what is drawn is compared in Monte Carlo standard errors, and
what is not drawn to float32 rounding.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from small import DIMS, SIZE, small_data, small_linear, small_pair

import pyro_hvae as hvae
from pyro_hvae.export.audit import audit
from pyro_hvae.export.gap import gap
from pyro_hvae.export.refinement import elbo, refine
from pyro_hvae.programs import SkipModel
from pyro_hvae.sampling.evidence import evidence_ais, evidence_importance_sampling
from pyro_hvae.sampling.linear_gaussian import linear_gaussian_posterior
from pyro_hvae.sampling.log_joint import Joint
from pyro_hvae.sampling.reference import gibbs, nuts
from pyro_hvae.training.ensemble import fit_ensemble

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("PYRO_HVAE_TEST_DEVICE", "cuda")  # "cpu" tries the tests themselves where there is no GPU

QUICK = dict(batch=20, learning_rate=1e-3, log_every=10, evaluate_every=30, checkpoint_every=20, progress=False)
SYSTEMS = {
    "top_down": lambda: small_pair(),
    "bottom_up": lambda: small_pair("bottom_up"),
    "mean_field": lambda: small_pair("mean_field"),
    "ladder": lambda: small_pair().with_guide("ladder", hidden_x=((8,), (5,))),
    "skip": lambda: hvae.HVAE(
        SkipModel(pixels=SIZE**2, dims=DIMS, hidden=((7,),), skip_hidden=(6,)), small_pair().guide
    ),
    "linear": lambda: small_linear(family="laplace"),
}


def pair(name: str, device: str = DEVICE) -> hvae.HVAE:
    torch.manual_seed(0)
    return SYSTEMS[name]().to(device)


def images(device: str = DEVICE, count: int = 20) -> torch.Tensor:
    return torch.from_numpy(small_data().test["x"].values[:count]).to(device)


def agree(a, b, se, sigmas: float = 5) -> None:
    """Two estimates with their standard errors; one entry in a thousand may be further off than three of them."""
    z = (np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) / np.maximum(np.asarray(se, dtype=float), 1e-6)
    assert np.abs(z).max() < sigmas, np.abs(z).max()


@pytest.mark.parametrize(
    "objective", [hvae.ELBO(), hvae.ImportanceWeightedELBO(3, gradient="dreg")], ids=["elbo", "dreg"]
)
@pytest.mark.parametrize("name", [*SYSTEMS])
def test_a_graph_replayed_trains_as_the_eager_step(name, objective):
    """The update included, and without the warning that a capture failed."""
    ours, eager = pair(name), pair(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="training goes on without")
        one = hvae.fit(ours, small_data(), objective=objective, steps=60, compile=True, device=DEVICE, **QUICK).history
    other = hvae.fit(eager, small_data(), objective=objective, steps=60, compile=False, device=DEVICE, **QUICK).history
    assert one.attrs["compile_seconds"] > 0
    np.testing.assert_allclose(one.bound, other.bound, rtol=1e-3)
    for (key, p), q in zip(eager.named_parameters(), ours.parameters(), strict=True):
        assert p.device.type == DEVICE and (q - p).norm() <= 0.05 * p.norm() + 1e-3, key


@pytest.mark.parametrize("name", ["top_down", "ladder"])
def test_z1_in_closed_form_trains_on_both_devices_to_the_same_bound(name):
    closed = hvae.ELBO(gradient="rao_blackwell")
    runs = {
        device: hvae.fit(
            pair(name, device), small_data(2000, 500), objective=closed, steps=400, device=device, compile=True,
            **QUICK | dict(evaluate_every=400, batch=100),
        ).history for device in {"cpu", DEVICE}
    }  # fmt: skip
    assert abs(runs[DEVICE].test_elbo[-1] - runs["cpu"].test_elbo[-1]) < 0.3
    assert runs[DEVICE].elbo[-5:].mean() > runs[DEVICE].elbo[0] + 1, "and it learns"


def test_a_run_goes_on_where_it_stopped(tmp_path):
    whole = hvae.fit(pair("ladder"), small_data(), steps=60, device=DEVICE, compile=False, **QUICK)
    out = dict(out=tmp_path / "run", device=DEVICE, compile=False, **QUICK)
    hvae.fit(pair("ladder"), small_data(), steps=40, **out)
    resumed = hvae.fit(pair("ladder"), small_data(), steps=60, resume=True, **out)
    np.testing.assert_allclose(resumed.history.bound, whole.history.bound, rtol=1e-4)
    loaded = hvae.load(tmp_path / "run")
    for p, q in zip(loaded.parameters(), resumed.vae.parameters(), strict=True):
        assert torch.equal(p, q.cpu())


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_coarser_products_change_the_bound_little(precision):
    options = QUICK | dict(steps=60, device=DEVICE, compile=True)
    fine = hvae.fit(pair("top_down"), small_data(), **options).history
    coarse = hvae.fit(pair("top_down"), small_data(), precision=precision, **options).history
    np.testing.assert_allclose(coarse.bound, fine.bound, rtol=0.05)
    assert not np.array_equal(coarse.bound, fine.bound)


def test_an_ensemble_ends_as_its_members_alone():
    data = hvae.stimuli.natural_patches(size=20, train=2000, test=200)
    options = dict(steps=30, batch=50, device=DEVICE, log_every=10, evaluate_every=30, progress=False)
    ensemble = fit_ensemble("TDVAE20", data, seeds=[0, 1], start="linear_regime", **options)
    for seed, member in enumerate(ensemble.members):
        vae = hvae.build("TDVAE20", seed=seed, start="linear_regime")
        alone = hvae.fit(vae, data, seed=seed, compile=True, **options)
        np.testing.assert_allclose(member.run.history.bound, alone.history.bound, rtol=2e-3)


@pytest.mark.parametrize("name", [*SYSTEMS])
def test_densities_are_those_of_the_cpu(name):
    ours, theirs = pair(name).double(), pair(name, "cpu").double()
    x = images("cpu").double()
    u = Joint(theirs.model, x, 3).prior()
    for a, b in zip(Joint(ours.model, x.to(DEVICE), 3)(u.to(DEVICE)), Joint(theirs.model, x, 3)(u), strict=True):
        torch.testing.assert_close(a.cpu(), b)


@pytest.mark.parametrize("name", [*SYSTEMS])
def test_posterior_files_say_the_same(name, tmp_path):
    files = {
        device: hvae.export_posterior(
            pair(name, device), small_data().test, moment_draws=1000, draws=20, units=[0, 2, 4], evidence=2000,
            path=tmp_path / f"{device}.nc", seed=int(device == "cpu"),
        ) for device in {"cpu", DEVICE}
    }  # fmt: skip
    cpu, cuda = files["cpu"], files[DEVICE]
    se = np.sqrt(2 * cpu["posterior_moments"]["z1_variance"].values / 1000)
    agree(cuda["posterior_moments"]["z1_mean"], cpu["posterior_moments"]["z1_mean"], se)
    if name == "ladder":  # the others are too far from the posterior for their weights to be compared
        agree(
            cuda["evidence"]["log_evidence"], cpu["evidence"]["log_evidence"],
            np.hypot(cuda["evidence"]["standard_error"], cpu["evidence"]["standard_error"]),
        )  # fmt: skip
    np.testing.assert_allclose(
        cuda["posterior_moments"]["z1_variance"], cpu["posterior_moments"]["z1_variance"], rtol=0.3
    )


def test_samplers_find_the_exact_posterior():
    vae = small_linear().to(DEVICE)
    x = images(count=5)
    exact = linear_gaussian_posterior(vae.model, x)
    mean, sd = (t.cpu().numpy() for t in (exact.mean, exact.covariance.diagonal(dim1=-2, dim2=-1).sqrt()))
    for sampler, count in ((gibbs, 400), (nuts, 60)):  # NUTS takes one small step after another: slow on any GPU
        options = dict(num_samples=count, warmup=count // 2, chains=4 if sampler is gibbs else 1, seed=0)
        draws = sampler(vae.model, x[:2] if sampler is nuts else x, **options)["posterior"]["z1"].values
        agree(draws.mean((0, 1)), mean[: draws.shape[2]], sd / np.sqrt(count / 2), sigmas=5)


def test_evidence_by_two_ways_agrees():
    vae, x = pair("ladder"), images(count=5)
    one = evidence_importance_sampling(vae, x, 20_000, seed=0)
    other = evidence_ais(vae.model, x, num_temperatures=200, num_chains=64, seed=0)
    error = np.hypot(one["standard_error"], other["standard_error"])
    agree(one["log_evidence"], other["log_evidence"], np.maximum(error, 0.02))


def test_refined_gap_and_audit_run_on_the_device():
    vae, x = pair("ladder"), images(count=8)
    refined = refine(vae, x, 100, seed=0)
    better, worse = elbo(refined, x, 500, 0)[0].mean(), elbo(vae, x, 500, 0)[0].mean()
    assert better > worse - 0.02
    parts = gap(vae, x, steps=50, draws=500)
    assert np.isfinite(parts.to_array().values).all()
    tree = audit(
        vae, x[:3], units=[0, 1], moment_draws=200, resample=20, draws=50, num_samples=100, warmup=50, chains=2
    )
    assert tree.groups


def test_starts_and_recipes_end_on_the_device_above_where_they_began():
    data = hvae.stimuli.natural_patches(size=8, train=5000, test=500)
    vae = hvae.build("TDVAE20", guide="ladder", pixels=64, dim_z1=50, dim_z2=5, recipe="fast", data=data, seed=0)
    run = hvae.fit(vae, data, steps=300, device=DEVICE, log_every=50, evaluate_every=100, progress=False)
    assert run.history.test_elbo[-1] > run.history.test_elbo[0] and next(vae.parameters()).device.type == DEVICE
