"""Nine ways to be wrong in Pyro 1.9: what plain Pyro answers, and what we answer instead."""

from __future__ import annotations

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from bounds.test_bounds_evidence import exact_bottom_up_pair
from bounds.test_gradients import bound_of, deviations, flat, naive_dreg
from bounds.test_objectives import Scaled
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer import RenyiELBO as PyroRenyi
from pyro.infer.importance import psis_diagnostic
from pyro.infer.predictive import WeighedPredictive
from pyro.nn import PyroModule
from quadrature import (
    affine_model,
    exact_bound,
    images_of,
    linear_gaussian_posterior,
    near_exact_guide,
    paper_bound,
    tiny_pair,
)
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO, RenyiELBO
from pyro_hvae.bounds.pyro_objectives import check_objective
from pyro_hvae.bounds.traces import log_weights
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, GenerativeModel
from pyro_hvae.sampling.diagnostics import pareto_k

OURS = [
    ELBO(),
    ELBO(3),
    ELBO(gradient="stl"),
    ELBO(gradient="rao_blackwell"),
    ImportanceWeightedELBO(4),
    ImportanceWeightedELBO(4, gradient="dreg"),
    RenyiELBO(0.5, 4, gradient="dreg"),
]


def pyro_iw(particles: int) -> PyroRenyi:
    return PyroRenyi(alpha=0.0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)


def gaussian_pair(images: int = 20, inflation: float = 1.5) -> tuple[HVAE, torch.Tensor, float]:
    """A linear-Gaussian pair whose guide is too broad by a factor, some images, and their exact log p(x)."""
    model = affine_model(1, seed=2)
    torch.manual_seed(0)
    x = model(num_images=images).detach()
    vae = HVAE(model, near_exact_guide(model, inflation))
    return vae, x, float(linear_gaussian_posterior(model, x)[0].sum())


# ---- 1. weights of the whole batch ----------------------------------------------------------------------------------


def plain(vae: HVAE) -> tuple[nn.Module, nn.Module]:
    """The pair's arithmetic as programs with the images in the event, written without a plate."""
    _, head = vae.guide.conditionals[0]
    model = vae.model

    class Model(nn.Module):
        def forward(self, x):
            z = pyro.sample("z1", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(model.to_image(z), model.sigma).to_event(2), obs=x)

    class Guide(nn.Module):
        def forward(self, x):
            pyro.sample("z1", head(x).base_dist.to_event(2))

    return Model(), Guide()


def test_1_images_in_the_event():
    """Pyro: one weight for the batch, and a bound that importance weighting hardly improves. We: an error."""
    vae, x, evidence = gaussian_pair(40, inflation=2.5)
    k = 200
    batch_weights = PyroRenyi(alpha=0.0, num_particles=k, vectorize_particles=True, max_plate_nesting=0)
    torch.manual_seed(0)
    with torch.no_grad():
        ours = -ImportanceWeightedELBO(k).loss(vae.model, vae.guide, x)
        in_plate = -pyro_iw(k).loss(vae.model, vae.guide, x)
        whole_batch = -batch_weights.loss(*plain(vae), x)
    assert ours == pytest.approx(evidence, abs=1.5) and in_plate == pytest.approx(evidence, abs=1.5)
    assert whole_batch < evidence - 10
    with pytest.raises(HVAEError, match="images in the event"):
        ImportanceWeightedELBO(k).evaluate(*plain(vae), x)


class Subsample(nn.Module):
    """The program of a pair, whose plate says that the images are a tenth of all."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x):
        with pyro.plate("image", 10 * len(x), subsample_size=len(x), dim=-1):
            if isinstance(self.program, GenerativeModel):
                z = pyro.sample("z1", self.program.prior())
                pyro.sample("x", dist.Normal(self.program.image_mean({1: z}), self.program.sigma).to_event(1), obs=x)
            else:
                pyro.sample("z1", self.program.conditionals[0](x))


def test_1_subsampled_plates_and_scales_inside_the_exponent():
    """Pyro: above the log evidence it claims to bound. We: N/B times the bound; a scale on the image is refused."""
    vae, x, evidence = gaussian_pair()
    model, guide = Subsample(vae.model), Subsample(vae.guide)
    k = 200
    torch.manual_seed(0)
    with torch.no_grad():
        pyros = -pyro_iw(k).loss(model, guide, x)
        ours = -ImportanceWeightedELBO(k).loss(model, guide, x)
        scaled = -pyro_iw(k).loss(poutine.scale(vae.model, 10.0), poutine.scale(vae.guide, 10.0), x)
    assert pyros > 10 * evidence + 50 and scaled > 10 * evidence + 50
    assert 10 * evidence - 3 < ours < 10 * evidence + 2
    with pytest.raises(HVAEError, match="inside an importance weight a scaled likelihood gives values above log p"):
        ImportanceWeightedELBO(k).evaluate(poutine.scale(vae.model, 10.0), poutine.scale(vae.guide, 10.0), x)


# ---- 2. analytic KL where it is not valid ---------------------------------------------------------------------------


def test_2_mean_field_elbo_of_a_bottom_up_guide(recwarn):
    """z2 is inferred from z1, so KL[q(z1|x) | p(z1|z2)] at the drawn z2 is not its expectation. With the exact guide the
    ELBO is log p(x); Pyro's is another number, without a word once validation is off."""
    vae = exact_bottom_up_pair()
    image = torch.tensor([0.3, -0.2, 0.5]).double()
    evidence = float(linear_gaussian_posterior(vae.model, image[None])[0].item())
    copies = image.expand(50_000, -1)
    torch.manual_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False):
        pyros = -TraceMeanField_ELBO().loss(vae.model, vae.guide, copies) / len(copies)
        ours = -ELBO().loss(vae.model, vae.guide, copies) / len(copies)
        trace = -Trace_ELBO().loss(vae.model, vae.guide, copies) / len(copies)
    assert not recwarn.list
    assert ours == pytest.approx(evidence, abs=0.01) and trace == pytest.approx(evidence, abs=0.01)
    assert abs(pyros - evidence) > 0.05
    with pytest.raises(HVAEError, match="TraceMeanField_ELBO takes the KL of z1 analytically, which is wrong"):
        check_objective(TraceMeanField_ELBO(), vae, copies[:3])
    check_objective(TraceMeanField_ELBO(), tiny_pair("markov", "top_down"), images_of(vae)[:, :2])


def test_2_it_reads_the_guides_scale_alone():
    """A scale on the model's latent sites (a beta, in Pyro's tutorials) is ignored by TraceMeanField_ELBO."""
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    losses = []
    for scale in (1.0, 0.01):
        torch.manual_seed(0)
        losses.append(TraceMeanField_ELBO().loss(Scaled(vae.model, scale), vae.guide, x))
    assert losses[0] == losses[1]
    with pytest.raises(HVAEError, match=r"site z\d has scale 0.01 in the model and 1 in the guide"):
        ELBO().evaluate(Scaled(vae.model, 0.01), vae.guide, x)


# ---- 3. beta = 0 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, torch.tensor(0.0).double()])
@pytest.mark.parametrize("objective", [ELBO, lambda beta: ImportanceWeightedELBO(3, beta=beta, gradient="dreg")])
def test_3_a_beta_of_zero(beta, objective):
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    with pytest.raises(ValueError, match="scale"):
        poutine.scale(vae.model, 0.0)
    evaluation = objective(beta={"z2": beta}).evaluate(vae.model, vae.guide, x)
    evaluation.bound.sum().backward()
    assert evaluation.bound.isfinite().all()
    assert all(p.grad.isfinite().all() for p in vae.parameters())
    if objective is ELBO:
        torch.manual_seed(0)
        copies = x[:1].expand(20_000, -1)
        with torch.no_grad():
            bound = ELBO(beta={"z2": beta}).evaluate(vae.model, vae.guide, copies).bound
        exact = paper_bound(vae, x[:1], (1.0, 0.0)).item()
        assert abs(bound.mean().item() - exact) < 4 * bound.std().item() / 20_000**0.5


# ---- 4. two modules, one name ---------------------------------------------------------------------------------------


class TheirNet(PyroModule):
    pixels = 2

    def __init__(self, generative):
        super().__init__()
        self.generative, self.net = generative, PyroModule[nn.Linear](2, 2)

    def forward(self, x):
        with pyro.plate("image", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2) if self.generative else self.net(x), 1.0).to_event(1))
            if self.generative:
                pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


def trained(model, guide, x, loss) -> list[bool]:
    """For each parameter of model and guide: does a step of SVI change it?"""
    before = copy.deepcopy([*model.parameters(), *guide.parameters()])
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss).step(x)
    return [not torch.equal(p, q) for p, q in zip([*model.parameters(), *guide.parameters()], before, strict=True)]


def test_4_parameters_of_the_same_name():
    """Pyro: the store hands the guide's ``net.weight`` to the model too. We: parameters belong to the module."""
    torch.manual_seed(0)
    x = torch.randn(5, 2)
    pyro.clear_param_store()
    assert not all(trained(TheirNet(True), TheirNet(False), x, Trace_ELBO()))
    assert set(pyro.get_param_store().keys()) == {"net.weight", "net.bias"}  # four tensors, two names
    pyro.clear_param_store()
    vae = tiny_pair("markov", "bottom_up").float()  # both have a module "conditionals.0"
    shared = {n for n, _ in vae.model.named_parameters()} & {n for n, _ in vae.guide.named_parameters()}
    assert shared
    for loss in (Trace_ELBO(), ELBO()):
        assert all(trained(vae.model, vae.guide, x, loss))
    assert len(pyro.get_param_store()) == 0


# ---- 5. host synchronisation ----------------------------------------------------------------------------------------


class CountSyncs(TorchDispatchMode):
    """Operations that make a host wait for its device."""

    WAITING = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.WAITING
        return func(*args, **(kwargs or {}))


def syncs(call) -> int:
    call()  # once, for what is found at the first call
    with pyro.validation_enabled(False), CountSyncs() as counter:
        call()
    return counter.count


@pytest.mark.parametrize("guide", ["top_down", "bottom_up"])
def test_5_no_step_waits_for_the_device(guide):
    vae = tiny_pair("markov", guide)
    x = images_of(vae)
    for theirs in (Trace_ELBO(), TraceMeanField_ELBO(), pyro_iw(3)):
        assert syncs(lambda theirs=theirs: theirs.loss_and_grads(vae.model, vae.guide, x)) >= 1
    assert syncs(lambda: Trace_ELBO().loss_and_grads(vae.model, vae.guide, x)) >= 5
    betas = {"z2": torch.tensor(0.5).double()}
    for objective in OURS:
        if guide == "bottom_up" and objective.gradient == "rao_blackwell":
            continue
        ours = copy.copy(objective)
        ours.beta = betas
        assert syncs(lambda ours=ours: ours.evaluate(vae.model, vae.guide, x).bound.mean().backward()) == 0
        assert syncs(lambda ours=ours: ours.differentiable_loss(vae.model, vae.guide, x).backward()) == 0
        assert (
            syncs(lambda ours=ours: ours.loss_and_grads(vae.model, vae.guide, x)) == 1
        )  # returns a float, as SVI asks


# ---- 6. Laplace draws under the JIT ---------------------------------------------------------------------------------


def test_6_infinite_laplace_draws(monkeypatch):
    """torch.distributions draws u = 2 rand - 1 while the JIT traces, and rand returns 0 once in 2^24 draws: log 0."""
    traced = torch.jit.trace(
        lambda scale: dist.Laplace(torch.zeros(3), scale).rsample(), torch.ones(3), check_trace=False
    )
    assert "rand" in str(traced.graph)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, **options: torch.zeros(3))
        constant = torch.jit.trace(
            lambda scale: dist.Laplace(torch.zeros(3), scale).rsample(), torch.ones(3), check_trace=False
        )
    assert constant(torch.ones(3)).isinf().all()
    with pytest.raises(HVAEError, match="JitTrace_ELBO draws infinite values from Laplace sites"):
        check_objective(JitTrace_ELBO(), tiny_pair("markov", "top_down"), torch.zeros(2, 2).double())
    # the branch that ours use, traced or not, at the very ends of its draws
    for dtype in (torch.float32, torch.float64):
        ends = torch.tensor([torch.finfo(dtype).eps - 1, 1 - torch.finfo(dtype).eps], dtype=dtype)
        assert torch.log1p(-ends.abs()).isfinite().all()
    graph = make_fx(lambda scale: dist.Laplace(torch.zeros(3), scale, validate_args=False).rsample())(torch.ones(3))
    assert "uniform" in graph.code and "rand" not in graph.code


# ---- 7. doubly reparametrised gradients of hierarchical guides ------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "guide", "seed", "biased"),
    [("linear", "mean_field", 5, False), ("markov", "top_down", 5, True), ("markov", "bottom_up", 2, True)],
)
def test_7_stopping_locations_and_scales(model, guide, seed, biased):
    """Right for one layer. In a hierarchical guide it also cuts the path from a value to the densities conditioned on it."""
    vae = tiny_pair(model, guide, ("normal", "normal"), hidden=1, seed=seed)
    image, ones, k = images_of(vae)[1], (1.0,) * len(vae.latents), 10
    exact_bound(vae, image, alpha=0, particles=k, betas=ones, panels=(40, 16)).backward()
    exact = flat(vae)
    of_guide = torch.cat([torch.full((p.numel(),), n.startswith("guide")) for n, p in vae.named_parameters()])
    naive = deviations(vae, image, naive_dreg(vae, k), exact)[of_guide].abs().max()
    ours = (
        deviations(vae, image, bound_of(vae, ImportanceWeightedELBO(k, gradient="dreg")), exact)[of_guide].abs().max()
    )
    assert ours < 4
    assert naive > 10 if biased else naive < 4


# ---- 8. one diagnostic for the batch --------------------------------------------------------------------------------


class FailsForBright(nn.Module):
    """A good guide, but for images whose first pixel is bright, where it is far too narrow."""

    def __init__(self, guide):
        super().__init__()
        self.guide = guide

    def forward(self, x):
        _, head = self.guide.conditionals[0]
        q = head(x).base_dist
        scale = torch.where(x[:, :1] > 5, 0.3 * q.scale, q.scale)
        with pyro.plate("image", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(q.loc, scale).to_event(1))


def test_8_which_image_is_it():
    """Pyro: one k-hat for the batch, from products of all images' weights. We: one an image, ArviZ's on its own weights."""
    import arviz

    vae, x, _ = gaussian_pair(8)
    x[3, 0] = 6.0
    guide = FailsForBright(vae.guide)
    torch.manual_seed(0)
    with torch.no_grad():
        of_batch = psis_diagnostic(vae.model, guide, x, num_particles=2000, max_plate_nesting=1)
        log_w = log_weights(vae.model, guide, x, 2000).numpy()
    assert isinstance(of_batch, float)
    k = pareto_k(log_w)
    assert k.shape == (8,)
    assert k[3] > 0.7 and (k[[0, 1, 2, 4, 5, 6, 7]] < 0.5).all()
    for i in range(8):
        assert k[i] == pytest.approx(float(arviz.psislw(log_w[:, i])[1]))
    theirs = WeighedPredictive(vae.model, guide=guide, num_samples=50, parallel=True)(x)
    assert theirs.log_weights.shape == (50,)  # not (50, 8)


# ---- 9. compilation -------------------------------------------------------------------------------------------------


class TheirPair(nn.Module):
    def __init__(self, generative):
        super().__init__()
        self.generative, self.net = generative, nn.Linear(2, 2)

    forward = TheirNet.forward


class Loss(nn.Module):
    def __init__(self, vae, objective):
        super().__init__()
        self.vae, self.objective = vae, objective

    def forward(self, x):
        return self.objective.differentiable_loss(self.vae.model, self.vae.guide, x)


def test_9_torch_compile_breaks_pyros_elbo():
    model, guide, x = TheirPair(True), TheirPair(False), torch.randn(4, 2)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(lambda x: Trace_ELBO().differentiable_loss(model, guide, x))(x)
    torch._dynamo.reset()
    assert explained.graph_break_count >= 1


@pytest.mark.parametrize("objective", OURS[1:4] + OURS[5:6], ids=str)  # one of each estimator
def test_9_one_graph_for_loss_and_gradient(objective):
    """Traced once through Pyro, loss and gradients of every estimator are one graph that compiles without a break."""
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae, 5)
    loss = Loss(vae, copy.copy(objective))
    parameters = {n: p.detach().clone().requires_grad_() for n, p in loss.named_parameters()}

    def step(parameters, x):
        value = torch.func.functional_call(loss, parameters, (x,))
        return value, torch.autograd.grad(value, list(parameters.values()))

    with pyro.validation_enabled(False):
        loss(x)
        graph = make_fx(step)(parameters, x)
        other = {n: p.detach() + 0.1 for n, p in parameters.items()}
        for given, images in ((parameters, x), ({n: p.requires_grad_() for n, p in other.items()}, x + 1)):
            torch.manual_seed(0)
            eager = step(given, images)
            torch.manual_seed(0)
            traced = graph(given, images)
            assert math.isfinite(eager[0].item())
            torch.testing.assert_close(traced, eager)
        draws = [graph(parameters, x)[0].item() for _ in range(2)]
    assert draws[0] != draws[1]
    torch._dynamo.reset()
    compiled = torch.compile(graph, backend="eager", fullgraph=True)  # fullgraph: a break would raise
    assert compiled(parameters, x)[0].isfinite()
    torch._dynamo.reset()
