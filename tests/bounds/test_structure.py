"""Dependencies found by running the programs, and the analytic forms they allow."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from quadrature import images_of, tiny_pair
from torch import nn

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO
from pyro_hvae.bounds.structure import Structure, dependencies, descendants
from pyro_hvae.bounds.traces import trace_pair

NORMAL3 = ("normal", "normal", "normal")


def structure_of(vae, x=None):
    x = images_of(vae) if x is None else x
    pair = trace_pair(vae.model, vae.guide, (x,), {})
    return Structure.of(vae.model, vae.guide, (x,), {}, pair), pair


@pytest.mark.parametrize(
    ("model", "parents"),
    [
        ("markov", {"z3": set(), "z2": {"z3"}, "z1": {"z2"}, "x": {"z1"}}),
        ("skip", {"z3": set(), "z2": {"z3"}, "z1": {"z2"}, "x": {"z1", "z2", "z3"}}),
    ],
)
def test_parents_in_our_models(model, parents):
    structure, _ = structure_of(tiny_pair(model, "top_down", NORMAL3))
    assert structure.parents == parents


@pytest.mark.parametrize(
    ("guide", "below", "forms"),
    [
        # top-down: every KL analytic
        ("top_down", {"z3": {"z1", "z2"}, "z2": {"z1"}, "z1": set()}, {"z1": "kl", "z2": "kl", "z3": "kl"}),
        # bottom-up: p(zl | zl+1) is conditioned on what was inferred from zl; only the top has a KL
        ("bottom_up", {"z1": {"z2", "z3"}, "z2": {"z3"}, "z3": set()}, {"z1": "entropy", "z2": "entropy", "z3": "kl"}),
        ("mean_field", {"z1": set(), "z2": set(), "z3": set()}, {"z1": "kl", "z2": "kl", "z3": "kl"}),
    ],
)
def test_forms_of_our_guides(guide, below, forms):
    structure, pair = structure_of(tiny_pair("markov", guide, NORMAL3))
    assert structure.inferred_from == below
    assert {name: structure.analytic_form(name, pair) for name in forms} == forms


def test_an_untrained_connection_is_a_connection():
    """Weights of exactly zero hide a dependence from the values, not from the graph."""
    vae = tiny_pair("markov", "bottom_up")
    with torch.no_grad():
        for p in vae.parameters():
            p.zero_()
    structure, _ = structure_of(vae)
    assert structure.parents["z1"] == {"z2"} and structure.inferred_from["z1"] == {"z2"}


class Detached(nn.Module):
    """q(z2 | z1) through a detached value, or an integer one: invisible to autograd, visible to the values."""

    def __init__(self, how):
        super().__init__()
        self.how, self.pixels = how, 1

    def forward(self, x):
        with pyro.plate("image", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x, 1.0).to_event(1))
            seen = {"detach": z1.detach(), "round": z1.round(), "sign": (z1 > 0).double()}[self.how]
            pyro.sample("z2", dist.Normal(seen, 1.0).to_event(1))


@pytest.mark.parametrize("how", ["detach", "round", "sign"])
def test_a_connection_without_gradient_is_a_connection(how):
    values = {"z1": torch.tensor([[-0.04], [0.3], [2.0]]).double(), "z2": torch.zeros(3, 1).double()}
    assert dependencies(Detached(how), (torch.zeros(3, 1).double(),), {}, values) == {"z1": set(), "z2": {"z1"}}


def test_discrete_parents():
    def guide(x):
        with pyro.plate("image", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("z", dist.Normal(torch.stack([k, k + 1.0], -1), 1.0).to_event(1))

    values = {"k": torch.tensor([0, 1, 2]), "z": torch.zeros(3, 2)}
    assert dependencies(guide, (torch.zeros(3, 1),), {}, values) == {"k": set(), "z": {"k"}}


def test_the_random_state_is_left_alone():
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae)
    pair = trace_pair(vae.model, vae.guide, (x,), {})
    before = torch.get_rng_state()
    Structure.of(vae.model, vae.guide, (x,), {}, pair)
    assert torch.equal(torch.get_rng_state(), before)


def test_descendants():
    direct = {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a"}}
    assert descendants(direct) == {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}


class TailedGuide(nn.Module):
    """Families without a closed form against the model's Normal: Student's t has an entropy, a mixture has not."""

    def __init__(self, family):
        super().__init__()
        self.family, self.pixels, self.loc = family, 1, nn.Parameter(torch.zeros(1).double())

    def forward(self, x):
        with pyro.plate("image", len(x)):
            if self.family == "student":
                fn = dist.StudentT(5.0, self.loc + 0 * x, 1.0)
            else:
                mixture = dist.Categorical(torch.ones(2).double() / 2)
                fn = dist.MixtureSameFamily(mixture, dist.Normal(torch.stack([self.loc + 0 * x] * 2, -1), 1.0))
            pyro.sample("z1", fn.to_event(1))


@pytest.mark.parametrize(("family", "form"), [("student", "entropy"), ("mixture", "sample")])
def test_what_has_no_closed_form_is_sampled(family, form):
    vae = tiny_pair("linear", "mean_field", ("normal",), pixels=1)
    guide = TailedGuide(family)
    x = images_of(vae)
    pair = trace_pair(vae.model, guide, (x,), {})
    structure = Structure.of(vae.model, guide, (x,), {}, pair)
    assert structure.analytic_form("z1", pair) == form
    with torch.no_grad():  # draws of a mixture have no gradient
        bound = ELBO().evaluate(vae.model, guide, x.expand(3, -1)).bound
    assert bound.isfinite().all()


def test_the_form_agrees_with_the_sampled_one_in_the_mean():
    """An own guide with a diamond: z1 → z2, z1 → z3, model z3 → z2 → z1. Wrong forms would show as a bias."""

    class Diamond(nn.Module):
        pixels = 2

        def forward(self, x):
            with pyro.plate("image", len(x)):
                z1 = pyro.sample("z1", dist.Normal(x.sum(-1, keepdim=True), 0.7).to_event(1))
                pyro.sample("z3", dist.Normal(z1.tanh(), 1.1).to_event(1))
                pyro.sample("z2", dist.Normal(0.5 * z1, 0.9).to_event(1))

    vae = tiny_pair("markov", "top_down", NORMAL3)
    guide = Diamond()
    image = images_of(vae)[0]
    structure, pair = (
        Structure.of(vae.model, guide, (image[None],), {}, p := trace_pair(vae.model, guide, (image[None],), {})), p,
    )  # fmt: skip
    forms = {name: structure.analytic_form(name, pair) for name in ("z1", "z2", "z3")}
    # z3 and z2 are independent given z1, so the KL of z2 given z3's draw is a valid form, and so is z3's
    assert forms == {"z1": "entropy", "z2": "kl", "z3": "kl"}
    torch.manual_seed(0)
    copies = image.expand(200_000, -1)
    with torch.no_grad():
        analytic = ELBO().evaluate(vae.model, guide, copies).bound
        sampled = ImportanceWeightedELBO(1).evaluate(vae.model, guide, copies).bound  # all terms sampled
    error = (analytic.var() + sampled.var()).sqrt() / len(copies) ** 0.5
    assert (analytic.mean() - sampled.mean()).abs() < 4 * error
    assert analytic.var() < sampled.var()
