"""Expectations of the bounds against brute force: the paper's F, K-fold integrals, plain Pyro."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from quadrature import (
    brute_force_iw,
    exact_bound,
    expected,
    expected_terms,
    images_of,
    paper_bound,
    tiny_pair,
)

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO, RenyiELBO

PAIRS = [("linear", "mean_field"), ("linear", "top_down"), ("linear", "bottom_up")]
PAIRS += [(m, g) for m in ("markov", "skip") for g in ("top_down", "bottom_up", "mean_field")]
FAMILIES = [("laplace", "normal"), ("normal", "normal"), ("laplace", "laplace")]


def beta_of(betas):
    return {f"z{l}": beta for l, beta in enumerate(betas, start=1)}


# ---- the paper's F --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("families", FAMILIES, ids="-".join)
@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_elbo_is_the_papers_bound(model, guide, families):
    vae = tiny_pair(model, guide, families)
    x = images_of(vae, 1 if families == ("laplace", "laplace") else 3)
    betas = (0.7, 1.25)[: len(vae.latents)]
    exact = paper_bound(vae, x, betas)
    ours = expected(ELBO(beta=beta_of(betas)), vae, x)
    np.testing.assert_allclose(ours, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guide", ["top_down", "bottom_up", "mean_field"])
def test_three_layers(guide):
    vae = tiny_pair("skip", guide, ("normal", "normal", "normal"))
    x = images_of(vae, 2)
    betas, points = (1.3, 0.5, 0.8), (48, 48, 48)
    exact = paper_bound(vae, x, betas, points)
    np.testing.assert_allclose(expected(ELBO(beta=beta_of(betas)), vae, x, points), exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("betas", [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.25)])
@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_beta_of_any_size_and_type(guide, betas, as_tensor):
    vae = tiny_pair("markov", guide)
    x = images_of(vae)
    given_betas = {n: torch.tensor(b).double() if as_tensor else b for n, b in beta_of(betas).items()}
    ours = expected(ELBO(beta=given_betas), vae, x)
    np.testing.assert_allclose(ours, paper_bound(vae, x, betas), atol=1e-4, rtol=0)


def test_one_beta_for_all_sites_and_one_for_the_others():
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    np.testing.assert_allclose(expected(ELBO(beta=0.3), vae, x), paper_bound(vae, x, (0.3, 0.3)), atol=1e-4)
    np.testing.assert_allclose(expected(ELBO(beta={"z2": 0.3}), vae, x), paper_bound(vae, x, (1.0, 0.3)), atol=1e-4)


@pytest.mark.parametrize("gradient", ["stl", "dreg", "rao_blackwell"])
@pytest.mark.parametrize("families", FAMILIES[:2], ids="-".join)
def test_every_estimator_has_the_same_expectation(gradient, families):
    vae = tiny_pair("skip", "top_down", families)
    x = images_of(vae)
    ours = expected(ELBO(beta=beta_of((0.7, 1.25)), gradient=gradient), vae, x)
    np.testing.assert_allclose(ours, paper_bound(vae, x, (0.7, 1.25)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "objective", [ELBO(beta=0.4), ELBO(beta=0.4, gradient="rao_blackwell"), RenyiELBO(0.5, 1, beta=0.4)]
)
def test_terms_are_per_site_unannealed_and_sum_to_the_elbo(objective):
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    nothing, z1, z2 = (paper_bound(vae, x, b) for b in ((0, 0), (1, 0), (0, 1)))
    terms = expected_terms(objective, vae, x)
    for name, exact in {"x": nothing, "z1": z1 - nothing, "z2": z2 - nothing}.items():
        np.testing.assert_allclose(terms[name], exact, atol=1e-4, rtol=0)
    evaluation = objective.evaluate(vae.model, vae.guide, x)
    ds = evaluation.to_dataset()
    assert dict(ds.sizes) == {"image": 3}
    assert set(ds) == {"bound", "elbo"} | {n + annealed for n in ("x", "z1", "z2") for annealed in ("", "_annealed")}
    np.testing.assert_allclose(ds.elbo, ds.x + ds.z1 + ds.z2)
    np.testing.assert_allclose(ds.bound, ds.x_annealed + ds.z1_annealed + ds.z2_annealed)
    np.testing.assert_allclose(ds.bound, ds.x + 0.4 * (ds.z1 + ds.z2))
    assert ds.elbo.attrs["units"] == "nats"


def test_images_do_not_see_each_other():
    """The bound of an image is the same alone and in company, for the same draws."""
    vae = tiny_pair("markov", "bottom_up")
    x = images_of(vae, 4)
    for objective in (ELBO(), ImportanceWeightedELBO(2), RenyiELBO(0.5, 2)):
        bound = objective.evaluate(vae.model, vae.guide, x).bound
        for i in range(4):
            (gradient,) = torch.autograd.grad(bound[i], vae.model.A, retain_graph=True)
            assert gradient.abs().sum() > 0
        moved = x.clone()
        moved[3] += 1.0
        results = []
        for images in (x, moved):
            torch.manual_seed(0)
            results.append(objective.evaluate(vae.model, vae.guide, images).bound)
        assert torch.equal(results[0][:3], results[1][:3]) and results[0][3] != results[1][3]


# ---- importance-weighted and Rényi bounds ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "particles", "points"),
    [("laplace", 1, 4000), ("laplace", 2, 900), ("normal", 2, 100), ("normal", 3, 60)],
)
def test_importance_weighted_bound_by_k_fold_integral(family, particles, points):
    vae = tiny_pair("linear", "mean_field", (family,))
    x = images_of(vae, 2)
    exact = [exact_bound(vae, image, alpha=0, particles=particles, betas=(1.0,)).item() for image in x]
    np.testing.assert_allclose(brute_force_iw(vae, x, particles, points), exact, atol=1e-4, rtol=0)
    ours = expected(ImportanceWeightedELBO(particles), vae, x, (points,) * particles)
    np.testing.assert_allclose(ours, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("gradient", ["standard", "dreg"])
def test_renyi_bound_of_two_particles(alpha, gradient):
    vae = tiny_pair("linear", "mean_field", ("normal",))
    x = images_of(vae, 2)
    exact = [exact_bound(vae, image, alpha=alpha, particles=2, betas=(0.6,)).item() for image in x]
    ours = expected(RenyiELBO(alpha, 2, beta={"z1": 0.6}, gradient=gradient), vae, x, (200, 200))
    np.testing.assert_allclose(ours, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("particles", [3, 10])
@pytest.mark.parametrize(
    ("guide", "families"), [("top_down", ("laplace", "normal")), ("bottom_up", ("normal", "normal"))]
)
def test_hierarchical_weights_with_beta_inside(guide, families, particles):
    """K particles of two layers, per image, as in Vas 2024: beta2 multiplies log p(z2) - log q(z2|x) within the weight."""
    torch.manual_seed(0)
    vae = tiny_pair("markov", guide, families)
    image = images_of(vae)[1]
    for alpha in (0.0, 0.5, 2.0):
        exact = exact_bound(vae, image, alpha=alpha, particles=particles, betas=(0.9, 0.4)).item()
        objective = RenyiELBO(alpha, particles, beta={"z1": 0.9, "z2": 0.4})
        with torch.no_grad():
            bound = objective.evaluate(vae.model, vae.guide, image.expand(40_000, -1)).bound
        assert abs(bound.mean().item() - exact) < 4 * bound.std().item() / 200


def test_alpha_zero_is_importance_weighting_and_one_the_elbo():
    vae = tiny_pair("markov", "mean_field")
    x = images_of(vae, 5)
    for one, other in [
        (RenyiELBO(0.0, 4, beta=0.7), ImportanceWeightedELBO(4, beta=0.7)),
        (RenyiELBO(1.0, 4, beta=0.7), ELBO(4, beta=0.7)),
    ]:
        bounds = []
        for objective in (one, other):
            torch.manual_seed(0)
            bounds.append(objective.evaluate(vae.model, vae.guide, x).bound)
        torch.testing.assert_close(*bounds)


def test_renyi_bounds_fall_with_alpha():
    vae = tiny_pair("markov", "mean_field", seed=3)
    image = images_of(vae)[0]
    torch.manual_seed(0)
    bounds = []
    for alpha in (-math.inf, -2.0, 0.0, 0.5, 1 - 1e-6, 1 + 1e-6, 2.0, math.inf):
        torch.manual_seed(0)
        bounds.append(RenyiELBO(alpha, 5).evaluate(vae.model, vae.guide, image.expand(50, -1)).bound)
    for upper, lower in pairwise(bounds):
        assert (upper >= lower - 1e-9).all()


# ---- Pyro's own -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_pyros_trace_elbo_agrees_in_expectation(guide):
    torch.manual_seed(0)
    vae = tiny_pair("markov", guide)
    image = images_of(vae)[0]
    copies = image.expand(5_000, -1)
    losses = torch.tensor([-Trace_ELBO().loss(vae.model, vae.guide, copies) / len(copies) for _ in range(30)])
    exact = paper_bound(vae, image[None], (1, 1)).item()
    assert abs(losses.mean().item() - exact) < 4 * losses.std().item() / 30**0.5
