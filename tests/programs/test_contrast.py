"""Pairs with contrast as a cause, against integrals over c that are known."""

import json

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from small import small_data
from torch.distributions import MultivariateNormal, Normal

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, LadderGuide, LinearModel, MarkovModel, MeanFieldGuide, TopDownGuide, from_config
from pyro_hvae.programs.contrast import ContrastGuide, ContrastModel, log_contrast

SPREAD = 0.7


def gaussian_pair() -> HVAE:
    """Normal z1 with orthogonal fields, under the ladder guide given c, which is then exact given c."""
    torch.manual_seed(0)
    base = LinearModel(6, (3,), ("normal",), noise=0.5).double()
    with torch.no_grad():
        Q, _ = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64))
        base.to_image.weight.copy_(Q * torch.tensor([0.7, 1.0, 1.6]))
    model = ContrastModel(base, SPREAD)
    vae = HVAE(model, ContrastGuide(model, LadderGuide(base), hidden=(4,)).double())
    with torch.no_grad():
        vae.guide.head.v_bias.fill_(-1.0)
        vae.guide.head.location_weight.uniform_(-0.3, 0.3)
    return vae


def two_layers(guide: str = "top_down", dependent: bool = True) -> HVAE:
    torch.manual_seed(1)
    base = MarkovModel(16, (6, 3), hidden=((7,),))
    sizes = dict(pixels=16 + (dependent and guide != "ladder"), dims=(6, 3))
    guides = {
        "top_down": lambda: TopDownGuide(**sizes, hidden_x=((8,), (5,)), hidden_z=((5,),), hidden_joint=((8,),)),
        "mean_field": lambda: MeanFieldGuide(**sizes, hidden=((8,), (5,))),
        "ladder": lambda: LadderGuide(base, hidden_x=((8,), (5,))),
    }
    model = ContrastModel(base)
    return HVAE(model, ContrastGuide(model, guides[guide](), hidden=(4,), dependent=dependent))


def images(n: int, pixels: int = 6) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    return (
        torch.randn(n, pixels, generator=draw, dtype=torch.float64)
        * torch.linspace(0.3, 3, n, dtype=torch.float64)[:, None]
    )


def given_c(base: LinearModel, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """log p(x | c), z1 integrated out, ``(c, image)``."""
    covariance = c.square()[:, None, None] * (base.A @ base.A.T) + base.sigma**2 * torch.eye(6, dtype=torch.float64)
    return MultivariateNormal(base.to_image.bias, covariance.unsqueeze(1)).log_prob(x)


@torch.no_grad()
def log_evidence(base: LinearModel, x: torch.Tensor) -> torch.Tensor:
    """log p(x), c integrated out on a grid."""
    log_c = torch.linspace(-6, 6, 2001, dtype=torch.float64) * SPREAD
    joint = given_c(base, x, log_c.exp()) + Normal(0.0, SPREAD).log_prob(log_c)[:, None]
    return torch.logsumexp(joint, 0) + torch.log(log_c[1] - log_c[0])


def test_the_density_is_the_one_written_down():
    vae = two_layers()
    with torch.no_grad():
        trace = poutine.trace(vae.model).get_trace(num_images=5)
    z1, z2, c, x = (trace.nodes[name]["value"].double().numpy() for name in ("z1", "z2", "c", "x"))
    assert c.shape == (5, 1) and (c > 0).all()
    base = vae.model.base
    with torch.no_grad():
        p_z1 = base.conditionals[0](trace.nodes["z2"]["value"]).base_dist
    A, b = base.A.detach().double().numpy(), base.to_image.bias.detach().double().numpy()
    expected = (
        stats.lognorm.logpdf(c, s=1.0).sum()
        + stats.norm.logpdf(z2).sum()
        + stats.laplace.logpdf(z1, p_z1.loc.numpy(), p_z1.scale.numpy()).sum()
        + stats.norm.logpdf(x, b + c * (z1 @ A.T), 0.4).sum()
    )
    assert float(trace.log_prob_sum()) == pytest.approx(expected, rel=1e-5)


def test_bound_and_evidence_are_the_integrals_over_c():
    vae, x = gaussian_pair(), images(5)
    base = vae.model.base
    with torch.no_grad():
        q = poutine.trace(vae.guide).get_trace(x).nodes["c"]["fn"].base_dist
        nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(60))
        log_c = q.loc + q.scale * nodes  # (image, node)
        parts = torch.stack([given_c(base, x[i : i + 1], log_c[i].exp())[:, 0] for i in range(5)])
        expected = (parts * weights).sum(-1) / weights.sum()
        expected -= torch.distributions.kl_divergence(Normal(q.loc, q.scale), Normal(0.0, SPREAD)).squeeze(-1)
        for gradient in ("standard", "rao_blackwell"):
            terms = hvae.ELBO(4000, gradient=gradient).evaluate(vae.model, vae.guide, x)
            again = torch.stack(
                [hvae.ELBO(200, gradient=gradient).evaluate(vae.model, vae.guide, x).bound for _ in range(20)]
            )
            error = again.std(0) * (200 / 4000) ** 0.5
            assert ((terms.bound - expected).abs() < 4 * error + 1e-6).all(), gradient
    exact = log_evidence(base, x)
    assert (expected < exact + 1e-9).all()
    found = hvae.evidence_importance_sampling(vae, x, 20_000, seed=0)
    assert (abs(found["log_evidence"] - exact.numpy()) < 4 * found["standard_error"] + 1e-3).all()


def test_given_c_the_ladder_guide_is_the_posterior():
    vae, x = gaussian_pair(), images(5)
    base = vae.model.base
    with torch.no_grad():
        trace = poutine.trace(vae.guide).get_trace(x)
        c, q = trace.nodes["c"]["value"], trace.nodes["z1"]["fn"]
        precision = torch.eye(3, dtype=torch.float64) + (c.square() / base.sigma**2)[:, :, None] * (base.A.T @ base.A)
        covariance = torch.linalg.inv(precision)
        mean = torch.einsum("nij,nj->ni", covariance, c * (x - base.to_image.bias) @ base.A / base.sigma**2)
    torch.testing.assert_close(q.mean, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(q.variance, covariance.diagonal(dim1=-2, dim2=-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dependent", [True, False])
@pytest.mark.parametrize("guide", ["top_down", "mean_field", "ladder"])
def test_integrating_z1_out_changes_no_expectation(guide, dependent):
    vae = two_layers(guide, dependent)
    x = images(3, 16).float()
    with torch.no_grad():
        sampled, closed = (
            torch.stack([hvae.ELBO(500, gradient=g).evaluate(vae.model, vae.guide, x).bound for _ in range(12)])
            for g in ("standard", "rao_blackwell")
        )
    error = ((sampled.var(0) + closed.var(0)) / 12).sqrt()
    assert ((sampled.mean(0) - closed.mean(0)).abs() < 4 * error).all()


def test_whether_the_layers_hang_on_c():
    x = images(4, 16).float()
    for dependent in (True, False):
        vae = two_layers("top_down", dependent)
        found = []
        for value in (0.5, 2.0):
            given = {"c": torch.full((4, 1), value), "z2": torch.zeros(4, 3)}
            with torch.no_grad():
                found.append(poutine.trace(poutine.condition(vae.guide, given)).get_trace(x).nodes["z1"]["fn"].mean)
        assert torch.equal(*found) is not dependent


def test_a_pair_is_made_again_from_its_configuration(tmp_path):
    for vae in (two_layers("ladder"), two_layers("top_down", False), two_layers("mean_field")):
        again = from_config(json.loads(json.dumps(vae.config)))
        again.load_state_dict(vae.state_dict())
        x = images(3, 16).float()
        traces = []
        for pair in (vae, again):
            torch.manual_seed(0)
            traces.append(poutine.trace(pair.guide).get_trace(x))
        for site in ("z1", "z2", "c"):
            assert torch.equal(*(t.nodes[site]["value"] for t in traces))
    assert vae.latents == {"z1": 6, "z2": 3, "c": 1}


def test_the_guide_is_swapped_and_keeps_what_it_knows_of_c():
    vae = hvae.build("EA-TDVAE20", pixels=16, dim_z1=6, dim_z2=3, seed=0)
    with torch.no_grad():
        vae.guide.head.location_bias.fill_(0.7)
    other = vae.with_guide("ladder")
    assert other.model is vae.model and isinstance(other.guide.base, LadderGuide)
    assert other.guide.head.location_bias.item() == pytest.approx(0.7)
    assert not vae.with_guide("mean_field", dependent=False).guide.dependent


def test_what_does_not_fit_is_refused():
    base = MarkovModel(16, (6, 3), hidden=((7,),))
    model = ContrastModel(base)
    with pytest.raises(
        HVAEError, match="must read 17 pixels .one of them log c. and infer dims=.6, 3., got a MeanFieldGuide of 16"
    ):
        ContrastGuide(model, MeanFieldGuide(16, (6, 3), hidden=((8,), (5,))))
    with pytest.raises(HVAEError, match="infers c of a ContrastModel, got MarkovModel"):
        ContrastGuide(base, LadderGuide(base))
    with pytest.raises(
        HVAEError, match="spread of log c is a standard deviation and must be positive, got spread=-1.0"
    ):
        ContrastModel(base, -1)
    with pytest.raises(HVAEError, match="one of our generative models, got Linear"):
        ContrastModel(torch.nn.Linear(2, 2))
    with pytest.raises(HVAEError, match="does not infer c of ContrastModel"):
        HVAE(model, MeanFieldGuide(16, (6, 3), hidden=((8,), (5,))))


@pytest.mark.parametrize(("name", "guide"), [("EA-LinearVAE20", None), ("EA-LinearVAE20", "ladder"), ("EA-TDVAE20", None),
                                             ("EA-TDVAE20", "ladder")])  # fmt: skip
def test_the_fast_start_puts_c_at_the_contrast(name, guide):
    data = hvae.stimuli.natural_patches(4, train=1500, test=200)
    sizes = dict(pixels=16, dim_z1=12) | (dict(dim_z2=3) if "TD" in name else {})
    vae = hvae.build(name, guide=guide, recipe="fast", data=data, seed=0, **sizes)
    x = torch.from_numpy(data.train["x"].values)
    with torch.no_grad():
        q = poutine.trace(vae.guide).get_trace(x).nodes["c"]["fn"].base_dist
    contrast = log_contrast(x - x.mean(0))
    torch.testing.assert_close(q.loc, contrast - contrast.mean(), atol=2e-3, rtol=1e-3)
    assert [start["start"] for start in vae.starts][-1] == "contrast" and vae.starts[0]["start"] == "ica"
    if guide == "ladder":  # where the images have their contrast, the layers explain them
        plain = hvae.build(name.removeprefix("EA-"), guide=guide, recipe="fast", data=data, seed=0, **sizes)
        with torch.no_grad():
            held_out = torch.from_numpy(data.test["x"].values)
            ours, theirs = (hvae.ELBO(8).evaluate(v.model, v.guide, held_out).bound.mean() for v in (vae, plain))
        assert ours > theirs


def test_one_graph_for_the_compiled_step():
    from pyro_hvae.published import Training
    from pyro_hvae.training.tracing import trace
    from pyro_hvae.training.training_step import TrainingStep

    vae = two_layers("ladder")
    betas = {site: torch.tensor(0.6) for site in vae.sites}
    step = TrainingStep(
        vae, hvae.ELBO(gradient="rao_blackwell"), dict(vae.named_parameters()), betas, Training(learning_rate=1e-3)
    )
    x = images(12, 16).float()
    with pyro.validation_enabled(False):
        graph = trace(step.function, x)
        results = []
        for run in (step.function, lambda *a: graph([p.detach() for p in step.parameters], *a)):
            torch.manual_seed(3)
            results.append(run(step.betas, x.flip(0), step.tally)[2])
    torch.testing.assert_close(*results)


def test_the_posterior_file_knows_c(tmp_path):
    data = small_data()
    vae = two_layers("ladder")
    tree = hvae.export_posterior(vae, data, draws=2000, moment_draws=200, path=tmp_path / "p.nc")
    moments = tree["posterior_moments"]
    assert moments["c_mean"].dims == ("image", "c_dim") and moments["c_mean"].sizes["c_dim"] == 1
    with torch.no_grad():
        q = poutine.trace(vae.guide).get_trace(torch.from_numpy(data.test["x"].values)).nodes["c"]["fn"]
    np.testing.assert_allclose(moments["c_mean"], q.mean, rtol=1e-4)
    np.testing.assert_allclose(moments["c_variance"], q.variance, rtol=1e-3)
    np.testing.assert_allclose(tree["constant_data"]["A"], vae.model.A.detach())
    bound = hvae.analysis.bound_terms(tree)
    assert bound["term"].values.tolist() == ["elbo", "reconstruction", "z1_kl", "z2_kl", "c_kl"]
    assert abs(float(bound["imbalance"][0])) < 1e-3 < float(bound["bound"].sel(term="c_kl")[0])
    drawn = tree["posterior"]["c"].isel(chain=0)
    assert (abs(drawn.mean("draw") - moments["c_mean"]) < 5 * drawn.std("draw") / 2000**0.5).all()


def test_refinement_finds_a_planted_error_in_c():
    """Normal z1, exact given c: the gap is that of q(c | x), of which refinement leaves what a LogNormal lacks."""
    from pyro_hvae.export.refinement import elbo, refine

    vae, x = gaussian_pair(), images(3)
    exact = log_evidence(vae.model.base, x)
    with torch.no_grad():
        vae.guide.head.location_weight.zero_()
        vae.guide.head.location_bias.fill_(1.0)
    spoilt = elbo(vae, x, 100, 0)
    refined = elbo(refine(vae, x, 150), x, 200, 1)
    assert (exact - spoilt[0] > 0.5).all()
    assert ((exact - refined[0]) < 0.15 + 4 * refined[1]).all()
    assert (refined[0] < exact + 4 * refined[1]).all()
