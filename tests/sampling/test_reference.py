import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import affine_model, joint_gaussian, simulate, softplus_model, z_scores

from pyro_hvae.errors import HVAEError
from pyro_hvae.sampling.reference import convergence, nuts, reference_posterior


@pytest.mark.slow
def test_nuts_and_gibbs_agree_on_a_two_layer_laplace_model():
    model = softplus_model((2, 1))
    _, x = simulate(model, 1)
    hmc = nuts(model, x, num_samples=60, warmup=40, chains=2, seed=0)
    gibbs = reference_posterior(model, x, num_samples=500, warmup=100, seed=1)
    assert gibbs["posterior"].attrs["sampler"] == "gibbs" and hmc["posterior"].attrs["sampler"] == "nuts"
    for site in model.sites:
        a, b = hmc["posterior"][site], gibbs["posterior"][site]
        center = b.mean(("chain", "draw"))
        for moment in (1, 2):
            s, t = (a - center) ** moment, (b - center) ** moment
            variance = [v.var(("chain", "draw")) / az.ess(v.to_dataset(name="v"), method="mean")["v"] for v in (s, t)]
            difference = s.mean(("chain", "draw")) - t.mean(("chain", "draw"))
            assert (abs(difference) < 4 * np.sqrt(sum(variance))).all(), (site, moment)


def test_exact_draws_where_the_model_is_gaussian():
    model = affine_model((3, 2))
    _, x = simulate(model, 2)
    tree = reference_posterior(model, x, num_samples=500, seed=0)
    assert tree["posterior"].attrs["sampler"] == "exact"
    mean, covariance = joint_gaussian(model).posterior(x.numpy())
    draws = np.concatenate([tree["posterior"][site].values for site in ("z1", "z2")], -1)
    scores = z_scores(draws, mean, np.broadcast_to(np.diag(covariance), mean.shape))
    assert max(np.abs(s).max() for s in scores) < 4
    found = convergence(tree)
    assert found.r_hat.max() < 1.02 and found.ess.min() > 1000


def beta_binomial(x):
    """A model of somebody else: a latent on the unit interval, conjugate, so that the posterior is known."""
    with pyro.plate("image", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Beta(2.0, 3.0))
        pyro.sample("x", dist.Bernoulli(rate.unsqueeze(-1).expand(*rate.shape, 4)).to_event(1), obs=x)


def test_nuts_takes_any_pyro_model():
    x = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    tree = reference_posterior(beta_binomial, x, num_samples=300, warmup=100, chains=2, seed=0)
    assert tree["posterior"].attrs["sampler"] == "nuts"
    draws = tree["posterior"]["rate"]
    assert draws.dims == ("chain", "draw", "image", "rate_dim") and tree["sample_stats"].divergences.shape == (2, 1)
    exact = torch.distributions.Beta(5.0, 4.0)
    scores = z_scores(draws.values, np.array([[exact.mean]]), np.array([[exact.variance]]))
    assert max(np.abs(s).max() for s in scores) < 4


def test_convergence_is_arviz_and_sees_a_chain_apart():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 200, 2, 3))
    draws[0, :, 1, 2] += 3
    model = affine_model((3,))
    tree = reference_posterior(model, torch.zeros(2, 5), num_samples=200, seed=0)
    tree["posterior"] = tree["posterior"].to_dataset().assign(z1=(tree["posterior"].z1.dims, draws))
    found = convergence(tree)
    assert found.r_hat[0] < 1.02 and found.r_hat[1] > 1.3
    assert found.z1_r_hat[1, 2] == az.rhat(draws[:, :, 1, 2]) == found.r_hat[1]
    assert found.z1_ess[1, 2] == az.ess(draws[:, :, 1, 2]) == found.ess[1]


def test_errors():
    model = affine_model((2,))
    x = torch.zeros(1, 5)
    with pytest.raises(HVAEError, match="did you mean 'gibbs'"):
        reference_posterior(model, x, method="gibs")
    with pytest.raises(HVAEError, match="z1 of this LinearModel is laplace"):
        reference_posterior(softplus_model((2,)), torch.zeros(1, 3), method="exact")
    with pytest.raises(HVAEError, match="chains=2"):
        convergence(reference_posterior(model, x, chains=1, num_samples=5))
    with pytest.raises(HVAEError, match="no continuous latent"):
        nuts(lambda x: pyro.sample("x", dist.Normal(0, 1).expand([1, 5]).to_event(2), obs=x), x, num_samples=2)
