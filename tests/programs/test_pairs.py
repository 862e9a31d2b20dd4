"""HVAE: which pairs fit, what sharing a model means, and what survives a round trip."""

from __future__ import annotations

import copy
import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.nn import PyroModule
from torch import nn

from pyro_hvae.bounds.objectives import ELBO
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import (
    GUIDES,
    HVAE,
    MODELS,
    BottomUpGuide,
    LinearModel,
    MarkovModel,
    MeanFieldGuide,
    SkipModel,
    TopDownGuide,
    from_config,
    make_guide,
)
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.published import build


def small_model(name: str, dims=(3, 2), pixels=4, families=None, **options) -> nn.Module:
    if name == "linear":
        return LinearModel(pixels, dims[:1], families and families[:1], **options)
    hidden = ((5,),) * (len(dims) - 1)
    more = {"skip_hidden": (4, 3)} if name == "skip" else {}
    return MODELS[name](pixels, dims, families, hidden, **more, **options)


def small_guide(name: str, dims=(3, 2), pixels=4, families=None) -> nn.Module:
    upper = len(dims) - 1
    if name == "top_down":
        return TopDownGuide(pixels, dims, families, ((5,),) * (upper + 1), ((5,),) * upper, ((6,),) * upper)
    return GUIDES[name](pixels, dims, families, ((5,),) * (upper + 1))


def small_pair(model="markov", guide="top_down", dims=(3, 2), pixels=4, families=None) -> HVAE:
    dims = dims[:1] if model == "linear" else dims
    program = small_model(model, dims, pixels, families)
    if guide == "ladder":
        return HVAE(program, LadderGuide(program, ((5,),) * len(dims) if len(dims) > 1 else ()))
    return HVAE(program, small_guide(guide, dims, pixels, families))


# ---- pairs that fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dims", [(3, 2), (3, 2, 2)])
def test_every_guide_fits_every_model(model, guide, dims):
    vae = small_pair(model, guide, dims)
    expected = dict(zip(("z1", "z2", "z3"), dims, strict=False))
    assert vae.latents == ({"z1": 3} if model == "linear" else expected)
    assert vae.sites == tuple(vae.latents)
    x = torch.randn(7, 4)
    assert ELBO().evaluate(vae.model, vae.guide, x).bound.shape == (7,)
    assert ELBO(3).evaluate(vae.model, vae.guide, x).bound.shape == (7,)


@settings(max_examples=25, deadline=None)
@given(
    pixels=st.integers(1, 6),
    dims=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    hidden=st.lists(st.lists(st.integers(1, 4), max_size=2), min_size=3, max_size=3),
    families=st.lists(st.sampled_from(["laplace", "normal"]), min_size=3, max_size=3),
    guide=st.sampled_from(sorted(GUIDES)),
    images=st.integers(1, 3),
    particles=st.integers(1, 3),
)
def test_any_sizes(pixels, dims, hidden, families, guide, images, particles):
    n, dims, families = len(dims), tuple(dims), tuple(families[: len(dims)])
    hidden = tuple(map(tuple, hidden))[:n]
    model = MarkovModel(pixels, dims, families, hidden[1:]) if n > 1 else LinearModel(pixels, dims, families)
    if guide == "top_down":
        recognition = TopDownGuide(pixels, dims, families, hidden, hidden[1:], ((3,),) * (n - 1))
    elif guide == "ladder":
        recognition = LadderGuide(model, hidden if n > 1 else ())
    else:
        recognition = GUIDES[guide](pixels, dims, families, hidden)
    vae = HVAE(model, recognition)
    assert tuple(vae.latents.values()) == dims
    trace = pyro.poutine.trace(model).get_trace(num_images=images)
    for l, (d, family) in enumerate(zip(dims, families, strict=True), start=1):
        site = trace.nodes[f"z{l}"]
        assert site["value"].shape == (images, d)
        fn = site["fn"]
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        assert type(fn).__name__.lower() == family
    x = trace.nodes["x"]["value"]
    assert x.shape == (images, pixels)
    bound = ELBO(particles).evaluate(model, recognition, x).bound
    assert bound.shape == (images,) and bound.isfinite().all()
    config = json.loads(json.dumps(vae.config))
    assert from_config(config).config == vae.config


# ---- pairs that do not ----------------------------------------------------------------------------------------------


class _Bare(nn.Module):
    """A program from a function, with one parameter so that it has a device."""

    def __init__(self, program):
        super().__init__()
        self.pixels, self.program, self.p = 4, program, nn.Parameter(torch.zeros(()))

    def forward(self, x=None):
        return self.program(x)


def _normal(dim):
    return dist.Normal(torch.zeros(dim), torch.ones(dim)).to_event(1)


def _no_image(x):
    with pyro.plate("image", len(x)):
        pyro.sample("z1", _normal(3))


def _outside(x):
    z1 = pyro.sample("z1", _normal(3))
    with pyro.plate("image", len(x)):
        pyro.sample("x", dist.Normal(z1.sum() + torch.zeros(4), 1.0).to_event(1), obs=x)


def _images_in_event(x):
    pyro.sample("z1", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(2))
    with pyro.plate("image", len(x)):
        pyro.sample("x", _normal(4), obs=x)


def _images_in_event_guide(x):
    pyro.sample("z1", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(2))


def _renamed(x):
    with pyro.plate("image", len(x)):
        pyro.sample("z1", _normal(3))
        pyro.sample("y", _normal(4), obs=x)


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (small_model("linear"), small_guide("mean_field"), r"infers z2, which LinearModel does not have.*use a model"),
        (small_model("markov"), small_guide("mean_field", (3,)), r"does not infer z2 of MarkovModel.*every latent site"),
        (small_model("markov", (3, 2, 2)), small_guide("top_down"), "does not infer z3"),
        (small_model("markov"), small_guide("top_down", (3, 3)), r"site z2 has shape \(2, 2\) .* \(2, 3\).* same dims"),
        (small_model("markov"), small_guide("bottom_up", (4, 2)), "site z1 has shape"),
        (small_model("skip"), small_guide("top_down", pixels=5), r"expects images of shape .*\(any, 5\), got \(2, 4\)"),
        (_Bare(_no_image), small_guide("mean_field", (3,)), "must observe the image at one site named 'x'"),
        (_Bare(_renamed), small_guide("mean_field", (3,)), r"named 'x'.*observed sites: \['y'\]"),
        (_Bare(_outside), small_guide("mean_field", (3,)), r"site z1 of _Bare has batch shape \(\).*pyro.plate\('image'"),
        (_Bare(_images_in_event), small_guide("mean_field", (3,)), r"site z1 of _Bare has batch shape \(\)"),
        (small_model("linear"), _Bare(_images_in_event_guide), r"site z1 of _Bare has batch shape \(\)"),
    ],
)  # fmt: skip
def test_refused_with_the_reason(model, guide, message):
    with pytest.raises(HVAEError, match=message):
        HVAE(model, guide)


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: LinearModel(4, (3,), ("cauchy",)), "unknown site family 'cauchy'"),
        (lambda: LinearModel(4, (3,), ("laplas",)), "did you mean 'laplace'"),
        (lambda: MarkovModel(4, (3, 2), ("laplace",), ((5,),)), r"2 layers .* 1 families"),
        (lambda: MarkovModel(4, (3, 2), hidden=(5,)), "each of hidden must be a sequence"),
        (lambda: MarkovModel(4, (3, 2), hidden=((5,), (5,))), "hidden units of 1 network"),
        (
            lambda: MarkovModel(4, (3, 2), hidden=((0,),)),
            "every layer of each of hidden must be a whole number of at least 1, got 0",
        ),
        (lambda: MarkovModel(0, (3, 2), hidden=((5,),)), "pixels must be a whole number of at least 1, got 0"),
        (lambda: MarkovModel(4, (), hidden=()), "at least one layer"),
        (lambda: LinearModel(4, (3, 0)), "one layer z1"),
        (lambda: LinearModel(4, (0,)), "each of dims must be a whole number of at least 1, got 0"),
        (lambda: LinearModel(4, (3, 2)), "use MarkovModel"),
        (lambda: SkipModel(4, (3,), hidden=()), "use LinearModel"),
        (
            lambda: SkipModel(4, (3, 2), hidden=((5,),), skip_hidden=5),
            r"skip_hidden must be a sequence \(each a whole number\), got 5",
        ),
        (lambda: LinearModel(4, (3,), noise=0.0), "must be positive"),
        (lambda: LinearModel(4, (3,), noise=float("nan")), "must be positive"),
        (lambda: TopDownGuide(4, (3, 2), hidden_x=((5,),)), "hidden units of 2 network.s. in hidden_x"),
        (lambda: TopDownGuide(4, (3, 2), hidden_joint=((),)), "hidden_joint needs at least one layer"),
        (lambda: BottomUpGuide(4, (3, 2), hidden=7), "hidden must be a sequence"),
        (lambda: MeanFieldGuide(4, (3, 2), hidden=((5,), (5,), (5,))), "hidden units of 2 network"),
        (lambda: make_guide("lader", small_model("markov")), "unknown guide 'lader'; did you mean 'ladder'"),
        (lambda: make_guide("top_down", _Bare(_outside)), "not one of our models"),
        (lambda: make_guide("top_down", small_model("markov"), hiden_x=()), "did you mean 'hidden_x'"),
        (lambda: small_pair().with_guide(small_guide("bottom_up"), hidden=()), "configure a guide given by name"),
        (lambda: HVAE(nn.Linear(2, 2), small_guide("bottom_up")), "no attribute 'pixels'"),
        (lambda: from_config({"model": {"class": "MarkovMdl"}, "guide": {}}), "did you mean 'MarkovModel'"),
        (lambda: small_pair().model(torch.zeros(2, 5)), r"expects images of shape .*\(any, 4\), got \(2, 5\)"),
        (lambda: small_pair().guide(torch.zeros(2, 2, 2)), "flatten the patches"),
    ],
)
def test_bad_arguments(construct, message):
    with pytest.raises(HVAEError, match=message):
        construct()


# ---- one model, several guides --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
def test_with_guide_shares_the_generative_parameters(name):
    first = small_pair("skip", "top_down" if name != "top_down" else "bottom_up")
    options = {"top_down": {}, "ladder": {"hidden_x": ((5,), (5,))}}.get(name, {"hidden": ((5,), (5,))})
    second = first.with_guide(name, **options)
    assert second.model is first.model and second.guide is not first.guide
    ours = {n: p.data_ptr() for n, p in first.model.named_parameters()}
    assert ours == {n: p.data_ptr() for n, p in second.model.named_parameters()}

    x = torch.randn(16, 4)
    before = [p.detach().clone() for p in first.model.parameters()]
    guide_before = [p.detach().clone() for p in first.guide.parameters()]
    optimizer = torch.optim.Adam(second.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        ELBO().differentiable_loss(second.model, second.guide, x).backward()
        optimizer.step()
    assert all((a != b).any() for a, b in zip(before, first.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(guide_before, first.guide.parameters(), strict=True))


def test_with_guide_takes_an_object_and_keeps_precision_and_preset():
    vae = build("TDVAE20", pixels=9, dim_z1=4, dim_z2=2).double()
    guide = small_guide("bottom_up", (4, 2), pixels=9)
    other = vae.with_guide(guide)
    assert other.guide is guide and other.preset == "TDVAE20"
    assert {p.dtype for p in other.parameters()} == {torch.float64}
    assert {p.dtype for p in vae.with_guide("mean_field").parameters()} == {torch.float64}


def test_with_guide_by_name_uses_published_units():
    vae = build("TDVAE20").with_guide("bottom_up")
    assert [(m.in_features, m.out_features) for m in vae.guide.modules() if isinstance(m, nn.Linear)] == [
        (400, 500), (500, 500), (500, 900), (450, 500), (500, 300), (300, 100), (100, 40),
    ]  # fmt: skip


# ---- round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("guide", GUIDES)
def test_config_round_trip(model, guide):
    vae = small_pair(model, guide)
    again = from_config(json.loads(json.dumps(vae.config)))
    assert again.config == vae.config
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in vae.named_parameters()}
    again.load_state_dict(vae.state_dict())
    x = torch.randn(5, 4)
    bounds = []
    for pair in (vae, again, copy.deepcopy(vae)):
        torch.manual_seed(0)
        bounds.append(ELBO().evaluate(pair.model, pair.guide, x).bound)
    assert torch.equal(bounds[0], bounds[1]) and torch.equal(bounds[0], bounds[2])


@pytest.mark.parametrize("options", [{"noise": 0.7}, {"noise": 0.7, "learn_noise": True}])
def test_options_survive_the_round_trip(options):
    vae = HVAE(small_model("skip", families=("normal", "laplace"), **options), small_guide("top_down"))
    again = from_config(json.loads(json.dumps(vae.config)))
    assert again.config == vae.config
    assert again.model.sigma.item() == pytest.approx(0.7)
    assert again.model.families == ("normal", "laplace")
    assert ("log_sigma" in dict(again.model.named_parameters())) == options.get("learn_noise", False)


def test_fixed_noise_is_saved_with_the_weights():
    """Evaluating a checkpoint under another noise than it was trained with would be silent."""
    saved = small_model("linear", noise=0.9).state_dict()
    other = small_model("linear", noise=0.4)
    other.load_state_dict(saved)
    assert float(other.sigma) == pytest.approx(0.9)


def test_build_is_reproducible_and_leaves_the_global_state():
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    a, b = (build("TDVAE20", pixels=9, dim_z1=4, dim_z2=2, seed=5) for _ in range(2))
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    c = build("TDVAE20", pixels=9, dim_z1=4, dim_z2=2, seed=6)
    assert not torch.equal(a.model.A, c.model.A)


# ---- somebody else's pair -------------------------------------------------------------------------------------------


class TheirModel(nn.Module):
    """Logistic factor analysis: nothing of ours in it."""

    pixels = 4

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 4)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("code", _normal(2))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class TheirGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)

    def forward(self, x):
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("code", dist.Normal(loc, scale.exp()).to_event(1))


class TheirPyroModel(PyroModule):
    pixels = 4

    def __init__(self):
        super().__init__()
        self.decoder = PyroModule[nn.Linear](2, 4)

    forward = TheirModel.forward


@pytest.mark.parametrize("model", [TheirModel, TheirPyroModel])
def test_a_pair_of_your_own(model):
    pyro.clear_param_store()
    vae = HVAE(model(), TheirGuide())
    assert vae.latents == {"code": 2}
    assert vae.config == {
        "preset": None, "pixels": 4, "model": {"class": model.__name__}, "guide": {"class": "TheirGuide"},
    }  # fmt: skip
    with pytest.raises(HVAEError, match="A program of your own must be built by your code"):
        from_config(vae.config)
    x = torch.randint(0, 2, (6, 4)).float()
    for gradient in ("standard", "stl"):
        evaluation = ELBO(gradient=gradient).evaluate(vae.model, vae.guide, x)
        assert set(evaluation.terms) == {"x", "code"} and evaluation.bound.shape == (6,)
        evaluation.bound.sum().backward()
    assert vae.guide.encoder.weight.grad.abs().sum() > 0
    pyro.clear_param_store()


def test_a_pair_without_pixels_or_parameters():
    class Free(nn.Module):
        def forward(self, x):
            with pyro.plate("image", len(x)):
                z = pyro.sample("z1", _normal(4))
                if self.generative:
                    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    model, guide = Free(), Free()
    model.generative, guide.generative = True, False
    vae = HVAE(model, guide, pixels=4)
    assert vae.latents == {"z1": 4}
    assert vae.with_guide(guide).guide is guide
