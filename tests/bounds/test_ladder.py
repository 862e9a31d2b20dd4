"""The ladder guide's bounds and gradients against quadrature, and against evidence that is known exactly."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from bounds.test_gradients import betas_of, deviations
from numpy.polynomial.legendre import leggauss
from quadrature import exact_bound, images_of, tiny_pair
from scipy import stats
from torch import Tensor, nn

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO, RenyiELBO
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, LinearModel, MarkovModel
from pyro_hvae.programs.ladder import LadderGuide

BETAS = (0.8, 1.25)
MODELS = ("linear", "markov", "skip")
FAMILIES = (("laplace", "normal"), ("normal", "normal"))


def flat(vae: HVAE) -> Tensor:
    return torch.cat([p.grad.flatten() for p in vae.parameters()])


def bound_of(objective, vae):
    return lambda x: objective.evaluate(vae.model, vae.guide, x).bound


# -- values


def integral(low: np.ndarray, high: np.ndarray, panels: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights between ``low`` and ``high``, along a new last axis."""
    t, w = leggauss(6)
    edges = np.linspace(0, 1, panels + 1)
    unit = (edges[:-1, None] + np.diff(edges)[:, None] * (t + 1) / 2).ravel()
    weight = (np.diff(edges)[:, None] * w / 2).ravel()
    return low[..., None] + (high - low)[..., None] * unit, (high - low)[..., None] * weight


def elbo_by_quadrature(vae: HVAE, x: Tensor) -> float:
    """The ELBO of one image for layers of one dimension, z1 of any: every q normalised by summing its own definition."""
    model, guide = vae.model, vae.guide
    image = x[None]
    with torch.no_grad():
        m1 = guide.evidence[0].location(image - model.to_image.bias)
        L_x = guide.features(image, m1)
        q_top = guide.top(L_x[-1]).base_dist if guide.layers > 1 else None

    def below(l: int, z: dict[int, np.ndarray]) -> np.ndarray:
        """E over q(zl, …, z1 | x, zl+1) of log p(x, zl … z1 | …) - log q(zl … z1 | …), for rows of zl+1."""
        rows = len(z[l + 1]) if l < guide.layers else 1
        with torch.no_grad():
            above = {k: torch.as_tensor(v)[:, None] for k, v in z.items()}
            prior = (model.conditionals[l - 1](above[l + 1]) if l < guide.layers else model.prior()).base_dist
            loc, scale = (v.expand(rows, -1).numpy() for v in (prior.loc, prior.scale))
            if l == 1:
                skipped = model.skipped(above)
                residual = image - model.to_image.bias - (0 if skipped is None else skipped)
                m = guide.evidence[0].location(residual)
            else:
                m = guide.evidence[l - 1].location(L_x[l])
            m, s = m.expand(rows, -1).numpy(), (guide.evidence[l - 1].log_variance / 2).exp().numpy()
        family = {"laplace": stats.laplace, "normal": stats.norm}[model.families[l - 1]]
        ends = [np.minimum(loc, m) - 9 * s, loc, np.maximum(loc, m) + 9 * s]
        panels = 40 if guide.layers < 3 else 14
        parts = [integral(a, b, panels) for a, b in pairwise(ends)]  # the kink at loc ends a panel
        node, weight = (np.concatenate([p[i] for p in parts], -1) for i in (0, 1))
        log_p = family.logpdf(node, loc[..., None], scale[..., None])
        log_q = log_p + stats.norm.logpdf(node, m[..., None], s[:, None])
        log_q = log_q - np.log((weight * np.exp(log_q)).sum(-1, keepdims=True))
        mass = weight * np.exp(log_q)
        total = (mass * (log_p - log_q)).sum((-1, -2))
        if l > 1:
            (dims,) = {model.dims[l - 1]}
            assert dims == 1
            inner = np.stack([
                below(l - 1, {**{k: np.repeat(v[r : r + 1], node.shape[-1]) for k, v in z.items()}, l: node[r, 0]})
                for r in range(rows)
            ])  # fmt: skip
            return total + (mass[:, 0] * inner).sum(-1)
        A, sigma = model.A.detach().numpy(), float(model.sigma)
        with torch.no_grad():
            offset = (image - residual).expand(rows, -1).numpy()
        mean = (mass * node).sum(-1)
        second = (mass * node**2).sum(-1)
        error = x.numpy() - offset - mean @ A.T
        square = (error**2).sum(-1) + ((second - mean**2) * (A**2).sum(0)).sum(-1)  # units independent given the rest
        return total - 0.5 * square / sigma**2 - len(x) * math.log(sigma * math.sqrt(2 * math.pi))

    if q_top is None:
        return float(below(1, {})[0])
    loc, scale = float(q_top.loc), float(q_top.scale)
    family = {"laplace": stats.laplace, "normal": stats.norm}[model.families[-1]]
    reach = (9 if model.families[-1] == "normal" else 34) * scale
    parts = [
        integral(np.array(a), np.array(b), 30 if model.families[-1] == "normal" else 200)
        for a, b in ((loc - reach, loc), (loc, loc + reach))
    ]
    node, weight = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    log_q = family.logpdf(node, loc, scale)
    inner = below(guide.layers - 1, {guide.layers: node})
    return float((weight * np.exp(log_q) * (family.logpdf(node) - log_q + inner)).sum())


def expectation(objective, vae: HVAE, x: Tensor, top: str) -> float:
    """Mean of the objective with the top layer on a grid, for two layers: nothing else is drawn in closed form."""
    from quadrature import OnGrid, nodes

    noise, weight = nodes(top, 400 if top == "normal" else 3000)
    with OnGrid({"z2": torch.as_tensor(noise)[:, None]}), torch.no_grad():
        values = objective.evaluate(vae.model, vae.guide, x.expand(len(noise), -1)).bound
    return float(torch.as_tensor(weight) @ values)


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("model", MODELS)
def test_the_elbo_is_that_of_quadrature(model, families):
    vae = tiny_pair(model, "ladder", families, seed=1)
    for x in images_of(vae):
        exact = elbo_by_quadrature(vae, x)
        objective = ELBO(gradient="rao_blackwell")
        if model == "linear":
            found = float(objective.evaluate(vae.model, vae.guide, x[None]).bound)
        else:
            found = expectation(objective, vae, x, families[1])
        assert found == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("families", [("laplace",), ("normal",), ("laplace", "normal"), ("normal", "laplace")])
def test_the_elbo_of_several_units(families):
    """Two units of z1 that overlap in the image."""
    dims = (2, 1)[: len(families)]
    vae = tiny_pair("linear" if len(families) == 1 else "markov", "ladder", families, dims=dims, pixels=3, seed=2)
    for x in images_of(vae):
        exact = elbo_by_quadrature(vae, x)
        objective = ELBO(gradient="rao_blackwell")
        found = (
            float(objective.evaluate(vae.model, vae.guide, x[None]).bound)
            if len(dims) == 1
            else expectation(objective, vae, x, families[1])
        )
        assert found == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("families", [("laplace", "normal", "normal"), ("laplace", "laplace", "normal")])
def test_the_elbo_of_three_layers(families):
    """z3 and z2 drawn, z1 in closed form: within Monte Carlo error, of standard deviations that are known to be small."""
    vae = tiny_pair("markov", "ladder", families, seed=3)
    x = images_of(vae)[0]
    torch.manual_seed(0)
    values = ELBO(gradient="rao_blackwell").evaluate(vae.model, vae.guide, x.expand(60_000, -1)).bound.detach()
    error = values.std() / len(values) ** 0.5
    assert error < 0.01
    assert abs(float(values.mean()) - elbo_by_quadrature(vae, x)) < 4 * float(error)


def orthogonal(model: nn.Module) -> None:
    """Make the columns of A orthogonal, of different lengths."""
    with torch.no_grad():
        Q, _ = torch.linalg.qr(torch.randn(model.pixels, model.dims[0], dtype=torch.float64))
        model.to_image.weight.copy_(Q * torch.linspace(0.5, 2, model.dims[0], dtype=torch.float64))


def test_with_orthogonal_normal_z1_the_bound_is_the_evidence_and_nothing_is_trained():
    torch.manual_seed(0)
    model = LinearModel(6, (3,), ("normal",), noise=0.4).double()
    orthogonal(model)
    vae = HVAE(model, LadderGuide(model).double())
    x = torch.randn(5, 6, dtype=torch.float64)
    covariance = model.A @ model.A.T + model.sigma**2 * torch.eye(6, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(model.to_image.bias, covariance).log_prob(x)
    torch.testing.assert_close(ELBO(gradient="rao_blackwell").evaluate(model, vae.guide, x).bound, exact)


def test_with_orthogonal_laplace_z1_q_is_the_exact_conditional():
    torch.manual_seed(1)
    model = LinearModel(5, (3,), noise=0.7).double()
    orthogonal(model)
    vae = HVAE(model, LadderGuide(model).double())
    x = torch.randn(4, 5, dtype=torch.float64)
    # units are independent given x: log p(x) = Σ_i log ∫ Laplace(z_i) Normal(a_i · (x - c)/|a_i|²; z_i, sigma/|a_i|) dz_i + …
    A, sigma = model.A.detach(), float(model.sigma)
    g = A.square().sum(0)
    seen = (x - model.to_image.bias) @ A / g
    z = torch.linspace(-60, 60, 400_001, dtype=torch.float64)
    evidence = []
    for image, projections in zip(x - model.to_image.bias.detach(), seen.detach(), strict=True):
        rest = (image**2).sum() - (projections**2 * g).sum()
        total = -0.5 * rest / sigma**2 - 5 * math.log(sigma * math.sqrt(2 * math.pi))
        for m, gi in zip(projections, g, strict=True):
            f = torch.exp(-z.abs() - 0.5 * gi * (z - m) ** 2 / sigma**2) / 2
            total = total + torch.log(f.sum() * (z[1] - z[0]))
        evidence.append(total)
    bound = ELBO(gradient="rao_blackwell").evaluate(model, vae.guide, x).bound
    torch.testing.assert_close(bound, torch.stack(evidence), atol=1e-6, rtol=0)


def test_a_linear_gaussian_hierarchy_reaches_its_evidence_with_a_full_top():
    """q(z1 | x, z2) is exact as it starts; the exact q(z2 | x), a Normal with covariance, is put into the head."""
    torch.manual_seed(2)
    model = MarkovModel(6, (4, 2), ("normal", "normal"), hidden=((),), noise=0.4).double()
    orthogonal(model)
    with torch.no_grad():
        head = model.conditionals[0][1]
        head.v_weight.zero_()  # a constant scale: linear-Gaussian
        head.v_bias.fill_(-0.5)
    vae = HVAE(model, LadderGuide(model, hidden_x=((), ()), reads="image", top="full").double())
    x = torch.randn(6, 6, dtype=torch.float64)
    weight, offset, covariance = posterior_of_z2(model)
    with torch.no_grad():
        top = vae.guide.top
        scale = torch.linalg.cholesky(covariance)
        diagonal = scale.diagonal()
        below = torch.tril_indices(2, 2, -1)
        top.set_linear(weight, offset, 2 * diagonal.log())
        top.bias[4:] = (scale / diagonal[:, None])[below[0], below[1]]
    torch.manual_seed(3)
    values = ELBO(400, gradient="rao_blackwell").evaluate(model, vae.guide, x).bound.detach()
    exact = marginal(model).log_prob(x)
    assert (values - exact).abs().max() < 0.15  # of 400 draws; the next is exact draw by draw
    weights = ImportanceWeightedELBO(3, gradient="standard").evaluate(model, vae.guide, x).bound.detach()
    torch.testing.assert_close(weights, marginal(model).log_prob(x).detach(), atol=1e-6, rtol=0)


def linear_maps(model: MarkovModel) -> tuple[Tensor, ...]:
    head = model.conditionals[0][1]
    B, b = head.location_weight.detach(), head.location_bias.detach()
    S = torch.diag(head.v_bias.detach().exp())
    return B, b, S, model.A.detach(), model.to_image.bias.detach(), model.sigma.detach() ** 2


def marginal(model: MarkovModel) -> torch.distributions.MultivariateNormal:
    B, b, S, A, c, s2 = linear_maps(model)
    cov1 = B @ B.T + S
    return torch.distributions.MultivariateNormal(
        A @ b + c, A @ cov1 @ A.T + s2 * torch.eye(len(c), dtype=torch.float64)
    )


def posterior_of_z2(model: MarkovModel) -> tuple[Tensor, Tensor, Tensor]:
    """q(z2 | x) = Normal(W x + w, C)."""
    B, b, S, A, c, s2 = linear_maps(model)
    noise = A @ S @ A.T + s2 * torch.eye(len(c), dtype=torch.float64)
    H = A @ B
    C = torch.linalg.inv(torch.eye(B.shape[1], dtype=torch.float64) + H.T @ torch.linalg.solve(noise, H))
    W = C @ torch.linalg.solve(noise, H).T
    return W, -W @ (A @ b + c), C


# -- inside an importance weight


@pytest.mark.parametrize("families", FAMILIES)
def test_with_the_inner_bound_the_weighted_bound_lies_between_elbo_and_evidence(families):
    vae = tiny_pair("markov", "ladder", families, hidden=1, seed=5)
    x = images_of(vae)[1]
    with torch.no_grad():
        order = [
            float(exact_bound(vae, x, alpha=a, particles=k, betas=(1.0, 1.0), closed=c))
            for a, k, c in ((1, 1, True), (0, 2, True), (0, 50, True))
        ]
        evidence = float(exact_bound(vae, x, alpha=0, particles=2000, betas=(1.0, 1.0)))
    assert order[0] < order[1] < order[2] < evidence + 1e-6
    torch.manual_seed(0)
    objective = ImportanceWeightedELBO(2, gradient="rao_blackwell")
    values = objective.evaluate(vae.model, vae.guide, x.expand(200_000, -1)).bound.detach()
    assert abs(float(values.mean()) - order[1]) < 4 * float(values.std()) / len(values) ** 0.5 + 1e-5


CASES = [
    ("markov", 1.0, 1, "standard"),
    ("markov", 1.0, 3, "stl"),
    ("markov", 1.0, 1, "rao_blackwell"),
    ("markov", 1.0, 2, "rao_blackwell_stl"),
    ("markov", 0.0, 3, "dreg"),
    ("markov", 0.0, 3, "rao_blackwell"),
    ("markov", 0.0, 3, "rao_blackwell_dreg"),
    ("markov", 0.5, 3, "rao_blackwell_dreg"),
    ("skip", 0.0, 3, "rao_blackwell_dreg"),
    ("linear", 0.0, 3, "dreg"),
    ("linear", 1.0, 1, "rao_blackwell"),
]


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize(("model", "alpha", "particles", "gradient"), CASES)
def test_the_mean_gradient_is_exact(model, families, alpha, particles, gradient):
    vae = tiny_pair(model, "ladder", families, hidden=1, seed=5)
    image = images_of(vae)[1]
    betas = BETAS[: len(vae.latents)]
    closed = gradient.startswith("rao_blackwell") and model != "linear"
    vae.zero_grad()
    exact_bound(vae, image, alpha=alpha, particles=particles, betas=betas, panels=(40, 16), closed=closed).backward()
    exact = flat(vae)
    objective = RenyiELBO(alpha, particles, beta=betas_of(vae), gradient=gradient)
    if alpha == 1:
        objective = ELBO(particles, beta=betas_of(vae), gradient=gradient)
    off = deviations(vae, image, bound_of(objective, vae), exact)
    names = [n for n, p in vae.named_parameters() for _ in range(p.numel())]
    assert off.abs().max() < 4.5, f"{names[int(off.abs().argmax())]} is {off.abs().max():.1f} standard errors off"
    assert exact.abs().max() > 1e-3


def test_stopping_the_guide_without_what_it_reads_from_the_model_would_be_found_out(monkeypatch):
    """log q of a ladder guide depends on the model's parameters too, which path estimators must stop with the guide's."""
    vae = tiny_pair("markov", "ladder", ("laplace", "normal"), hidden=1, seed=5)
    monkeypatch.setattr(LadderGuide, "shared", ())
    with pytest.raises(HVAEError, match="cannot be stopped"):
        ImportanceWeightedELBO(3, gradient="dreg").evaluate(vae.model, vae.guide, images_of(vae))


def test_refusals():
    with pytest.raises(HVAEError, match="rao_blackwell_dreg"):
        ImportanceWeightedELBO(3, gradient="rao_blackwell_stl")
    with pytest.raises(HVAEError, match="neither"):
        RenyiELBO(-1.0, 3, gradient="rao_blackwell")
    RenyiELBO(-1.0, 1, gradient="rao_blackwell")  # K = 1: the ELBO
    vae = tiny_pair("markov", "bottom_up")
    with pytest.raises(HVAEError, match="bottom-up"):
        ImportanceWeightedELBO(3, gradient="rao_blackwell").evaluate(vae.model, vae.guide, images_of(vae))


# -- what is shared


def test_the_guide_holds_nothing_of_the_model_and_copies_take_it_along():
    vae = tiny_pair("markov", "ladder")
    names = {n for n, _ in vae.named_parameters()}
    assert not any("conditionals" in n for n, _ in vae.guide.named_parameters())
    assert names == set(vae.state_dict()) - {"model.log_sigma"} | ({"model.log_sigma"} & names)
    other = copy.deepcopy(vae)
    assert other.guide.model is other.model and other.model is not vae.model
    with torch.no_grad():
        other.model.conditionals[0][1].bias.add_(1.0)
    x = images_of(vae)
    assert not torch.equal(
        ELBO(gradient="rao_blackwell").evaluate(other.model, other.guide, x).bound,
        ELBO(gradient="rao_blackwell").evaluate(vae.model, vae.guide, x).bound,
    )


def test_a_ladder_of_another_model_is_refused():
    vae, other = tiny_pair("markov", "ladder"), tiny_pair("markov", "ladder", seed=1)
    with pytest.raises(HVAEError, match='vae.with_guide\\("ladder"\\)'):
        HVAE(vae.model, other.guide)


def test_an_unknown_choice_and_a_foreign_model_are_refused():
    model = tiny_pair("markov", "ladder").model
    with pytest.raises(HVAEError, match="evidence"):
        LadderGuide(model, reads="evidenz")
    with pytest.raises(HVAEError, match="top='full'"):
        LadderGuide(tiny_pair("markov", "ladder", ("laplace", "laplace")).model, top="full")
    with pytest.raises(HVAEError, match="LaplaceNormalProduct"):
        LadderGuide(nn.Linear(2, 2))
    with pytest.raises(HVAEError, match="hidden_x"):
        LadderGuide(model, hidden_x=((3,),))
