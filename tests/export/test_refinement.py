"""Refinement and the split of the gap, against posteriors that are known exactly."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from quadrature import exact_bound, images_of, tiny_pair
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.analysis import inference_gap
from pyro_hvae.errors import HVAEError
from pyro_hvae.export.gap import PARTS, gap
from pyro_hvae.export.refinement import elbo, refine
from pyro_hvae.programs import HVAE, LinearModel, MarkovModel
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.storage.posterior_file import open_posterior


def orthogonal_linear(family: str = "normal") -> HVAE:
    """One layer with orthogonal fields, whose ladder guide is exact as it starts."""
    torch.manual_seed(0)
    model = LinearModel(6, (3,), (family,), noise=0.5).double()
    with torch.no_grad():
        Q, _ = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64))
        model.to_image.weight.copy_(Q * torch.tensor([0.7, 1.0, 1.6]))
    return HVAE(model, LadderGuide(model).double())


def log_evidence(model: LinearModel, x: torch.Tensor) -> torch.Tensor:
    covariance = model.A @ model.A.T + model.sigma**2 * torch.eye(6, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(model.to_image.bias, covariance).log_prob(x).detach()


def test_a_planted_error_in_m_is_found_and_is_the_whole_gap():
    vae = orthogonal_linear()
    x = torch.randn(7, 6, dtype=torch.float64)
    exact = log_evidence(vae.model, x)
    assert torch.allclose(elbo(vae, x, 2, 0)[0], exact, atol=1e-9)
    with torch.no_grad():
        vae.guide.evidence[0].location.bias.add_(torch.tensor([0.3, -0.2, 0.1]))
    cost = exact - elbo(vae, x, 2, 0)[0]  # the KL of the moved Normals: the same for every image
    assert cost.min() > 0.02 and cost.std() < 1e-6
    refined = refine(vae, x, 300)
    assert torch.allclose(elbo(refined, x, 2, 0)[0], exact, atol=1e-4)
    found = gap(vae, x, steps=300, draws=200)
    np.testing.assert_allclose(found["amortisation_z1"], cost, atol=2e-4)
    for part in PARTS[1:]:
        np.testing.assert_allclose(found[part], 0, atol=5e-3)


def two_layers() -> HVAE:
    """Linear-Gaussian, orthogonal A; one z2, whose posterior is Normal with constant variance: a linear head has it."""
    torch.manual_seed(1)
    model = MarkovModel(6, (3, 1), ("normal", "normal"), hidden=((),), noise=0.5).double()
    with torch.no_grad():
        Q, _ = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64))
        model.to_image.weight.copy_(Q * torch.tensor([0.7, 1.0, 1.6]))
        head = model.conditionals[0][1]
        head.weight[head.dim :] = 0
        head.bias[head.dim :] = -0.5
        head.location_weight.copy_(torch.tensor([[0.8], [-0.6], [1.0]]))
    vae = HVAE(model, LadderGuide(model, hidden_x=((), ()), reads="image").double())
    with torch.no_grad():
        A, B, c, s2 = model.A, head.location_weight, model.to_image.bias + model.A @ head.location_bias, model.sigma**2
        noise = A @ torch.diag(head.v_bias.exp()) @ A.T + s2 * torch.eye(6, dtype=torch.float64)
        H = A @ B
        C = 1 / (1 + H.T @ torch.linalg.solve(noise, H))
        W = C @ torch.linalg.solve(noise, H).T
        vae.guide.top.set_linear(W, -(W @ c), C.log().flatten())
    return vae


def marginal(model: MarkovModel, x: torch.Tensor) -> torch.Tensor:
    head = model.conditionals[0][1]
    A, B = model.A, head.location_weight
    covariance = A @ (B @ B.T + torch.diag(head.v_bias.exp())) @ A.T + model.sigma**2 * torch.eye(
        6, dtype=torch.float64
    )
    mean = model.to_image.bias + A @ head.location_bias
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x).detach()


def test_a_planted_error_in_the_layer_above_is_found_there():
    vae = two_layers()
    x = torch.randn(6, 6, dtype=torch.float64)
    exact = marginal(vae.model, x)
    value, error = elbo(vae, x, 400, 0)
    assert ((value - exact).abs() < 4 * error + 1e-6).all()
    scale = float(vae.guide.top.v_bias.detach().exp() ** 0.5)
    with torch.no_grad():
        vae.guide.top.bias[0] += 1.2 * scale
    found = gap(vae, x, steps=300, draws=400)
    cost = 0.5 * 1.2**2  # KL of a Normal moved by 1.2 of its standard deviations
    tolerance = 4 * found["amortisation_upper_standard_error"].values + 0.03
    assert (np.abs(found["amortisation_upper"].values - cost) < tolerance).all()
    assert (np.abs(found["amortisation_z1"].values) < tolerance).all()
    assert np.abs(found["family_z1"].values).max() < 0.02
    assert np.abs(found["log_evidence"].values - exact.numpy()).max() < 0.1
    parts = sum(found[part] for part in PARTS)
    np.testing.assert_allclose(parts, found["log_evidence"] - found["elbo"], atol=1e-9)


def test_overlapping_fields_leave_a_gap_of_the_family_of_z1_that_is_exact():
    """Two Laplace units on one pixel: q(z1 | x) is a product, the posterior is not."""
    vae = tiny_pair("linear", "ladder", ("laplace",), dims=(2,), pixels=1, seed=4)
    with torch.no_grad():
        vae.model.to_image.weight.copy_(torch.tensor([[0.4, 0.3]]))
        vae.guide.start_in_closed_form()
    x = images_of(vae)
    z = torch.linspace(-14, 14, 1401, dtype=torch.float64)
    grid = torch.cartesian_prod(z, z)
    with torch.no_grad():
        mean = grid @ vae.model.A.T + vae.model.to_image.bias
        prior = -grid.abs().sum(-1) - 2 * math.log(2)
        exact = [
            torch.logsumexp(prior + torch.distributions.Normal(mean, vae.model.sigma).log_prob(i).sum(-1), 0)
            + 2 * torch.log(z[1] - z[0])
            for i in x
        ]
    found = gap(vae, x, steps=300, draws=20_000)
    best = found["elbo"] + found["amortisation_z1"]
    family = torch.stack(exact).numpy() - best.values
    assert family.min() > 0.03 and found["pareto_k"].max() < 0.7
    assert (np.abs(found["family_z1"].values - family) < 4 * found["family_z1_standard_error"].values + 0.01).all()


@pytest.mark.parametrize("guide", ["bottom_up", *(
    pytest.param(guide, marks=pytest.mark.slow) for guide in ("top_down", "mean_field", "ladder"))])  # fmt: skip
def test_the_parts_sum_to_the_gap_and_every_guide_gives_the_same_evidence(guide):
    vae = small_pair()
    vae = vae if guide == "top_down" else vae.with_guide(guide)
    x = torch.from_numpy(small_data().test["x"].values[:6])
    before = copy.deepcopy(vae.state_dict())
    flags = [p.requires_grad for p in vae.parameters()]
    found = gap(vae, x, steps=40, draws=300)
    np.testing.assert_allclose(sum(found[p] for p in PARTS), found["log_evidence"] - found["elbo"], atol=1e-6)
    reference = hvae.evidence_ais(vae.model, x, num_temperatures=200, num_chains=8, seed=0)
    error = np.hypot(found["standard_error"], reference["standard_error"])
    assert (np.abs(found["log_evidence"] - reference["log_evidence"]) < 4 * error + 0.6).all()
    assert found.attrs["family"] == ("merged in family_z1" if guide == "bottom_up" else "by layer")
    assert all(torch.equal(before[k], v) for k, v in vae.state_dict().items())
    assert flags == [p.requires_grad for p in vae.parameters()] and all(p.grad is None for p in vae.parameters())


def test_refinement_never_loses_is_repeatable_and_knows_its_images():
    vae = small_pair().with_guide("bottom_up")
    x = torch.from_numpy(small_data().test["x"].values[:9])
    once, again = refine(vae, x, 40, seed=3), refine(vae, x, 40, seed=3)
    for site, shifts in once.guide.shifts.items():
        assert all(torch.equal(a, b) for a, b in zip(shifts, again.guide.shifts[site], strict=True))
    assert (elbo(once, x, 64, 3)[0] >= elbo(vae, x, 64, 3)[0]).all()
    assert all(not v.any() for shifts in refine(vae, x, 0).guide.shifts.values() for v in shifts)
    for steps in (-1, 2.5, True):
        with pytest.raises(HVAEError, match="steps must be a whole number"):
            refine(vae, x, steps)
    with pytest.raises(HVAEError, match="at least 50"):
        gap(vae, x, draws=3)


def test_files_of_a_refined_guide_and_their_gap(tmp_path):
    vae, data = small_pair(), small_data()
    images = data.test.isel(image=slice(12))
    options = dict(draws=60, moment_draws=8, evidence=60, prior_samples=2, receptive_fields=4)
    plain = hvae.export_posterior(vae, images, path=tmp_path / "plain.nc", **options)
    refined = hvae.export_posterior(vae, images, path=tmp_path / "refined.nc", refine=60, gap=5, **options)
    assert float(refined["bound"]["elbo"].mean()) > float(plain["bound"]["elbo"].mean()) + 1
    assert "refined by 60 steps" in refined.attrs["guide"] and "refined" not in plain.attrs["guide"]
    assert int(np.isfinite(refined["gap"]["family_upper"]).sum()) == 5 and "gap" not in plain.children
    # what the file says of the refined guide is what the guide says
    pair = refine(vae, torch.from_numpy(images["x"].values), 60, seed=0)
    expected = elbo(pair, torch.from_numpy(images["x"].values), 64, 9)
    error = np.hypot(expected[1].numpy(), 0.5)
    assert (np.abs(refined["bound"]["elbo"].values - expected[0].numpy()) < 4 * error).all()
    with open_posterior(tmp_path / "refined.nc") as tree:
        found = inference_gap(tree)
    assert float(found["gap"].sum()) == pytest.approx(float(found["total"].sum()), abs=1e-4)
    assert "amortisation of q(z1|…)" in found.attrs["verdict"]
    with pytest.raises(HVAEError, match="gap must be a whole number of at least 0, got -1"):
        hvae.export_posterior(vae, images, gap=-1)


def test_moments_of_a_guide_with_a_full_top(tmp_path):
    vae = small_pair().with_guide("ladder", hidden_x=((8,), (5,)), top="full")
    with torch.no_grad():
        vae.guide.top.bias[6:] = torch.tensor([0.8, -0.5, 0.3])  # correlations
    images = small_data().test.isel(image=slice(5))
    tree = hvae.export_posterior(vae, images, draws=4000, moment_draws=1000, prior_samples=2, receptive_fields=0)
    drawn = tree["posterior"]["z2"].isel(chain=0)
    se = drawn.std("draw") / 4000**0.5
    assert (abs(tree["posterior_moments"]["z2_mean"] - drawn.mean("draw")) < 5 * se).all()
    kl = (tree["log_density"]["z2_log_q"] - tree["log_density"]["z2_log_p"]).isel(chain=0)
    error = kl.std("draw") / 4000**0.5
    assert (abs(tree["posterior_moments"]["z2_kl"].sum("z2_dim") - kl.mean("draw")) < 5 * error).all()


def test_exact_bound_of_a_refined_ladder_is_below_the_evidence():
    vae = tiny_pair("markov", "ladder", ("laplace", "normal"), hidden=1, seed=5)
    x = images_of(vae)[:1]
    with torch.no_grad():
        evidence = float(exact_bound(vae, x[0], alpha=0, particles=2000, betas=(1.0, 1.0)))
    value, error = elbo(refine(vae, x, 200), x, 2000, 0)
    assert float(value) < evidence + 4 * float(error)
