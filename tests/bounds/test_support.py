"""Draws without reparametrisation and values outside a support: numbers that would be wrong are refused."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from small import small_data, small_pair
from torch import nn
from user_programs import Guide, Model

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO, RenyiELBO
from pyro_hvae.errors import HVAEError
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.programs import HVAE, Program
from pyro_hvae.sampling.evidence import evidence_importance_sampling
from pyro_hvae.stimuli import PatchData, patch_dataset
from pyro_hvae.training.fit import fit

QUICK = dict(steps=2, batch=20, device="cpu", progress=False)


class Discrete(Program):
    """Model and guide of one discrete site of four entries; the guide where ``x`` is not its own observation."""

    pixels = 16

    def __init__(self, family, guide):
        super().__init__()
        self.family, self.guide, self.net = family, guide, nn.Linear(16, 4) if guide else nn.Linear(4, 16)

    def forward(self, x=None):
        with pyro.plate("image", len(x), dim=-1):
            at = self.net(x) if self.guide else x.new_zeros(4)
            z = pyro.sample("z1", self.family(at).to_event(1))
            if not self.guide:
                pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)


FAMILIES = {
    "Bernoulli": lambda at: dist.Bernoulli(logits=at),
    "Poisson": lambda at: dist.Poisson(at.exp()),
}


def discrete(name):
    torch.manual_seed(0)
    return HVAE(Discrete(FAMILIES[name], False), Discrete(FAMILIES[name], True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "objective",
    [ELBO(), ELBO(3), ELBO(gradient="stl"), ImportanceWeightedELBO(3), ImportanceWeightedELBO(3, gradient="dreg"),
     RenyiELBO(0.5, 3)],
    ids=repr,
)  # fmt: skip
def test_draws_that_cannot_be_reparametrised_are_refused_where_gradients_are_asked(family, objective):
    pair, x = discrete(family), torch.zeros(5, 16)
    if objective.gradient == "standard":
        with torch.no_grad():  # the value is right, and must not keep the check from the gradient
            assert objective.evaluate(pair.model, pair.guide, x).bound.isfinite().all()
    with pytest.raises(HVAEError, match=rf"site z1 of the guide is a {family}, .*cannot be reparametrised.*Trace_ELBO"):
        objective.evaluate(pair.model, pair.guide, x)


def test_a_guide_that_is_not_trained_may_be_discrete():
    pair, x = discrete("Bernoulli"), torch.zeros(5, 16)
    pair.guide.requires_grad_(False)
    ELBO().evaluate(pair.model, pair.guide, x).bound.sum().backward()
    assert pair.model.net.weight.grad.abs().sum() > 0


def test_the_gradient_that_is_refused_is_wrong():
    """One bit, enumerated: what the bound would have given lacks the whole gradient of the likelihood."""
    logit = torch.tensor(0.3, requires_grad=True)
    q, like = torch.sigmoid(logit), torch.tensor([-4.0, -1.0])
    exact = torch.autograd.grad((1 - q) * like[0] + q * like[1], logit)[0]
    z = dist.Bernoulli(logits=logit).sample()
    assert exact.abs() > 0.5 and not like[z.long()].requires_grad


def test_training_on_a_discrete_site():
    for objective in (None, infer.TraceMeanField_ELBO()):
        with pytest.raises(HVAEError, match="cannot be reparametrised"):
            fit(discrete("Bernoulli"), small_data(), objective=objective, **QUICK)
    pair = discrete("Bernoulli")
    before = pair.guide.net.weight.detach().clone()
    fit(pair, small_data(), objective=infer.Trace_ELBO(), **QUICK)
    assert not torch.equal(before, pair.guide.net.weight)


class Announcing(Program):
    """A plain program as one of ours, which announces its parameters."""

    def __init__(self, program):
        super().__init__()
        self.program, self.pixels = program, 16

    def forward(self, x):
        return self.program(x)


@pytest.mark.parametrize(
    ("objective", "options"),
    [(infer.Trace_ELBO, {}), (infer.TraceMeanField_ELBO, {}), (infer.TraceGraph_ELBO, {}),
     (infer.Trace_ELBO, dict(num_particles=3, vectorize_particles=True)),
     (infer.RenyiELBO, dict(alpha=0.5, num_particles=3, vectorize_particles=True))],
)  # fmt: skip
def test_plain_modules_are_trained_by_pyros_objectives_as_programs_that_announce(objective, options):
    """Pyro differentiates where a program announces parameters; plain modules do not, and are announced for it."""
    trained = []
    for wrap in (lambda program: program, Announcing):
        torch.manual_seed(0)
        model, guide = Model(), Guide()
        start = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        fit(HVAE(wrap(model), wrap(guide)), small_data(), objective=objective(**options), **QUICK)
        trained.append([p.detach().clone() for p in (*model.parameters(), *guide.parameters())])
        assert not any(torch.equal(a, b) for a, b in zip(start, trained[-1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


@pytest.mark.parametrize(
    "objective", [infer.ReweightedWakeSleep(3), infer.TraceTailAdaptive_ELBO(num_particles=3, vectorize_particles=True)]
)
def test_objectives_that_weigh_whole_batches_are_refused(objective):
    """One image's weights depend on the others': those of the sum of their log densities."""
    with pytest.raises(HVAEError, match=rf"{type(objective).__name__} weighs .* whole batch.*ImportanceWeightedELBO"):
        fit(HVAE(Model(), Guide()), small_data(), objective=objective, **QUICK)


# -- support


class Bits(Model):
    def __init__(self, family):
        super().__init__()
        self.family = family

    def forward(self, x=None):
        with pyro.plate("image", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            return pyro.sample("x", self.family(logits=self.linear(z)).to_event(1), obs=x)


class Positive(Model):
    def forward(self, x=None):
        with pyro.plate("image", len(x), dim=-1):
            z = pyro.sample("z1", dist.Gamma(x.new_ones(4), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.linear(z), 0.5).to_event(1), obs=x)


def bits(low, high, n=60):
    x = np.random.default_rng(0).uniform(low, high, (n, 16)).round() if low == 0 else np.full((n, 16), high)
    return PatchData(patch_dataset(x, split="train"), patch_dataset(x, split="test"), None, 4)


@pytest.mark.parametrize("family", [dist.Bernoulli, dist.ContinuousBernoulli])
def test_images_outside_the_support_are_refused_by_training_export_and_evidence(family):
    pair = HVAE(Bits(family), Guide())
    x = small_data().test["x"].values
    says = rf"images are outside the support of site x of the model, a {family.__name__}.*values from -"
    with pytest.raises(HVAEError, match=says):
        fit(pair, small_data(), **QUICK)
    for options in ({}, {"draws": 3}, {"draws": 3, "resample": 4}):
        with pytest.raises(HVAEError, match=says):
            export_posterior(pair, x, moment_draws=2, **options)
    with pytest.raises(HVAEError, match=says):
        evidence_importance_sampling(pair, torch.from_numpy(x), 10)
    fit(pair, bits(0, 1), **QUICK)
    export_posterior(pair, bits(0, 1).test["x"].values, moment_draws=2)


def test_one_bad_image_anywhere_is_found():
    data = bits(0, 1)
    for split in ("train", "test"):
        bad = bits(0, 1)
        getattr(bad, split)["x"][-1, 3] = 1.5
        with pytest.raises(HVAEError, match="outside the support"):
            fit(HVAE(Bits(dist.Bernoulli), Guide()), bad, **QUICK)
    fit(HVAE(Bits(dist.Bernoulli), Guide()), data, **QUICK)


def test_draws_of_the_guide_outside_the_support_of_the_model():
    pair = HVAE(Positive(), Guide())
    with pytest.raises(HVAEError, match="guide draws values of z1 outside the support .* Gamma.*same support"):
        fit(pair, small_data(), **QUICK)
    with pytest.raises(HVAEError, match="guide draws values of z1"):
        export_posterior(pair, small_data().test["x"].values, moment_draws=2)


def test_real_images_pass():
    fit(small_pair(), small_data(), **QUICK)
