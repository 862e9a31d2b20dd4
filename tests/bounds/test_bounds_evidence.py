"""Bounds against the evidence: exact for linear-Gaussian hierarchies, by quadrature for small Laplace models."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from quadrature import (
    affine_model,
    expected,
    images_of,
    latent_density_evidence,
    linear_gaussian_posterior,
    near_exact_guide,
    paper_bound,
    tiny_pair,
)
from torch import nn

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO, RenyiELBO
from pyro_hvae.bounds.traces import log_weights
from pyro_hvae.programs import HVAE, BottomUpGuide, LinearModel, MeanFieldGuide

# ---- evidence -------------------------------------------------------------------------------------------------------


def exact_mean_field_pair() -> HVAE:
    """Orthogonal columns of A make the posterior of LinearVAE factorise: a mean-field guide is exact."""
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(5, 3).double())
    s = torch.tensor([0.5, 1.0, 2.0]).double()
    model = LinearModel(5, (3,), ("normal",), noise=0.4).double()
    guide = MeanFieldGuide(5, (3,), ("normal",), ((),)).double()
    head = guide.conditionals[0][1]
    precision = 1 + (s / 0.4) ** 2
    with torch.no_grad():
        model.to_image.weight.copy_(basis * s)
        M = (basis * s).T / 0.4**2 / precision[:, None]
        head.set_linear(M, -M @ model.to_image.bias, -precision.log())
    return HVAE(model, guide)


def exact_bottom_up_pair() -> HVAE:
    """z2 → z1 → x, linear and one-dimensional: p(z2 | z1, x) = p(z2 | z1), so a bottom-up guide is exact."""
    model = affine_model(2, dim=1)
    head = model.conditionals[0][1]
    w, b, s2 = head.location_weight.item(), head.location_bias.item(), math.exp(head.v_bias.item())
    a, c, noise2 = model.A.detach()[:, 0], model.to_image.bias.detach(), model.sigma.item() ** 2
    guide = BottomUpGuide(3, (1, 1), ("normal", "normal"), ((), ())).double()
    first, second = guide.conditionals[0][1], guide.conditionals[1][1]
    precision1 = 1 / (w * w + s2) + a.dot(a) / noise2
    precision2 = 1 + w * w / s2
    with torch.no_grad():
        first.weight.copy_(torch.stack([a / noise2 / precision1, torch.zeros(3).double()]))
        first.bias.copy_(torch.stack([(b / (w * w + s2) - a.dot(c) / noise2) / precision1, -precision1.log()]))
        second.weight.copy_(torch.tensor([[w / s2 / precision2], [0.0]]))
        second.bias.copy_(torch.tensor([-w * b / s2 / precision2, -math.log(precision2)]))
    return HVAE(model, guide)


class ExactTopDown(nn.Module):
    """q(z2 | x) q(z1 | x, z2) of a linear-Gaussian two-layer model, by conditioning its exact posterior."""

    families = ("normal", "normal")

    def __init__(self, model):
        super().__init__()
        self.latent_model = [model]

    def forward(self, x):
        (model,) = self.latent_model
        _, mean, covariance = linear_gaussian_posterior(model, x)
        (v11, v12), (_, v22) = covariance
        mean = torch.as_tensor(mean)
        with pyro.plate("image", len(x)):
            z2 = pyro.sample("z2", dist.Normal(mean[:, 1:], v22**0.5).to_event(1))
            loc = mean[:, :1] + v12 / v22 * (z2 - mean[:, 1:])
            pyro.sample("z1", dist.Normal(loc, (v11 - v12**2 / v22) ** 0.5).to_event(1))


def exact_top_down_pair() -> HVAE:
    model = affine_model(2, dim=1)
    return HVAE(model, ExactTopDown(model))


@pytest.mark.parametrize("make", [exact_mean_field_pair, exact_bottom_up_pair, exact_top_down_pair])
def test_the_exact_guide_reaches_the_evidence(make):
    vae = make()
    x = torch.randn(4, vae.pixels, generator=torch.Generator().manual_seed(1)).double()
    evidence = torch.as_tensor(linear_gaussian_posterior(vae.model, x)[0])
    for draw in log_weights(vae.model, vae.guide, x, 3).detach():  # every single weight is p(x)
        torch.testing.assert_close(draw, evidence, atol=1e-6, rtol=0)
    points = (48,) * len(vae.latents)
    if len(vae.latents) == 2:
        torch.testing.assert_close(expected(ELBO(), vae, x, points), evidence, atol=1e-4, rtol=0)
    for objective in (ImportanceWeightedELBO(5), RenyiELBO(2.0, 5), RenyiELBO(0.0, 5, gradient="standard")):
        bound = objective.evaluate(vae.model, vae.guide, x).bound.detach()
        torch.testing.assert_close(bound, evidence, atol=1e-6, rtol=0)


def test_rao_blackwell_reaches_the_evidence_without_a_draw():
    vae = exact_mean_field_pair()
    x = torch.randn(4, 5).double()
    evidence = torch.as_tensor(linear_gaussian_posterior(vae.model, x)[0])
    bound = ELBO(gradient="rao_blackwell").evaluate(vae.model, vae.guide, x).bound.detach()
    torch.testing.assert_close(bound, evidence, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_linear_gaussian_hierarchies(layers, seed):
    """Every bound below the exact evidence, growing with K, and IW-5000 within 3 Monte Carlo standard errors of it."""
    model = affine_model(layers, seed=seed)
    guide = near_exact_guide(model, inflation=1.2)
    x = model(num_images=1).detach()
    evidence = linear_gaussian_posterior(model, x)[0].item()
    torch.manual_seed(seed)
    mean, error = {}, {}
    for k, replicates in ((1, 40_000), (2, 20_000), (5, 10_000), (20, 4_000), (5000, 60)):
        objective = ImportanceWeightedELBO(k) if k > 1 else ELBO()
        with torch.no_grad():
            bound = objective.evaluate(model, guide, x.expand(replicates, -1)).bound
        mean[k], error[k] = bound.mean().item(), bound.std().item() / replicates**0.5
        assert mean[k] < evidence + 3 * error[k]
    for lower, upper in ((1, 2), (2, 5), (5, 20), (20, 5000)):
        assert mean[lower] < mean[upper] + 3 * math.hypot(error[lower], error[upper])
    assert mean[1] + 3 * error[1] < mean[20]
    assert abs(mean[5000] - evidence) < 3 * error[5000]
    assert error[5000] < 0.02


@pytest.mark.parametrize(("model", "dims"), [("linear", (1,)), ("linear", (2,)), ("markov", (1, 1)), ("skip", (1, 1))])
def test_laplace_evidence(model, dims):
    vae = tiny_pair(model, "mean_field", ("laplace", "normal"), dims=dims, seed=3)
    x = images_of(vae, 1)
    with torch.no_grad():
        for _, head in vae.guide.conditionals:
            head.v_bias.fill_(0.7)  # broad, so that the weights have a variance
    evidence = latent_density_evidence(vae.model, x).item()
    torch.manual_seed(0)
    mean, error = {}, {}
    for k, replicates in ((1, 20_000), (10, 8_000), (5000, 60)):
        with torch.no_grad():
            bound = ImportanceWeightedELBO(k).evaluate(vae.model, vae.guide, x.expand(replicates, -1)).bound
        mean[k], error[k] = bound.mean().item(), bound.std().item() / replicates**0.5
    assert mean[1] < mean[10] < evidence
    assert abs(mean[5000] - evidence) < 3 * error[5000]
    if len(dims) == 2:
        assert (paper_bound(vae, x, (1, 1)) < evidence).all()
