import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import affine_model, joint_gaussian, log_joint, quadrature, simulate, softplus_model

from pyro_hvae.errors import HVAEError
from pyro_hvae.sampling.linear_gaussian import linear_gaussian_posterior

MODELS = {
    "one layer": dict(dims=(3,)),
    "overcomplete": dict(dims=(7,), pixels=4),
    "two layers": dict(dims=(4, 2)),
    "three layers": dict(dims=(4, 3, 2)),
    "skip": dict(dims=(4, 2), skip=True),
    "skip of three": dict(dims=(4, 3, 2), skip=True),
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_agrees_with_conditioning_the_joint(options):
    model = affine_model(**options, seed=3)
    _, x = simulate(model, 4)
    ours, exact = linear_gaussian_posterior(model, x), joint_gaussian(model)
    mean, covariance = exact.posterior(x.numpy())
    np.testing.assert_allclose(ours.log_evidence, exact.log_evidence(x.numpy()), rtol=1e-9)
    np.testing.assert_allclose(ours.mean, mean, atol=1e-9)
    np.testing.assert_allclose(ours.covariance, covariance, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    dims=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    pixels=st.integers(1, 6),
    noise=st.floats(0.05, 3),
    seed=st.integers(0, 99),
)
def test_any_shape(dims, pixels, noise, seed):
    model = affine_model(dims, pixels, noise=noise, seed=seed)
    _, x = simulate(model, 2, seed)
    ours, exact = linear_gaussian_posterior(model, x), joint_gaussian(model)
    mean, covariance = exact.posterior(x.numpy())
    np.testing.assert_allclose(ours.log_evidence, exact.log_evidence(x.numpy()), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.mean, mean, atol=1e-6)
    np.testing.assert_allclose(ours.covariance, covariance, atol=1e-6)


def test_the_two_oracles_agree():
    model = affine_model((1, 1), 2, seed=5)
    _, x = simulate(model, 1)
    grid, gaussian = quadrature(log_joint(model, x[0]), 2), joint_gaussian(model)
    mean, covariance = gaussian.posterior(x.numpy())
    assert grid.log_evidence == pytest.approx(float(gaussian.log_evidence(x.numpy())[0]), abs=1e-5)
    np.testing.assert_allclose(grid.mean, mean[0], atol=1e-5)
    np.testing.assert_allclose(grid.covariance, covariance, atol=1e-5)


def test_sites_and_samples():
    model = affine_model((3, 2), seed=1)
    _, x = simulate(model, 2)
    posterior = linear_gaussian_posterior(model, x)
    torch.manual_seed(0)
    draws = posterior.sample((20_000,))
    assert draws["z1"].shape == (20_000, 2, 3) and draws["z2"].shape == (20_000, 2, 2)
    for site in ("z1", "z2"):
        mean, covariance = posterior.moments(site)
        se = covariance.diagonal().sqrt() / 20_000**0.5
        assert ((draws[site].mean(0) - mean).abs() < 4.5 * se).all()
        np.testing.assert_allclose(
            np.cov(draws[site][:, 0].T.numpy()), covariance, rtol=0.1, atol=0.05 * covariance.max()
        )
    with pytest.raises(HVAEError, match="z1, z2"):
        posterior.moments("z3")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (affine_model((2, 1), families=("laplace", "normal")), "z1 of this MarkovModel is laplace"),
        (softplus_model((2,)), "z1 of this LinearModel is laplace"),
        (torch.nn.Linear(2, 2), "not for Linear"),
    ],
)
def test_refuses_other_families(model, reason):
    with pytest.raises(HVAEError, match=reason):
        linear_gaussian_posterior(model, torch.zeros(1, 5))


def test_refuses_what_is_not_affine():
    from pyro_hvae.programs import MarkovModel, SkipModel

    normal = ("normal", "normal")
    x = torch.zeros(1, 3)
    with pytest.raises(HVAEError, match=r"1 softplus layers.*hidden=\(\)"):
        linear_gaussian_posterior(MarkovModel(3, (2, 1), normal, ((4,),)), x)
    with pytest.raises(HVAEError, match=r"scale of p\(z1 \| z2\).*depends on z2"):
        linear_gaussian_posterior(MarkovModel(3, (2, 1), normal, ((),)), x)
    model = SkipModel(3, (2, 1), normal, ((),), skip_hidden=(4,))
    with torch.no_grad():
        model.conditionals[0][1].weight[2:] = 0
    with pytest.raises(HVAEError, match="skip path"):
        linear_gaussian_posterior(model, x)
