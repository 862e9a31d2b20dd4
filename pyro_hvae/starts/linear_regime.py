"""How a pair starts: every softplus layer in its linear regime, instead of PyTorch's default initialisation."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.guides import BottomUpGuide, MeanFieldGuide, TopDownGuide
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.programs.models import GenerativeModel, SkipModel
from pyro_hvae.programs.pair import HVAE
from pyro_hvae.programs.program import nodes
from pyro_hvae.programs.sites import FullHead, Head

SHIFT = 3.0  # softplus is within 5 per cent of linear around here
Q_LOG_VARIANCE = -2.0  # v of every posterior at the start
#: Of what is read from the image, undone in the head: patches of high contrast, too, stay in the linear range.
INPUT_GAIN = 0.4
GUIDES = (TopDownGuide, BottomUpGuide, MeanFieldGuide, LadderGuide)
TOP_DOWN_GAIN = 0.1  # what comes from above starts small: z1 is first learnt from the image


@checked
@torch.no_grad()
def start_in_linear_regime(vae: HVAE, *, guide_only: bool = False) -> HVAE:
    """Re-initialise one of our pairs so that every network starts as an almost linear map; in place, and returned.

    Units start at softplus(u + 3) (a constant that the next layer's bias takes out again) with orthogonal weights;
    posterior locations are orthogonal maps of the image, with v = -2; p(zl | zl+1) starts near location 0, scale 1;
    and A is the least-squares inverse of the guide's linear map from the image to z1 (of an orthogonal map for the ladder
    guide, whose z1 then starts in closed form from A). The function classes are unchanged.

    :param guide_only: leave the generative model as it is.
    :raises HVAEError: for programs that are not ours.
    """
    check_own(vae, "linear-regime")
    start_guide(vae.guide, INPUT_GAIN)
    if not guide_only:
        start_model(vae.model)
        _invert_guide(vae.model, vae.guide)
    if isinstance(vae.guide, LadderGuide):
        vae.guide.start_in_closed_form()
    vae.starts.append({"start": "linear_regime"} | ({"of": "guide"} if guide_only else {}))
    return vae


def check_own(vae: HVAE, start: str) -> None:
    """Refuse programs whose layers a start does not know.

    :param start: its name, for the message.
    """
    for program, known, kind in ((vae.guide, GUIDES, "guides"), (vae.model, (GenerativeModel,), "models")):
        if not isinstance(program, known):
            raise HVAEError(f"the {start} start knows our own {kind}; {type(program).__name__} initialises itself")


def start_guide(guide: nn.Module, input_gain: float) -> None:
    """Networks almost linear, locations orthogonal maps of the image, v = -2.

    :param input_gain: of what is read from the image, undone in the heads.
    """
    if isinstance(guide, TopDownGuide):
        _start_top_down(guide, input_gain)
    elif isinstance(guide, LadderGuide):
        if guide.layers > 1:
            of_image = guide.reads == "image"
            width = guide.pixels if of_image else 2 * guide.dims[0]
            features, gain = _start_bottom_up(guide.bottom_up, width, input_gain if of_image else 1.0)
            _start_head(guide.top, features[-1], 1 / gain, Q_LOG_VARIANCE)
    else:
        for network in guide.conditionals:
            start_conditional(network, gain=1.0, v=Q_LOG_VARIANCE, input_gain=input_gain)


def start_model(model: GenerativeModel) -> None:
    """p(zl | zl+1) near location 0, scale 1; nothing past z1. A is left."""
    for network in model.conditionals:
        start_conditional(network, gain=TOP_DOWN_GAIN, v=0.0)
    if isinstance(model, SkipModel):
        start_layers(model.skip.layers, model.to_image.bias.new_zeros(sum(model.dims[1:])))
        nn.init.zeros_(model.skip_to_image.weight)


def start_layers(layers: Iterable[nn.Module], reference: Tensor, gain: float = 1.0) -> Tensor:
    """Start softplus layers: orthogonal weights, biases such that ``reference`` gives SHIFT; returns the output there.

    :param gain: of the first layer.
    """
    for i, layer in enumerate(layers):
        assert isinstance(layer, nn.Linear)
        nn.init.orthogonal_(layer.weight, gain=gain if i == 0 else 1.0)
        layer.bias.copy_(SHIFT - layer.weight @ reference)
        reference = nn.functional.softplus(torch.full_like(layer.bias, SHIFT))
    return reference


def _start_head(head: Head | FullHead, reference: Tensor, gain: float, v: float) -> None:
    """Location an orthogonal map that is zero at ``reference``; constant scale."""
    location = torch.empty_like(head.location_weight)
    nn.init.orthogonal_(location, gain=gain)
    head.set_linear(location, -(location @ reference), v)


def start_conditional(network: nn.Module, gain: float, v: float, input_gain: float = 1.0) -> None:
    """An almost linear map of input gain ``input_gain`` and whole gain ``gain``, zero at zero; constant scale exp(v / 2)."""
    trunk, head = network.children()
    first = next(trunk.parameters(), head.weight)
    reference = start_layers(trunk.layers, first.new_zeros(first.shape[-1]), input_gain)
    _start_head(head, reference, gain / input_gain if len(trunk.layers) else gain, v)


def _start_bottom_up(networks: Iterable[nn.Module], width: int, input_gain: float) -> tuple[list[Tensor], float]:
    """Start the networks L_x; returns what they give at an input of zero, that first, and the gain with which they read it."""
    networks = list(networks)
    L_x = [next(networks[0].parameters(), torch.zeros(())).new_zeros(width)]
    gain = input_gain if len(networks[0].layers) else 1.0
    for network in networks:
        L_x.append(start_layers(network.layers, L_x[-1], gain if len(L_x) == 1 else 1.0))
    return L_x, gain


def _start_top_down(guide: TopDownGuide, input_gain: float) -> None:
    L_x, g = _start_bottom_up(guide.bottom_up, guide.pixels, input_gain)
    _start_head(guide.heads[-1], L_x[-1], 1 / g, Q_LOG_VARIANCE)
    for l, (c, joint) in enumerate(zip(guide.top_down, guide.joint, strict=True)):
        L_z = start_layers(c.layers, guide.heads[0].bias.new_zeros(guide.dims[l + 1]))
        reference = torch.cat([L_x[l + 1], L_z])
        from_x, from_z = joint.first.weight.split(joint.in_features, dim=-1)
        nn.init.orthogonal_(from_x)
        nn.init.orthogonal_(from_z, gain=TOP_DOWN_GAIN * g)
        joint.first.bias.copy_(SHIFT - joint.first.weight @ reference)
        features = nn.functional.softplus(torch.full_like(joint.first.bias, SHIFT))
        features = start_layers(joint.rest.layers, features) if len(joint.rest.layers) else features
        _start_head(guide.heads[l], features, 1 / g, Q_LOG_VARIANCE)


def _invert_guide(model: GenerativeModel, guide: nn.Module) -> None:
    """A = M' (M M' + V)^-1, the linear map from z1 back to white x, where q(z1|x) has mean M x and variance V around x = 0."""
    if isinstance(guide, LadderGuide):
        M = torch.empty_like(model.A.T)
        nn.init.orthogonal_(M)
        V = torch.full_like(M[:, 0], math.exp(Q_LOG_VARIANCE))
    else:
        x = torch.cat([torch.eye(model.pixels), -torch.eye(model.pixels)]).to(model.to_image.weight)
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            q = nodes(poutine.trace(guide).get_trace(x))["z1"]["fn"]
        M = 0.5 * (q.mean[: model.pixels] - q.mean[model.pixels :]).T
        V = q.variance.mean(0)
    model.to_image.weight.copy_(torch.linalg.solve(M @ M.T + torch.diag(V), M).T)
    nn.init.zeros_(model.to_image.bias)
