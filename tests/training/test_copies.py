"""Everything a user holds can be copied, pickled and sent to another process."""

import copy
import io
import multiprocessing
import pickle

import joblib
import numpy as np
import pytest
import torch
from pyro import infer, optim, poutine
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.stimuli import natural_patches
from pyro_hvae.training.fit import fit

X = torch.from_numpy(small_data().test["x"].values[:4])


def by_torch(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def by_joblib(value):
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


WAYS = {"pickle": lambda value: pickle.loads(pickle.dumps(value)), "deepcopy": copy.deepcopy, "torch": by_torch,
        "joblib": by_joblib}  # fmt: skip


def value_of(vae):
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return hvae.ELBO().evaluate(vae.model, vae.guide, X).bound


def used(how):
    vae = small_pair()
    if how == "trained":
        fit(vae, small_data(), steps=2, batch=20, device="cpu", progress=False)
    elif how == "exported":
        hvae.export_posterior(vae, X, moment_draws=2)
    elif how == "by SVI":
        infer.SVI(vae.model, vae.guide, optim.Adam({"lr": 1e-3}), hvae.ELBO()).step(X)
    elif how == "run under a handler":
        poutine.trace(vae.model).get_trace(X)
    return vae


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["new", "trained", "exported", "by SVI", "run under a handler"])
def test_a_pair_whatever_was_done_with_it(way, how):
    vae = used(how)
    other = WAYS[way](vae)
    assert torch.equal(value_of(other), value_of(vae))
    first, second = next(vae.parameters()), next(other.parameters())
    assert first.data_ptr() != second.data_ptr()
    infer.SVI(other.model, other.guide, optim.Adam({"lr": 1e-3}), hvae.ELBO()).step(X)
    assert not torch.equal(value_of(other), value_of(vae)), "the copy is trained, and the original is not"


@pytest.mark.parametrize("way", WAYS)
def test_runs_objectives_schedules_patches_and_transforms(way):
    transfer = WAYS[way]
    run = fit(small_pair(), small_data(), steps=2, batch=20, device="cpu", progress=False)
    other = transfer(run)
    assert other.history.identical(run.history) and torch.equal(value_of(other.vae), value_of(run.vae))
    bound = hvae.RenyiELBO(0.5, 3, beta={"z2": 0.1})
    bound.evaluate(run.vae.model, run.vae.guide, X)
    assert repr(transfer(bound)) == repr(bound) and transfer(bound).beta == bound.beta
    schedule = hvae.Schedule(((0, 0.1), (10, 1)))
    assert transfer(schedule) == schedule
    data = small_data()
    assert transfer(data).train.identical(data.train)


def test_a_transform():
    data = natural_patches(4, train=300, test=10)
    for transfer in WAYS.values():
        other = transfer(data)
        np.testing.assert_array_equal(other.transform(data.test["x"].values), data.transform(data.test["x"].values))


def test_a_pair_goes_to_another_process():
    vae = used("trained")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(value_of, (vae,)), value_of(vae))
