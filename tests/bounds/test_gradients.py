"""Every estimator's mean gradient against the exact one, and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from quadrature import exact_bound, images_of, paper_bound, tiny_pair
from torch import Tensor, nn

from pyro_hvae.bounds import gradients
from pyro_hvae.bounds.objectives import ELBO, Bound, ImportanceWeightedELBO, RenyiELBO
from pyro_hvae.bounds.traces import log_prob, sample_sites, trace_pair
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, MarkovModel

BETAS = (0.8, 1.25)
BLOCKS, BLOCK = 100, 1000  # 100,000 replicates of the estimator; the standard error is that between blocks
PAIRS = [("linear", "mean_field"), ("markov", "top_down"), ("markov", "bottom_up")]
FAMILIES = [("laplace", "normal"), ("normal", "normal")]


@cache
def pair(model: str, guide: str, families: tuple[str, str]) -> tuple[HVAE, Tensor]:
    vae = tiny_pair(model, guide, families, hidden=1, seed=5)
    return vae, images_of(vae)[1]


def flat(vae: HVAE) -> Tensor:
    return torch.cat([p.grad.flatten() for p in vae.parameters()])


@cache
def exact_gradient(
    model: str, guide: str, families: tuple[str, str], alpha: float, particles: int, fine: int = 1
) -> Tensor:
    vae, image = pair(model, guide, families)
    vae.zero_grad()
    betas, panels = BETAS[: len(vae.latents)], (40 * fine, 16 * fine)
    exact_bound(vae, image, alpha=alpha, particles=particles, betas=betas, panels=panels).backward()
    return flat(vae)


def betas_of(vae: HVAE) -> dict[str, float]:
    return dict(zip(vae.sites, BETAS, strict=False))


def deviations(vae: HVAE, image: Tensor, surrogate: Callable[[Tensor], Tensor], exact: Tensor, seed: int = 0) -> Tensor:
    """Mean gradient minus the exact one, in standard errors, for every parameter.

    :param surrogate: of images ``(image, pixel)``: what is averaged over the replicates and differentiated.
    """
    torch.manual_seed(seed)
    copies = image.expand(BLOCK, -1)
    blocks = []
    with pyro.validation_enabled(False):
        for _ in range(BLOCKS):
            vae.zero_grad(set_to_none=False)
            surrogate(copies).mean().backward()
            blocks.append(flat(vae))
    values = torch.stack(blocks)
    error = values.std(0) / BLOCKS**0.5
    # the floor is for gradients without noise (rao_blackwell), judged by the quadrature's own accuracy
    return (values.mean(0) - exact) / (error + 1e-5 * (1 + exact.abs()))


def bound_of(vae: HVAE, objective: Bound) -> Callable[[Tensor], Tensor]:
    return lambda x: objective.evaluate(vae.model, vae.guide, x).bound


def objective_of(vae: HVAE, alpha: float, particles: int, gradient: str) -> Bound:
    if alpha == 1:
        return ELBO(particles, beta=betas_of(vae), gradient=gradient)
    return RenyiELBO(alpha, particles, beta=betas_of(vae), gradient=gradient)


def check(model: str, guide: str, families: tuple[str, str], alpha: float, particles: int, gradient: str) -> None:
    vae, image = pair(model, guide, families)
    exact = exact_gradient(model, guide, families, alpha, particles)
    off = deviations(vae, image, bound_of(vae, objective_of(vae, alpha, particles, gradient)), exact)
    worst = off.abs().max().item()
    names = [n for n, p in vae.named_parameters() for _ in range(p.numel())]
    assert worst < 4, f"{names[int(off.abs().argmax())]} is {worst:.1f} standard errors off"
    assert exact.abs().min() > 1e-6, "a parameter without gradient tests nothing"


# alpha, particles, gradient
SMALL = [
    (1.0, 1, "standard"),
    (1.0, 3, "stl"),
    (1.0, 1, "rao_blackwell"),
    (0.0, 1, "dreg"),
    (0.0, 3, "dreg"),
    (0.0, 10, "dreg"),
    (0.0, 10, "standard"),
    (0.5, 3, "dreg"),
    (2.0, 3, "dreg"),
]
LARGE = [(1.0, k, g) for k in (1, 3, 10) for g in ("standard", "stl", "dreg", "rao_blackwell")]
LARGE += [(a, k, g) for a in (0.0, 0.5, 2.0) for k in (1, 3, 10) for g in ("standard", "dreg")]


def cases(of: list[tuple[float, int, str]]) -> list[Any]:
    return [
        (model, guide, families, *case)
        for model, guide in PAIRS
        for families in FAMILIES
        for case in of
        if not (case[2] == "rao_blackwell" and guide == "bottom_up")
    ]


@pytest.mark.parametrize(("model", "guide", "families", "alpha", "particles", "gradient"), cases(SMALL))
def test_the_mean_gradient_is_exact(model, guide, families, alpha, particles, gradient):
    check(model, guide, families, alpha, particles, gradient)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "guide", "families", "alpha", "particles", "gradient"), [c for c in cases(LARGE) if c not in cases(SMALL)]
)
def test_the_mean_gradient_is_exact_everywhere(model, guide, families, alpha, particles, gradient):
    check(model, guide, families, alpha, particles, gradient)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "particles", "gradient"), [(1.0, 1, "standard"), (1.0, 1, "rao_blackwell"), (0.0, 3, "dreg")]
)
@pytest.mark.parametrize(("model", "guide"), [("skip", "top_down"), ("skip", "mean_field"), ("markov", "mean_field")])
def test_the_other_pairs(model, guide, alpha, particles, gradient):
    check(model, guide, ("laplace", "normal"), alpha, particles, gradient)


# ---- the judge ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_the_exact_gradient_is_converged_and_that_of_the_papers_bound(model, guide):
    families = ("laplace", "normal")
    for alpha, particles in ((1.0, 1), (0.0, 3)):
        coarse, fine = (exact_gradient(model, guide, families, alpha, particles, f) for f in (1, 2))
        torch.testing.assert_close(coarse, fine, atol=1e-5, rtol=1e-5)
    vae, image = pair(model, guide, families)
    gradient = exact_gradient(model, guide, families, 1.0, 1)
    step, i = 1e-3, 0
    for p in vae.parameters():
        with torch.no_grad():
            entry = p.view(-1)[:1]
            value = entry.clone()
            moved = []
            for sign in (1, -1):
                entry.copy_(value + sign * step)
                moved.append(paper_bound(vae, image[None], BETAS[: len(vae.latents)]).item())
            entry.copy_(value)
        assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(gradient[i].item(), abs=2e-3, rel=2e-3)
        i += p.numel()


def test_stl_inside_an_importance_weighted_bound_would_be_found_out(monkeypatch):
    monkeypatch.setattr(Bound, "_check_gradient", lambda self: None)
    monkeypatch.setattr(gradients, "path_scale", lambda weights, beta, alpha: torch.ones_like(weights))
    case = ("linear", "mean_field", ("normal", "normal"))
    vae, image = pair(*case)
    objective = ImportanceWeightedELBO(3, beta=betas_of(vae), gradient="stl")
    off = deviations(vae, image, bound_of(vae, objective), exact_gradient(*case, 0.0, 3))
    assert off.abs().max() > 10


def naive_dreg(vae: HVAE, particles: int) -> Callable[[Tensor], Tensor]:
    """Σ ŵ² log w with locations and scales detached in log q: the guide's gradient of Tucker et al. 2019 read literally."""

    def surrogate(x: Tensor) -> Tensor:
        drawn = trace_pair(vae.model, vae.guide, (x,), {}, particles)
        log_w = torch.stack([log_prob(site) for site in (drawn.latents | drawn.observed).values()]).sum(0)
        for name, site in sample_sites(drawn.guide, observed=False).items():
            loc, scale = site["fn"].base_dist.loc, site["fn"].base_dist.scale
            family = {"laplace": dist.Laplace, "normal": dist.Normal}[vae.guide.families[int(name[1:]) - 1]]
            log_w = log_w - family(loc.detach(), scale.detach()).log_prob(site["value"]).sum(-1)
        weights = torch.softmax(log_w.detach(), 0)
        return (weights.square() * log_w).sum(0)

    return surrogate


# ---- variance -------------------------------------------------------------------------------------------------------


def gradient_noise(vae: HVAE, image: Tensor, objective: Bound, of: str) -> tuple[float, float]:
    """Norm of the mean gradient and root of the summed variance, between blocks of replicates."""
    torch.manual_seed(0)
    part = vae.get_submodule(of)
    rows = []
    with pyro.validation_enabled(False):
        for _ in range(100):
            vae.zero_grad()
            objective.evaluate(vae.model, vae.guide, image.expand(200, -1)).bound.mean().backward()
            rows.append(torch.cat([p.grad.flatten() for p in part.parameters()]))
    values = torch.stack(rows)
    return values.mean(0).norm().item(), values.var(0).sum().sqrt().item()


def test_signal_to_noise_grows_with_k_for_dreg_and_falls_for_standard():
    vae, image = pair("markov", "top_down", ("laplace", "normal"))
    ratio = {}
    for gradient in ("standard", "dreg"):
        for k in (4, 64):
            signal, noise = gradient_noise(vae, image, ImportanceWeightedELBO(k, gradient=gradient), "guide")
            ratio[gradient, k] = signal / noise
    assert ratio["dreg", 64] > 2 * ratio["dreg", 4]
    assert ratio["standard", 64] < 0.6 * ratio["standard", 4]


@pytest.mark.parametrize(("model", "guide"), PAIRS[:2])
def test_rao_blackwell_has_less_noise(model, guide):
    vae, image = pair(model, guide, ("laplace", "normal"))
    for part in ("model", "guide"):
        _, standard = gradient_noise(vae, image, ELBO(), part)
        _, rao_blackwell = gradient_noise(vae, image, ELBO(gradient="rao_blackwell"), part)
        assert rao_blackwell < (1e-8 if model == "linear" else 0.7 * standard)


def test_sticking_the_landing_has_no_noise_at_the_exact_guide():
    from bounds.test_bounds_evidence import exact_bottom_up_pair, exact_mean_field_pair

    for vae in (exact_mean_field_pair(), exact_bottom_up_pair()):
        image = torch.randn(3 if len(vae.latents) == 2 else 5).double()
        for objective in (ELBO(gradient="stl"), ImportanceWeightedELBO(5, gradient="dreg")):
            _, noise = gradient_noise(vae, image, objective, "guide")
            assert noise < 1e-6
        _, noise = gradient_noise(vae, image, ELBO(), "guide")
        assert noise > 1e-2


# ---- refusals -------------------------------------------------------------------------------------------------------


class OwnGuide(nn.Module):
    """A one-layer guide with a site of the given kind."""

    pixels = 2

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.loc = kind, nn.Parameter(torch.zeros(1).double())

    def forward(self, x):
        loc = self.loc
        if self.kind == "param":
            loc = pyro.param("global_loc", torch.zeros(1).double())
        base = {
            "param": lambda: dist.Normal(loc + 0 * x[:, :1], 1.0),
            "gamma": lambda: dist.Gamma(2.0, 1 + 0 * x[:, :1] + loc.exp()),
            "normal": lambda: dist.Normal(loc + 0 * x[:, :1], 1.0),
            "student": lambda: dist.StudentT(5.0, loc + 0 * x[:, :1], 1.0),
        }[self.kind]()
        with pyro.plate("image", len(x)):
            pyro.sample("z1", base.to_event(1))


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_path_gradients_refuse_what_they_cannot_stop(gradient):
    pyro.clear_param_store()
    model = tiny_pair("linear", "mean_field", ("normal",)).model
    x = images_of(model)
    objective = ELBO(gradient=gradient)
    with pytest.raises(HVAEError, match=r"site z1 is a Gamma; .* location-scale family"):
        objective.evaluate(model, OwnGuide("gamma"), x)
    with pytest.raises(HVAEError, match=r"not its module parameters \(pyro.param, .*nn.Parameter"):
        objective.evaluate(model, OwnGuide("param"), x)
    guide = OwnGuide("normal")
    with pytest.raises(HVAEError, match=r"need a guide that is an nn\.Module"):
        objective.evaluate(model, lambda x: guide(x), x)
    for kind in ("normal", "student"):
        assert objective.evaluate(model, OwnGuide(kind), x).bound.isfinite().all()
    pyro.clear_param_store()


class OwnModel(nn.Module):
    """One latent layer of one dimension, an image of two pixels, in ways that z1 cannot be integrated out."""

    pixels = 2

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        if kind != "no A":
            self.A = nn.Parameter(torch.tensor([[1.0], [2.0]]).double())

    def forward(self, x):
        with pyro.plate("image", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            linear = z * torch.tensor([1.0, 2.0]).double()
            fn = {
                "tanh": lambda: dist.Normal(linear.tanh(), 1.0),
                "another A": lambda: dist.Normal(2 * linear, 1.0),
                "noise": lambda: dist.Normal(linear, 1 + z.square()),
                "laplace": lambda: dist.Laplace(linear, 1.0),
                "no A": lambda: dist.Normal(linear, 1.0),
                "linear": lambda: dist.Normal(linear + 3, 1.0),
                "two": lambda: dist.Normal(linear, 1.0),
            }[self.kind]()
            pyro.sample("x", fn.to_event(1), obs=x)
            if self.kind == "two":
                pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=x[:, :1])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no A", r"needs a latent site z1 and an attribute A \(pixel, z1_dim\)"),
        ("tanh", "the mean of x is not A z1"),
        ("another A", "the mean of x is not A z1"),
        ("noise", "at constant noise"),
        ("laplace", "x is Independent, where a Normal image is needed"),
        ("two", r"\['x', 'y'\] depend on z1, where only the image should"),
    ],
)
def test_rao_blackwell_refuses_what_is_not_linear(kind, message):
    objective = ELBO(gradient="rao_blackwell")
    x = torch.randn(3, 2).double()
    with pytest.raises(HVAEError, match=message):
        objective.evaluate(OwnModel(kind), OwnGuide("normal"), x)


class TheirGuide(PyroModule):
    """Pyro's own way of writing modules, a constrained parameter included."""

    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](2, 1).double()
        self.scale = PyroParam(torch.tensor(0.7).double(), dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("image", len(x)):
            pyro.sample("z1", dist.Normal(self.net(x), self.scale).to_event(1))


def test_path_gradients_of_a_pyro_module():
    """In the global store its parameters cannot be stopped, and that is said; local ones are."""
    model = tiny_pair("linear", "mean_field", ("normal",)).model
    x = images_of(model)[:1].expand(50_000, -1)
    pyro.clear_param_store()
    with pytest.raises(HVAEError, match=r"module_local_params=True"):
        ELBO(gradient="stl").evaluate(model, TheirGuide(), x)
    pyro.clear_param_store()
    results = []
    with pyro.settings.context(module_local_params=True):
        for gradient in ("standard", "stl"):
            guide = TheirGuide()
            for p in guide.parameters():
                p.data.fill_(0.3)
            torch.manual_seed(0)
            ELBO(gradient=gradient).evaluate(model, guide, x).bound.mean().backward()
            results.append(torch.cat([p.grad.flatten() for p in guide.parameters()]))
    torch.testing.assert_close(*results, atol=0.02, rtol=0.01)


def test_rao_blackwell_takes_an_own_linear_model():
    torch.manual_seed(0)
    x = torch.randn(3, 2).double()
    model, guide = OwnModel("linear"), OwnGuide("normal")
    exact = ELBO(gradient="rao_blackwell").evaluate(model, guide, x).bound
    with torch.no_grad():
        sampled = ELBO(100_000).evaluate(model, guide, x).bound
    torch.testing.assert_close(exact, sampled, atol=0.1, rtol=0)


def test_rao_blackwell_refuses_a_middle_layer_that_reads_z1():
    class Feedback(MarkovModel):
        """x depends on z1, and so does another observed thing above it."""

        def forward(self, x):
            with pyro.plate("image", len(x)):
                z1 = pyro.sample("z1", self.prior())
                z2 = pyro.sample("z2", dist.Normal(z1, 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.to_image(z1) + z2, self.sigma).to_event(1), obs=x)

    model = Feedback(2, (1, 1), ("normal", "normal"), ((2,),)).double()
    guide = tiny_pair("markov", "top_down", ("normal", "normal")).guide
    with pytest.raises(HVAEError, match=r"\['x', 'z2'\] depend on z1"):
        ELBO(gradient="rao_blackwell").evaluate(model, guide, torch.randn(3, 2).double())
