"""The linear-regime start: networks nearly linear, A the right map back to the image, function classes unchanged."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_hvae.bounds.objectives import ELBO
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import GUIDES, HVAE, LinearModel, MarkovModel, SkipModel
from pyro_hvae.starts import start_in_linear_regime

PIXELS, KEPT = 100, 78  # a quarter of the 20-pixel systems


def pair(model: str, guide: str, layers: int) -> HVAE:
    torch.manual_seed(0)
    above = layers - 1
    dims = (112,) + (6,) * above
    first = ((125, 125), *((125, 75, 25),) * above)
    hidden = {
        "linear": {},
        "markov": {"hidden": ((125,),) * above},
        "skip": {"hidden": ((125,),) * above, "skip_hidden": (125, 112)},
        "top_down": {
            "hidden_x": ((125,), *((75, 25),) * above),
            "hidden_z": ((25, 75, 125),) * above,
            "hidden_joint": ((125,),) * above,
        },
        "bottom_up": {"hidden": first},
        "mean_field": {"hidden": first},
    }
    cls = {"linear": LinearModel, "markov": MarkovModel, "skip": SkipModel}[model]
    return HVAE(cls(PIXELS, dims, **hidden[model]), GUIDES[guide](PIXELS, dims, **hidden[guide]))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """As after whitening: unit variance in KEPT of the dimensions, nothing in the others."""
    generator = torch.Generator().manual_seed(1)
    basis, _ = torch.linalg.qr(torch.randn(PIXELS, PIXELS, generator=generator))
    return torch.randn(4000, KEPT, generator=generator) @ basis[:KEPT]


def q_z1(vae: HVAE, x: torch.Tensor):
    torch.manual_seed(2)
    with torch.no_grad():
        return poutine.trace(vae.guide).get_trace(x).nodes["z1"]["fn"]


PAIRS = [("linear", "mean_field", 1), ("markov", "top_down", 2), ("markov", "bottom_up", 2), ("skip", "mean_field", 2),
         ("skip", "top_down", 3)]  # fmt: skip


@pytest.mark.parametrize(("model", "guide", "layers"), PAIRS)
def test_the_first_reconstruction_is_the_image(model, guide, layers, images):
    vae = start_in_linear_regime(pair(model, guide, layers))
    with torch.no_grad():
        q = q_z1(vae, images)
        reconstruction = q.mean @ vae.model.A.T + vae.model.to_image.bias
        # x is explained up to one common shrinkage, as a regression of x on noisy z1 must
        slope = (reconstruction * images).sum() / images.square().sum()
        residual = (reconstruction / slope - images).square().mean() / images.square().mean()
        assert 0.6 < slope < 1.0
        assert residual < 0.1
        # ... namely by as much as the noise of z1 asks for: on white images no linear map from draws of z1 does better
        white = torch.randn(20_000, PIXELS)
        z1 = q_z1(vae, white).sample()
        best = torch.linalg.lstsq(z1, white).solution
        ours, least = ((z1 @ linear - white).square().mean() for linear in (vae.model.A.T, best))
        assert ours < 1.05 * least


@pytest.mark.parametrize(("model", "guide", "layers"), PAIRS)
def test_networks_are_nearly_linear(model, guide, layers, images):
    """q(z1 | x) at x1 + x2 against the sum of the two, and p(z1 | z2) near the prior."""
    vae = start_in_linear_regime(pair(model, guide, layers))
    default = pair(model, guide, layers)

    def departure(vae):
        half = len(images) // 2
        a, b = images[:half] / 2**0.5, images[half:] / 2**0.5
        zero = torch.zeros(1, PIXELS)
        mean = [q_z1(vae, x).mean for x in (a + b, a, b, zero)]
        return float((mean[0] - mean[1] - mean[2] + mean[3]).square().mean() / mean[0].var(0).mean())

    assert departure(vae) < 0.1
    if guide != "top_down":  # where a draw of z2 moves q(z1|x) of the default start more than x does
        assert departure(default) > 0
    for l in range(1, layers):
        z = torch.randn(1000, vae.model.dims[l])
        with torch.no_grad():
            p = vae.model.conditionals[l - 1](z)
        assert p.mean.abs().max() < 0.5
        torch.testing.assert_close(p.base_dist.scale, torch.ones_like(p.mean))


@pytest.mark.parametrize(("model", "guide", "layers"), PAIRS)
def test_it_starts_far_ahead_of_the_default(model, guide, layers, images):
    bounds = []
    for vae in (pair(model, guide, layers), start_in_linear_regime(pair(model, guide, layers))):
        torch.manual_seed(3)
        with torch.no_grad():
            bounds.append(float(ELBO().evaluate(vae.model, vae.guide, images[:500]).bound.mean()))
    assert bounds[1] > bounds[0] + 50


def test_guide_only_leaves_the_model():
    vae = pair("skip", "top_down", 2)
    before = {n: p.clone() for n, p in vae.model.named_parameters()}
    guide = {n: p.clone() for n, p in vae.guide.named_parameters()}
    assert start_in_linear_regime(vae, guide_only=True) is vae
    assert all(torch.equal(p, before[n]) for n, p in vae.model.named_parameters())
    assert all(not torch.equal(p, guide[n]) for n, p in vae.guide.named_parameters())


def test_every_layer_is_restarted_and_the_constants_are_free_parameters():
    vae = pair("skip", "top_down", 3)
    before = {n: p.clone() for n, p in vae.named_parameters()}
    start_in_linear_regime(vae)
    assert all(not torch.equal(p, before[n]) for n, p in vae.named_parameters())
    assert set(before) == {n for n, p in vae.named_parameters() if p.requires_grad}


def test_networks_without_hidden_layers():
    vae = HVAE(
        MarkovModel(4, (3, 2), hidden=((),)),
        GUIDES["bottom_up"](4, (3, 2), hidden=((), ())),
    )
    start_in_linear_regime(vae)
    x = torch.randn(5, 4)
    assert ELBO().evaluate(vae.model, vae.guide, x).bound.isfinite().all()


def test_programs_of_your_own_start_themselves():
    vae = pair("linear", "mean_field", 1)

    class Mine(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    with pytest.raises(HVAEError, match="knows our own guides; Mine initialises itself"):
        start_in_linear_regime(vae.with_guide(Mine(vae.guide)))
    with pytest.raises(HVAEError, match="knows our own models; Mine initialises itself"):
        start_in_linear_regime(HVAE(Mine(vae.model), vae.guide, pixels=PIXELS))
