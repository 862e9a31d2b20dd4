import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import affine_model, joint_gaussian, quadrature_posteriors, rank_test, simulate, softplus_model, z_scores
from scipy import stats

from pyro_hvae.errors import HVAEError
from pyro_hvae.sampling import gibbs as module
from pyro_hvae.sampling.convergence import convergence
from pyro_hvae.sampling.gibbs import LinearGaussianDraw, gibbs, mixing_variance


def concatenated(model, tree):
    return np.concatenate([tree["posterior"][site].values for site in model.sites], -1)


LAPLACE = {
    "one layer, one dim": dict(dims=(1,)),
    "one layer, two dims": dict(dims=(2,)),
    "two layers": dict(dims=(1, 1)),
    "skip": dict(dims=(1, 1), skip=True),
}


@pytest.mark.parametrize("options", LAPLACE.values(), ids=LAPLACE)
def test_agrees_with_quadrature(options):
    model = softplus_model(**options)
    _, x = simulate(model, 3)
    exact = quadrature_posteriors(model, x)
    draws = concatenated(model, gibbs(model, x, num_samples=250, warmup=60, chains=16, leapfrog_steps=3, seed=1))
    mean, variance = z_scores(
        draws, np.stack([e.mean for e in exact]), np.stack([np.diag(e.covariance) for e in exact])
    )
    assert np.abs(mean).max() < 4 and np.abs(variance).max() < 4
    if draws.shape[-1] == 2:
        ours = np.stack([np.cov(draws[:, :, i].reshape(-1, 2).T) for i in range(len(x))])
        correlation = ours[:, 0, 1] / np.sqrt(ours[:, 0, 0] * ours[:, 1, 1])
        truth = np.array([e.covariance[0, 1] / np.sqrt(np.prod(np.diag(e.covariance))) for e in exact])
        np.testing.assert_allclose(correlation, truth, atol=4 / np.sqrt(500))


GAUSSIAN = {
    "one layer": dict(dims=(3,)),
    "two layers": dict(dims=(4, 2)),
    "three layers": dict(dims=(3, 2, 2)),
    "overcomplete skip": dict(dims=(6, 2), pixels=4, skip=True),
}


@pytest.mark.parametrize("options", GAUSSIAN.values(), ids=GAUSSIAN)
def test_agrees_with_the_exact_gaussian_posterior(options):
    model = affine_model(**options, seed=2)
    _, x = simulate(model, 3)
    mean, covariance = joint_gaussian(model).posterior(x.numpy())
    tree = gibbs(model, x, num_samples=250, warmup=100, chains=16, leapfrog_steps=3, seed=3)
    draws = concatenated(model, tree)
    z = z_scores(draws, mean, np.broadcast_to(np.diag(covariance), mean.shape))
    assert np.abs(z[0]).max() < 4 and np.abs(z[1]).max() < 4
    if model.layers > 1:
        rate = tree["sample_stats"].acceptance_rate
        assert rate.dims == ("move", "image") and (abs(rate - 0.8) < 0.12).all()


def calibration_p_values(seed=0):
    """SBC of every coordinate of z1 and z2 and of the log likelihood: 1600 simulations, 16 rank bins of 100 each."""
    model = softplus_model((2, 1), pixels=2, noise=1.0, seed=4)
    z, x = simulate(model, 1600, seed=5)
    tree = gibbs(model, x, num_samples=15, warmup=100, chains=1, thin=8, leapfrog_steps=4, seed=seed)
    truth = {site: value.numpy() for site, value in z.items()}
    draws = {site: tree["posterior"][site].values[0] for site in z}
    named = {f"{s}[{i}]": (truth[s][:, i], draws[s][..., i]) for s in z for i in range(truth[s].shape[-1])}

    def log_likelihood(z1):
        return -0.5 * ((x - model.to_image(torch.as_tensor(z1))) / model.sigma).square().sum(-1).numpy()

    named["log likelihood"] = log_likelihood(truth["z1"]), log_likelihood(draws["z1"])
    return {name: rank_test(*pair) for name, pair in named.items()}


def test_simulation_based_calibration():
    p = calibration_p_values()
    assert len(p) == 4 and min(p.values()) > 0.01 / len(p), p


def test_calibration_sees_a_wrong_mixing_variance(monkeypatch):
    monkeypatch.setattr(module, "mixing_variance", lambda a: 1.5 * mixing_variance(a))
    assert min(calibration_p_values().values()) < 1e-4


def test_calibration_sees_a_wrong_prior_of_z2(monkeypatch):
    right = module._Sweep.log_upper
    monkeypatch.setattr(module._Sweep, "log_upper", lambda self, upper: 0.5 * right(self, upper))
    assert min(calibration_p_values().values()) < 1e-4


def test_calibration_sees_a_missing_rejection(monkeypatch):
    def always_accepts(log_density, u, step_size, steps):
        return u + step_size[:, None] * torch.randn_like(u), torch.ones_like(u[..., 0])

    monkeypatch.setattr(module, "hmc", always_accepts)
    assert min(calibration_p_values().values()) < 1e-4


def test_chains_find_each_other_in_a_larger_model():
    model = softplus_model((12, 2), pixels=8, hidden=5, spread=0.5, seed=7)
    _, x = simulate(model, 2)
    found = convergence(gibbs(model, x, num_samples=200, warmup=100, chains=4, leapfrog_steps=6, seed=0))
    assert found.r_hat.max() < 1.03 and found.ess.min() > 100


@pytest.mark.parametrize("a", [1e-6, 0.05, 1.0, 30.0])
def test_mixing_variance_is_the_reciprocal_inverse_gaussian(a):
    torch.manual_seed(0)
    t = mixing_variance(torch.full((20_000,), a)).double().numpy()
    assert (t > 0).all()
    # 1/t ~ InverseGaussian(mean 1/a, shape 1); scipy's invgauss(mu, scale) has mean mu * scale and shape scale
    assert stats.kstest(1 / t, stats.invgauss(mu=1 / a, scale=1).cdf).pvalue > 0.01


def test_mixing_normals_gives_a_laplace():
    """A Gibbs chain on z alone, z | t and t | z, must leave Laplace(0, 1) as it is."""
    torch.manual_seed(0)
    z = torch.distributions.Laplace(0.0, 1.0).sample((20_000,))
    for _ in range(5):
        z = mixing_variance(z.abs()).sqrt() * torch.randn_like(z)
    assert stats.kstest(z.numpy(), stats.laplace.cdf).pvalue > 0.01


def moments_of_draw(form, A, sigma, r, s):
    draw = LinearGaussianDraw.of(A, sigma)
    n = 40_000
    return getattr(draw, form)((r / sigma).expand(n, -1), s.expand(n, -1)).double()


@pytest.mark.parametrize("form", ["by_dims", "by_pixels"])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_algebraic_forms_draw_from_the_conditional(form, shape, dtype):
    torch.manual_seed(1)
    A, r, sigma = torch.randn(shape, dtype=dtype), torch.randn(shape[0], dtype=dtype), torch.tensor(0.4, dtype=dtype)
    s = torch.logspace(-5, 1.5, shape[1], dtype=dtype)
    draws = moments_of_draw(form, A, sigma, r, s)
    A, r, s, sigma = A.double(), r.double(), s.double(), sigma.double()
    covariance = torch.linalg.inv(A.T @ A / sigma**2 + torch.diag(s**-2))
    mean = covariance @ A.T @ r / sigma**2
    se = covariance.diagonal().sqrt() / len(draws) ** 0.5
    assert ((draws.mean(0) - mean).abs() < 4.5 * se).all()
    scale = covariance.diagonal().sqrt()
    np.testing.assert_allclose(
        (draws.T.cov() / scale[:, None] / scale),
        covariance / scale[:, None] / scale,
        atol=4.5 * 2**0.5 / len(draws) ** 0.5,
    )


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 30), p=st.integers(1, 30), lead=st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_draw_has_the_shape_of_the_scales(n, p, lead):
    draw = LinearGaussianDraw.of(torch.randn(n, p), torch.tensor(0.5))
    value = draw.draw(torch.randn(*lead, n), torch.rand(*lead, p))
    assert value.shape == (*lead, p) and value.isfinite().all()


def test_scratch_memory_does_not_change_the_answer(monkeypatch):
    draw = LinearGaussianDraw.of(torch.eye(3), torch.tensor(1e-6))
    r, s = torch.randn(5, 4, 3), torch.ones(5, 4, 3)
    monkeypatch.setattr(module, "SCRATCH_BYTES", 1)
    np.testing.assert_allclose(draw.draw(r, s), r, atol=1e-4)


def test_form_of_the_answer():
    model = softplus_model((2, 1))
    _, x = simulate(model, 3)
    tree = gibbs(model, x.float(), num_samples=4, warmup=2, chains=2, thin=2, seed=0)
    assert tree["posterior"].z1.shape == (2, 4, 3, 2) and tree["posterior"].z1.dims[-1] == "z1_dim"
    assert tree["posterior"].z2.dims == ("chain", "draw", "image", "z2_dim")
    assert tree["posterior"].attrs["sampler"] == "gibbs"
    again = gibbs(model, x.float(), num_samples=4, warmup=2, chains=2, thin=2, seed=0)
    np.testing.assert_array_equal(tree["posterior"].z1, again["posterior"].z1)


def test_errors():
    model = softplus_model((2, 1))
    with pytest.raises(HVAEError, match="linear-Gaussian in z1"):
        gibbs(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(HVAEError, match="num_samples must be"):
        gibbs(model, torch.zeros(1, 3), num_samples=0)
    with pytest.raises(HVAEError, match=r"\(image, pixel\)"):
        gibbs(model, torch.zeros(1, 4))
