"""Models and guides as plain Pyro programs: SVI, Predictive, handlers, the parameter store."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs.test_pairs import small_model, small_pair
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO
from pyro_hvae.programs import GUIDES, HVAE, LinearModel, MarkovModel, MeanFieldGuide, Program


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        TraceMeanField_ELBO(),
        ELBO(),
        ELBO(gradient="stl"),
        ELBO(gradient="rao_blackwell"),
        ImportanceWeightedELBO(3, gradient="dreg"),
    ],
    ids=lambda loss: f"{type(loss).__name__}-{loss.num_particles}-{getattr(loss, 'gradient', 'pyro')}",
)
@pytest.mark.parametrize("model", ["linear", "markov", "skip"])
def test_svi_trains_every_parameter_and_leaves_the_store_empty(loss, model):
    vae = small_pair(model, "top_down") if model != "linear" else small_pair("linear", "mean_field")
    before = {n: p.detach().clone() for n, p in vae.named_parameters()}
    x = torch.randn(8, 4)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    for _ in range(3):
        svi.step(x)
    unmoved = [n for n, p in vae.named_parameters() if torch.equal(p, before[n])]
    assert not unmoved
    assert len(pyro.get_param_store()) == 0


def test_svi_lowers_the_loss():
    vae = small_pair("markov", "top_down")
    x = torch.randn(64, 1) * torch.ones(4)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), ELBO(4))
    first = svi.evaluate_loss(x)
    for _ in range(200):
        svi.step(x)
    assert svi.evaluate_loss(x) < 0.7 * first


def test_two_programs_of_one_class_are_both_trained():
    """Names of parameters are the module's own: SVI updates what it can tell apart."""

    class Net(Program):
        def __init__(self, generative):
            super().__init__()
            self.pixels, self.generative, self.layer = 2, generative, torch.nn.Linear(2, 2)

        def forward(self, x):
            with pyro.plate("image", len(x)):
                z = pyro.sample("z1", dist.Normal(0 * x if self.generative else self.layer(x), 1.0).to_event(1))
                if self.generative:
                    pyro.sample("x", dist.Normal(self.layer(z), 1.0).to_event(1), obs=x)

    vae = HVAE(Net(True), Net(False))
    before = [p.detach().clone() for p in vae.parameters()]
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(torch.randn(8, 2))
    assert all(not torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_from_the_prior(parallel):
    model = small_model("skip", (3, 2, 2))
    draws = Predictive(model, num_samples=6, parallel=parallel)(num_images=5)
    shapes = {name: tuple(draw.shape) for name, draw in draws.items()}
    assert shapes == {"z3": (6, 5, 2), "z2": (6, 5, 2), "z1": (6, 5, 3), "x": (6, 5, 4)}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("guide", GUIDES)
def test_predictive_with_a_guide(parallel, guide):
    vae = small_pair("markov", guide)
    x = torch.randn(5, 4)
    posterior = Predictive(vae.model, guide=vae.guide, num_samples=6, parallel=parallel)(x)
    assert posterior["z1"].shape == (6, 5, 3) and posterior["z2"].shape == (6, 5, 2)
    # new images from the posterior: take the observation off
    unconditioned = poutine.uncondition(vae.model)
    draws = Predictive(unconditioned, guide=vae.guide, num_samples=6, parallel=parallel)(x)
    assert draws["x"].shape == (6, 5, 4)
    assert not torch.equal(draws["x"][0], draws["x"][1])


def test_prior_moments():
    """Ancestral samples of a linear model against x ~ (c, 2 A A' + sigma^2 I) for Laplace z1."""
    model = LinearModel(3, (4,), noise=0.5)
    x = Predictive(model, num_samples=1)(num_images=400_000)["x"][0]
    A, c = model.A.detach(), model.to_image.bias.detach()
    expected = 2 * A @ A.T + 0.25 * torch.eye(3)
    torch.testing.assert_close(x.mean(0), c, atol=5 * float(expected.diag().max() / len(x)) ** 0.5, rtol=0)
    torch.testing.assert_close(x.T.cov(), expected, atol=0.02, rtol=0)


def test_learned_noise_finds_the_noise():
    """q fixed at the exact posterior given sigma is not needed: with A = 0 sigma is the spread of the images."""
    model = LinearModel(4, (1,), noise=2.0, learn_noise=True)
    guide = MeanFieldGuide(4, (1,), hidden=((),))
    torch.nn.init.zeros_(model.to_image.weight).requires_grad_(False)
    x = 0.5 * torch.randn(5000, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        ELBO().differentiable_loss(model, guide, x).backward()
        optimizer.step()
    assert model.sigma.item() == pytest.approx(x.std(unbiased=False).item(), rel=1e-2)


def test_handlers_reach_the_sites():
    vae = small_pair("markov", "top_down")
    z2 = torch.randn(5, 2)
    trace = poutine.trace(poutine.condition(vae.model, {"z2": z2})).get_trace(num_images=5)
    assert torch.equal(trace.nodes["z2"]["value"], z2) and trace.nodes["z2"]["is_observed"]
    assert [f.name for f in trace.nodes["z1"]["cond_indep_stack"]] == ["image"]
    parameters = [n for n, node in trace.nodes.items() if node["type"] == "param"]
    assert len(parameters) == len(list(vae.model.parameters()))


def test_called_without_pyro_it_samples_and_announces_nothing():
    model = small_model("markov")
    assert model(num_images=3).shape == (3, 4)
    assert len(pyro.get_param_store()) == 0


def test_missing_pixels_are_masked():
    """An image of which only some pixels count, by poutine.mask over the observation."""

    class Masked(MarkovModel):
        def forward(self, x, mask):
            with pyro.plate("image", len(x), dim=-1):
                z2 = pyro.sample("z2", self.prior())
                z1 = pyro.sample("z1", self.conditionals[0](z2))
                normal = dist.Normal(self.image_mean({1: z1}), self.sigma)
                pyro.sample("x", normal.mask(mask).to_event(1), obs=x)

    class Guide(MeanFieldGuide):
        def forward(self, x, mask):
            super().forward(x * mask)

    model = Masked(4, (3, 2), hidden=((5,),))
    guide = Guide(4, (3, 2), hidden=((5,), (5,)))
    x, mask = torch.randn(6, 4), torch.rand(6, 4) > 0.5
    results = []
    for filling in (0.0, 100.0):
        torch.manual_seed(1)
        results.append(ELBO().evaluate(model, guide, torch.where(mask, x, torch.tensor(filling)), mask).bound)
    torch.testing.assert_close(*results)
