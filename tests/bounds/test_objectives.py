"""The objectives as objects: power means, plates and scales, what a loss must do for SVI."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import SVI
from quadrature import (
    expected,
    images_of,
    paper_bound,
    tiny_pair,
)
from torch import nn

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO, RenyiELBO, power_mean
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, BottomUpGuide, MarkovModel

weights = st.lists(st.floats(-50, 50), min_size=1, max_size=6).map(lambda v: torch.tensor(v, dtype=torch.float64))


@settings(max_examples=100, deadline=None)
@given(log_w=weights, alpha=st.floats(-5, 5))
def test_power_mean_properties(log_w, alpha):
    value = power_mean(log_w, alpha)
    slack = 1e-9
    assert log_w.min() - slack <= value <= log_w.max() + slack
    assert power_mean(log_w, alpha + 0.1) <= value + slack  # falls with alpha
    if abs(1 - alpha) > 1e-6:  # the definition
        direct = (torch.logsumexp((1 - alpha) * log_w, 0) - math.log(len(log_w))) / (1 - alpha)
        torch.testing.assert_close(value, direct, atol=1e-6, rtol=1e-9)
    shifted = power_mean(log_w + 3.0, alpha)
    torch.testing.assert_close(shifted, value + 3.0, atol=1e-7, rtol=1e-9)
    log_w = log_w.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(power_mean(log_w, alpha), log_w)
    torch.testing.assert_close(gradient, torch.softmax((1 - alpha) * log_w.detach(), 0), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_power_mean_is_continuous_through_one_and_reaches_its_limits(dtype):
    log_w = torch.tensor([-3.0, 0.5, 2.0, 1e-3], dtype=dtype)
    middle = power_mean(log_w, 1.0)
    for e in (1e-2, 1e-4, 1e-6, 1e-8, 1e-12):
        for alpha in (1 - e, 1 + e):
            # first order: e/2 times the variance
            expected_value = middle + (1 - alpha) / 2 * log_w.var(unbiased=False)
            torch.testing.assert_close(power_mean(log_w, alpha), expected_value, atol=20 * e**2 + 2e-6, rtol=0)
    assert power_mean(log_w, -math.inf) == 2.0 and power_mean(log_w, math.inf) == -3.0
    torch.testing.assert_close(power_mean(log_w, -400.0), log_w.max(), atol=5e-3, rtol=0)
    torch.testing.assert_close(power_mean(log_w, 400.0), log_w.min(), atol=5e-3, rtol=0)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.999, 0.9999, 1.0001, 2.0])
def test_power_mean_survives_a_bad_start(alpha):
    """Weights 1e6 nats apart, as at the default start of a large model, and weights of exactly 0."""
    log_w = torch.tensor([-1e6, 0.0, -3.0], requires_grad=True)
    value = power_mean(log_w, alpha)
    (gradient,) = torch.autograd.grad(value, log_w)
    assert value.isfinite() and gradient.isfinite().all()
    if alpha < 1:
        dead = torch.tensor([-math.inf, 0.0])
        assert power_mean(dead, alpha).item() == pytest.approx(-math.log(2) / (1 - alpha))


# ---- plates, scales, masks ------------------------------------------------------------------------------------------


class Subsampled(MarkovModel):
    """The image plate stands for ten times as many images."""

    def forward(self, x):
        with pyro.plate("image", 10 * len(x), subsample_size=len(x), dim=-1):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.conditionals[0](z2))
            pyro.sample("x", dist.Normal(self.image_mean({1: z1}), self.sigma).to_event(1), obs=x)


class SubsampledGuide(BottomUpGuide):
    def forward(self, x):
        with pyro.plate("image", 10 * len(x), subsample_size=len(x), dim=-1):
            z1 = pyro.sample("z1", self.conditionals[0](x))
            pyro.sample("z2", self.conditionals[1](z1))


def subsampled_pair() -> tuple[Subsampled, SubsampledGuide, HVAE]:
    whole = tiny_pair("markov", "bottom_up")
    model = Subsampled(2, (1, 1), hidden=((2,),), noise=0.6, learn_noise=True).double()
    guide = SubsampledGuide(2, (1, 1), hidden=((2,), (2,))).double()
    model.load_state_dict(whole.model.state_dict())
    guide.load_state_dict(whole.guide.state_dict())
    return model, guide, whole


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), ImportanceWeightedELBO(4), ImportanceWeightedELBO(4, gradient="dreg"),
                                       RenyiELBO(0.5, 4)], ids=str)  # fmt: skip
def test_a_subsampled_plate_multiplies_outside(objective):
    model, guide, whole = subsampled_pair()
    copies = images_of(whole)[1].expand(20_000, -1)
    torch.manual_seed(0)
    ours, theirs = (objective.evaluate(m, g, copies) for m, g in ((model, guide), (whole.model, whole.guide)))
    assert (ours.multiplier, theirs.multiplier) == (10.0, 1.0)
    difference = (ours.bound.mean() - theirs.bound.mean()).item()
    assert abs(difference) < 4 * math.hypot(ours.bound.std().item(), theirs.bound.std().item()) / 20_000**0.5
    x = images_of(whole)
    torch.manual_seed(0)
    evaluation = objective.evaluate(model, guide, x)
    torch.manual_seed(0)
    assert objective.loss(model, guide, x) == pytest.approx(-10 * evaluation.bound.sum().item())


class RandomRows(nn.Module):
    """A program that picks its own images: the plate's indices are drawn inside."""

    def __init__(self, data, generative):
        super().__init__()
        self.data, self.generative, self.map = data, generative, nn.Linear(2, 2).double()

    def forward(self):
        with pyro.plate("image", len(self.data), subsample_size=7) as index:
            x = self.data[index]
            loc = torch.zeros(2).double() if self.generative else self.map(x)
            z = pyro.sample("z1", dist.Normal(loc, 1.0).to_event(1))
            if self.generative:
                pyro.sample("x", dist.Normal(self.map(z), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_random_subsamples_are_the_same_in_model_and_guide(gradient):
    data = 10.0 * torch.arange(40).double()[:, None].expand(-1, 2)
    model, guide = RandomRows(data, True), RandomRows(data, False)
    guide.map.weight.data = model.map.weight.data.inverse()
    guide.map.bias.data = -guide.map.weight @ model.map.bias.data
    for objective in (
        ELBO(gradient=gradient),
        ImportanceWeightedELBO(3, gradient=gradient if gradient != "stl" else "dreg"),
    ):
        evaluation = objective.evaluate(model, guide)
        assert evaluation.multiplier == 40 / 7
        # q is centred on the image it sees; were it another one's, images tens of units away would show
        assert evaluation.terms["x"].min() > -200
        assert (evaluation.terms["z1"] < 1e6).all()
    analytic = ELBO()
    analytic.evaluate(model, guide)
    assert analytic._planned[2] == {"z1": "kl"}, "indices that change from run to run are not a dependence"


def test_scale_on_the_observation_is_refused():
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    for objective in (ELBO(), ImportanceWeightedELBO(3)):
        with pytest.raises(HVAEError, match=r"reaches the observed site x \(scale 2, .* weight KL terms with beta"):
            objective.evaluate(poutine.scale(vae.model, 2.0), poutine.scale(vae.guide, 2.0), x)


class Scaled(nn.Module):
    """A pair's program with ``poutine.scale`` around its latent sites alone, as in Pyro's tutorials on KL annealing."""

    def __init__(self, program, scale):
        super().__init__()
        self.program, self.scale = program, scale

    def forward(self, x):
        def fn(msg):
            msg["scale"] = msg["scale"] * (1.0 if msg["is_observed"] else self.scale)

        class Latents(poutine.messenger.Messenger):
            def _pyro_sample(self, msg):
                fn(msg)

        with Latents():
            return self.program(x)


@pytest.mark.parametrize("objective", [ELBO, lambda **k: ImportanceWeightedELBO(3, **k)])
def test_scale_on_latent_sites_is_a_beta_read_at_every_call(objective):
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    model, guide = Scaled(vae.model, 0.5), Scaled(vae.guide, 0.5)
    scaled = objective(beta={"z2": 2.0})
    for scale in (0.5, 0.25, torch.tensor(0.75)):
        model.scale = guide.scale = scale
        torch.manual_seed(0)
        one = scaled.evaluate(model, guide, x)
        torch.manual_seed(0)
        other = objective(beta={"z1": float(scale), "z2": 2 * float(scale)}).evaluate(vae.model, vae.guide, x)
        torch.testing.assert_close(one.bound, other.bound)
        torch.testing.assert_close(one.elbo, other.elbo)
    guide.scale = 0.9
    with pytest.raises(HVAEError, match=r"scale 0.75 in the model and 0.9 in the guide"):
        objective().evaluate(model, guide, x)


def test_scale_may_differ_from_image_to_image():
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    scale = torch.tensor([0.5, 1.0, 2.0]).double()
    for make in (ELBO, lambda **k: ImportanceWeightedELBO(3, gradient="dreg", **k)):
        torch.manual_seed(0)
        bound = make().evaluate(Scaled(vae.model, scale), Scaled(vae.guide, scale), x).bound
        for i in range(3):
            torch.manual_seed(0)
            torch.testing.assert_close(bound[i], make(beta=float(scale[i])).evaluate(vae.model, vae.guide, x).bound[i])
    with pytest.raises(HVAEError, match=r"scale of shape \(3,\) in the model and 1 in the guide"):
        ELBO().evaluate(Scaled(vae.model, scale), vae.guide, x)


def test_masked_images():
    """A masked image counts nothing in any term, whatever the estimator."""
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae, 4)
    mask = torch.tensor([True, False, True, False])
    for objective in (ELBO(), ELBO(gradient="rao_blackwell"), ImportanceWeightedELBO(3)):
        masked = [poutine.mask(p, mask) for p in (vae.model, vae.guide)]
        masked[0].A = vae.model.A
        evaluation = objective.evaluate(*masked, x)
        for term in (evaluation.bound, *evaluation.terms.values()):
            assert (term[~mask] == 0).all() and (term[mask] != 0).all()


# ---- as a loss ------------------------------------------------------------------------------------------------------

OBJECTIVES = [
    ELBO(),
    ELBO(3),
    ELBO(gradient="stl"),
    ELBO(3, gradient="dreg"),
    ELBO(gradient="rao_blackwell"),
    ImportanceWeightedELBO(4),
    ImportanceWeightedELBO(4, gradient="dreg"),
    RenyiELBO(0.5, 4),
    RenyiELBO(2.0, 4, gradient="dreg"),
    RenyiELBO(math.inf, 4),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_loss_gradient_and_module_agree(objective):
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    results = []
    for call in (
        lambda: objective.differentiable_loss(vae.model, vae.guide, x).item(),
        lambda: objective.loss(vae.model, vae.guide, x),
        lambda: objective.loss_and_grads(vae.model, vae.guide, x),
        lambda: objective(vae.model, vae.guide)(x).item(),
        lambda: -objective.evaluate(vae.model, vae.guide, x).bound.sum().item(),
        lambda: SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 0.0}), objective).step(x),
        lambda: SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 0.0}), objective).evaluate_loss(x),
    ):
        torch.manual_seed(0)
        results.append(call())
    assert results == pytest.approx([results[0]] * len(results))
    assert all(p.grad is not None for p in vae.parameters())
    assert set(objective(vae.model, vae.guide).parameters()) == set(vae.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_draws_do_not_depend_on_whether_the_pair_was_seen_before(objective):
    """The look at the structure leaves the random state alone: a resumed run draws what the uninterrupted one drew."""
    x = images_of(tiny_pair("markov", "top_down"))
    vae = tiny_pair("markov", "top_down")
    torch.manual_seed(0)
    first = objective.evaluate(vae.model, vae.guide, x).bound
    torch.manual_seed(0)
    assert torch.equal(objective.evaluate(vae.model, vae.guide, x).bound, first)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_frozen_parts(objective):
    """A frozen guide layer, a frozen guide, a frozen model: gradients for the rest, no error."""
    x = images_of(tiny_pair("markov", "top_down"))
    for frozen in ("guide.heads", "guide", "model"):
        vae = tiny_pair("markov", "top_down")
        vae.get_submodule(frozen).requires_grad_(False)
        objective.loss_and_grads(vae.model, vae.guide, x)
        assert all((p.grad is not None) == p.requires_grad for p in vae.parameters())


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_objectives_are_copied_without_the_pair(copier):
    vae = tiny_pair("markov", "top_down")
    objective = ELBO(2, beta={"z2": 0.5}, gradient="stl")
    objective.evaluate(vae.model, vae.guide, images_of(vae))
    other = copier(objective)
    assert (other.num_particles, other.gradient, other.beta) == (2, "stl", {"z2": 0.5})
    assert other._planned is None


def test_one_objective_serves_many_pairs():
    objective = ELBO()
    for guide in ("top_down", "bottom_up", "top_down"):
        vae = tiny_pair("markov", guide)
        np.testing.assert_allclose(
            expected(objective, vae, images_of(vae)), paper_bound(vae, images_of(vae), (1, 1)), atol=1e-4
        )


def test_plain_functions_and_methods_are_programs_too():
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    results = []
    for model, guide in (
        (vae.model, vae.guide),
        (lambda x: vae.model(x), lambda x: vae.guide(x)),
        (vae.model.forward, vae.guide.forward),
    ):
        torch.manual_seed(0)
        results.append(ImportanceWeightedELBO(3).evaluate(model, guide, x).bound)
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


def test_beta_tensors_may_change_between_calls():
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    beta = torch.tensor(0.0).double()
    objective = ELBO(beta={"z2": beta})
    for value in (0.0, 0.5, 1.0):
        beta.fill_(value)
        np.testing.assert_allclose(expected(objective, vae, x), paper_bound(vae, x, (1, value)), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ELBO(0), "whole number of at least 1, got 0"),
        (lambda: ELBO(2.0), "whole number of at least 1, got 2.0"),
        (lambda: ELBO(gradient="dregs"), r"unknown gradient 'dregs'; did you mean 'dreg'\?"),
        (lambda: ELBO(beta=-1.0), "not negative, got -1.0"),
        (lambda: ELBO(beta={"z2": math.nan}), "got nan for z2"),
        (lambda: ImportanceWeightedELBO(5, gradient="stl"), "biased inside an importance-weighted"),
        (lambda: ImportanceWeightedELBO(5, gradient="rao_blackwell_stl"), "use 'rao_blackwell_dreg'"),
        (lambda: RenyiELBO(-1.0, 5, gradient="rao_blackwell"), "neither"),
        (lambda: RenyiELBO(math.nan, 5), "alpha must be a number"),
        (lambda: RenyiELBO(math.inf, 5, gradient="dreg"), "finite alpha"),
        (lambda: _evaluate(ELBO(beta={"z9": 1.0})), r"unknown site in beta 'z9'.*Known: z1, z2"),
        (lambda: _evaluate(ELBO(gradient="rao_blackwell"), guide="bottom_up"), "infers z2 from z1"),
    ],
)
def test_refused(make, message):
    with pytest.raises(HVAEError, match=message):
        make()


def _evaluate(objective, guide="top_down"):
    vae = tiny_pair("markov", guide)
    return objective.evaluate(vae.model, vae.guide, images_of(vae))
