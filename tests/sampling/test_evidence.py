import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import GaussianGuide, affine_model, joint_gaussian, quadrature_posteriors, simulate, softplus_model
from scipy import special

from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, MeanFieldGuide, TopDownGuide
from pyro_hvae.sampling import evidence as module
from pyro_hvae.sampling.ais import Annealing, sigmoid_schedule
from pyro_hvae.sampling.evidence import bdmc, evidence_ais, evidence_importance_sampling, row_bytes
from pyro_hvae.sampling.linear_gaussian import linear_gaussian_posterior
from pyro_hvae.sampling.log_joint import Joint

GAUSSIAN = [(3,), (4, 2), (3, 2, 2)]


@pytest.mark.parametrize("dims", GAUSSIAN)
def test_ais_and_bdmc_hold_the_exact_evidence_between_them(dims):
    """Each of the two within 0.1 nats, for every image."""
    model = affine_model(dims, pixels=4, noise=0.7, seed=1)
    found = bdmc(model, num_images=3, num_temperatures=180, num_chains=300, leapfrog_steps=3, seed=0)
    exact = joint_gaussian(model).log_evidence(found.x.values)
    np.testing.assert_allclose(found.lower, exact, atol=0.1)
    np.testing.assert_allclose(found.upper, exact, atol=0.1)
    np.testing.assert_allclose(found.gap, found.upper - found.lower)


LAPLACE = {
    "one dim": dict(dims=(1,)),
    "two dims": dict(dims=(2,)),
    "two layers": dict(dims=(1, 1)),
    "skip": dict(dims=(1, 1), skip=True),
}


@pytest.mark.parametrize("options", LAPLACE.values(), ids=LAPLACE)
def test_laplace_models_against_quadrature(options):
    model = softplus_model(**options, noise=0.7, seed=2)
    temperatures = 150 if model.layers == 1 else 70
    found = bdmc(model, num_images=3, num_temperatures=temperatures, num_chains=300, leapfrog_steps=3, seed=0)
    exact = np.array([q.log_evidence for q in quadrature_posteriors(model, torch.as_tensor(found.x.values))])
    np.testing.assert_allclose(found.lower, exact, atol=0.1)
    np.testing.assert_allclose(found.upper, exact, atol=0.1)


def short_run(model, x, temperatures, chains, seed=0):
    torch.manual_seed(seed)
    annealing = Annealing.tuned(Joint(model, x, 8), sigmoid_schedule(temperatures), 3)
    return annealing, Joint(model, x, chains)


def test_forward_weights_are_unbiased_however_short_the_ladder():
    """E[w] = p(x) over 20,000 chains, 4 standard errors."""
    model = softplus_model((1, 1), noise=1.0)
    _, x = simulate(model, 1)
    (grid,) = quadrature_posteriors(model, x)
    annealing, joint = short_run(model, x, 4, 20_000)
    w = torch.exp(annealing.forward(joint)[0] - grid.log_evidence)
    assert w.std() > 0.1
    assert abs(w.mean() - 1) < 4 * w.std() / math.sqrt(len(w))


def test_backward_weights_are_unbiased_from_exact_draws():
    """E[1/w] = 1/p(x) over 20,000 chains, each from its own draw of the exact posterior, 4 standard errors."""
    model = affine_model((1, 1), noise=2.0)
    _, x = simulate(model, 1)
    annealing, joint = short_run(model, x, 5, 20_000)
    draws = linear_gaussian_posterior(model, x).sample((20_000,))
    each_an_image = Joint(model, x.expand(20_000, -1), 1)
    u = each_an_image.whiten({site: z[:, 0] for site, z in draws.items()}).transpose(0, 1)
    w = torch.exp(torch.as_tensor(joint_gaussian(model).log_evidence(x.numpy())) - annealing.backward(joint, u)[0])
    assert w.std() > 0.1
    assert abs(w.mean() - 1) < 4 * w.std() / math.sqrt(len(w))


def test_the_gap_closes_with_the_number_of_temperatures():
    """Means over 100 images of a single chain: forward below, backward above, and both nearer with more temperatures."""
    model = affine_model((3, 2), seed=3)
    gaps = []
    for temperatures in (3, 30):
        found = bdmc(model, num_images=100, num_temperatures=temperatures, num_chains=1, leapfrog_steps=3, seed=1)
        exact = joint_gaussian(model).log_evidence(found.x.values)
        below, above = exact - found.lower, found.upper - exact
        assert below.mean() > 3 * below.std() / 10 and above.mean() > 3 * above.std() / 10
        gaps.append(float(found.gap.mean()))
    assert gaps[1] < gaps[0] / 2


def unit_interval(x):
    with pyro.plate("image", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Beta(2.0, 3.0))
        pyro.sample("x", dist.Bernoulli(rate.unsqueeze(-1).expand(*rate.shape, x.shape[-1])).to_event(1), obs=x)


def test_ais_takes_any_pyro_model():
    x = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = evidence_ais(unit_interval, x, num_temperatures=50, num_chains=500, leapfrog_steps=3, seed=0)
    ones = x.sum(-1).numpy()
    exact = special.betaln(2 + ones, 3 + 4 - ones) - special.betaln(2, 3)
    assert (abs(found.log_evidence - exact) < 4 * found.standard_error).all() and found.standard_error.max() < 0.03
    assert bdmc(unit_interval, pixels=4, num_images=2, num_temperatures=20, num_chains=50, seed=0).gap.max() < 0.5


def test_ais_form():
    model = affine_model((2, 1)).float()
    _, x = simulate(model, 3)
    found = evidence_ais(model, x, num_temperatures=20, num_chains=6, leapfrog_steps=2, seed=0)
    assert found.log_weight.dims == ("chain", "image") and found.log_weight.shape == (6, 3)
    np.testing.assert_allclose(found.log_evidence, special.logsumexp(found.log_weight, 0) - math.log(6))
    assert (found.acceptance_rate > 0.3).all() and found.attrs["num_temperatures"] == 20
    again = evidence_ais(model, x, num_temperatures=20, num_chains=6, leapfrog_steps=2, seed=0)
    np.testing.assert_array_equal(found.log_evidence, again.log_evidence)


def test_schedule():
    t = sigmoid_schedule(10)
    assert t[0] == 0 and t[-1] == 1 and (t.diff() > 0).all() and len(t) == 11
    np.testing.assert_allclose(t + t.flip(0), 1)
    with pytest.raises(HVAEError, match="num_temperatures must be a whole number of at least 2, got 1"):
        sigmoid_schedule(1)


@pytest.mark.parametrize("dims", GAUSSIAN)
def test_importance_sampling_is_within_three_standard_errors(dims):
    model = affine_model(dims, seed=4)
    _, x = simulate(model, 10)
    exact = joint_gaussian(model).log_evidence(x.numpy())
    good = evidence_importance_sampling(HVAE(model, GaussianGuide(model)), x, 50)
    np.testing.assert_allclose(good.log_evidence, exact, atol=1e-8)  # exact posterior: weights without variance
    wide = evidence_importance_sampling(HVAE(model, GaussianGuide(model, inflate=1.5, shift=0.3)), x, seed=1)
    assert (abs(wide.log_evidence - exact) < 3 * wide.standard_error).all()
    assert (wide.pareto_k < 0.7).all() and wide.standard_error.max() < 0.1


@pytest.mark.parametrize("options", LAPLACE.values(), ids=LAPLACE)
def test_importance_sampling_against_quadrature(options):
    """Under a guide that nobody trained: the prior's scale around zero."""
    model = softplus_model(**options, noise=1.0, seed=2)
    _, x = simulate(model, 3)
    guide = MeanFieldGuide(3, model.dims, families=model.families, hidden=((),) * model.layers).double()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.zero_()
        for conditional in guide.conditionals:
            conditional[1].bias[conditional[1].dim :] = 2.0
    exact = np.array([q.log_evidence for q in quadrature_posteriors(model, x)])
    found = evidence_importance_sampling(HVAE(model, guide), x, seed=0)
    assert (abs(found.log_evidence - exact) < 3 * found.standard_error).all()


def test_standard_error_is_the_spread_over_repetitions():
    model = affine_model((2,), seed=4)
    _, x = simulate(model, 1)
    vae = HVAE(model, GaussianGuide(model, inflate=2.0))
    found = evidence_importance_sampling(vae, x.expand(400, -1), 500, seed=0)
    assert float(found.log_evidence.std() / found.standard_error.mean()) == pytest.approx(1, abs=4 / math.sqrt(800))
    w = np.exp(found.log_evidence - joint_gaussian(model).log_evidence(x.numpy()))
    assert abs(w.mean() - 1) < 4 * w.std() / 20


def test_pareto_k_tells_a_narrow_guide_from_a_good_one():
    model = affine_model((4, 2), seed=4)
    _, x = simulate(model, 5)
    narrow = evidence_importance_sampling(HVAE(model, GaussianGuide(model, inflate=0.1)), x, 2000, seed=0)
    good = evidence_importance_sampling(HVAE(model, GaussianGuide(model, inflate=1.1)), x, 2000, seed=0)
    assert (narrow.pareto_k > 0.7).all() and (good.pareto_k < 0.5).all()
    assert good.ess.min() > 10 * narrow.ess.max()


@pytest.mark.parametrize(("chunk", "images"), [(1, 2), (7, 3), (40, 3), (1000, 300), (None, 3)])
def test_memory_is_bounded_by_the_chunk(monkeypatch, chunk, images):
    model = affine_model((2,))
    _, x = simulate(model, images)
    seen = []

    def counted(model, guide, x, count):
        seen.append((len(x), count))
        return log_weights(model, guide, x, count)

    log_weights = module.log_weights
    monkeypatch.setattr(module, "log_weights", counted)
    found = evidence_importance_sampling(HVAE(model, GaussianGuide(model)), x, 11, chunk=chunk)
    assert found.sizes["image"] == images and sum(n * k for n, k in seen) == 11 * images
    assert max(n * k for n, k in seen) <= (chunk or 10**9)


def test_the_estimate_of_memory_follows_the_networks():
    small, large = (TopDownGuide(10, (5, 2), hidden_joint=((h,),)) for h in (10, 10_000))
    x = torch.zeros(1, 10)
    assert row_bytes(x, large) - row_bytes(x, small) > 4 * 9_990
    assert row_bytes(x.double(), small) == 2 * row_bytes(x, small)


def test_errors():
    model = affine_model((2,))
    vae, x = HVAE(model, GaussianGuide(model)), torch.zeros(2, 5, dtype=torch.float64)
    with pytest.raises(HVAEError, match="num_particles must be a whole number of at least 2, got 1"):
        evidence_importance_sampling(vae, x, 1)
    with pytest.raises(HVAEError, match="chunk must be a whole number"):
        evidence_importance_sampling(vae, x, 10, chunk=0)
    with pytest.raises(HVAEError, match="no images"):
        evidence_ais(model, x[:0])
    with pytest.raises(HVAEError, match="num_chains"):
        evidence_ais(model, x, num_chains=0)
    with pytest.raises(HVAEError, match="no attribute 'pixels'"):
        bdmc(unit_interval)
