import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import affine_model, log_joint, softplus_model
from oracles import simulate as ancestral

from pyro_hvae.errors import HVAEError
from pyro_hvae.sampling.log_joint import Joint, simulate


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize(
    "model", [softplus_model((3, 2)), softplus_model((2,)), softplus_model((2, 2, 1), skip=True), affine_model((2, 1))]
)
def test_density_is_the_joint_times_the_jacobian(model, chains):
    z, x = ancestral(model, 4)
    joint = Joint(model, x, chains)
    u = joint.whiten(z)
    assert u.shape == (chains, 4, sum(model.dims)) and joint.dim == sum(model.dims)
    log_prior, log_likelihood = joint(u)
    together = torch.cat([z[site] for site in model.sites], -1)
    expected = torch.stack([log_joint(model, image)(row) for image, row in zip(x, together, strict=True)])
    scales = [c(z[f"z{l + 1}"]).base_dist.scale.log().sum(-1) for l, c in enumerate(model.conditionals, start=1)]
    expected = expected + sum(scales)
    np.testing.assert_allclose(log_prior + log_likelihood, expected.expand(chains, -1), rtol=1e-10)
    mean = model.image_mean({l: z[f"z{l}"] for l in range(1, model.layers + 1)})
    np.testing.assert_allclose(log_likelihood[0], dist.Normal(mean, model.sigma).log_prob(x).sum(-1), rtol=1e-10)


def test_a_hierarchy_of_normals_is_standard_normal_in_u():
    model = affine_model((3, 2))
    _, x = ancestral(model, 2)
    joint = Joint(model, x, 5)
    torch.manual_seed(0)
    u = joint.prior()
    np.testing.assert_allclose(joint(u)[0], dist.Normal(0, 1).log_prob(u).sum(-1), rtol=1e-10)


def unit_interval(x):
    with pyro.plate("image", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Beta(2.0, 3.0))
        pyro.sample("x", dist.Bernoulli(rate.unsqueeze(-1).expand(*rate.shape, x.shape[-1])).to_event(1), obs=x)


def test_bounded_support_integrates_to_one():
    x = torch.ones(1, 2, dtype=torch.float64)
    joint = Joint(unit_interval, x, 4001)
    u = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    density = joint(u.reshape(-1, 1, 1))[0].exp()
    assert torch.trapezoid(density[:, 0], u).item() == pytest.approx(1, abs=1e-6)


def test_simulated_images_are_those_of_the_latents():
    model = affine_model((3, 2), noise=1e-6)
    z, x = simulate(model, 7, torch.zeros(1, 5, dtype=torch.float64))
    assert set(z) == {"z1", "z2"} and x.shape == (7, 5)
    np.testing.assert_allclose(x, model.to_image(z["z1"]), atol=1e-4)
    assert x.std() > 0.1


def outside(x):
    z = pyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    with pyro.plate("image", len(x), dim=-1):
        pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)


def discrete(x):
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(2)).to_event(1), obs=x)


def unobserved(x):
    with pyro.plate("image", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0, torch.ones(2)).to_event(1))


def certain(x):
    with pyro.plate("image", len(x), dim=-1):
        pyro.sample("x", dist.Normal(0, torch.ones(2)).to_event(1), obs=x)


def normal(x):
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0, torch.ones(2)).to_event(1))
        pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (outside, r"site z has batch shape \(3, 1\), expected \(3, 4\)"),
        (discrete, r"site z is discrete \(Bernoulli\)"),
        (unobserved, "observes nothing"),
        (certain, "no latent site"),
        (pyro.poutine.scale(normal, scale=2.0), "site z has a scale of 2"),
    ],
)
def test_errors(model, reason):
    with pytest.raises(HVAEError, match=reason):
        Joint(model, torch.zeros(4, 2), 3)


def test_simulation_refuses_a_model_of_something_else():
    with pytest.raises(HVAEError, match="this one observes nothing"):
        simulate(unobserved, 3, torch.zeros(1, 2))
