"""A second layer that starts where there is something for it to see: at the energies of the filters that z1 has found.

Given z1, what is left for z2 is the scale of its units: which of them are active together, whatever their sign. A network that
starts as an almost linear map of the image is blind to that, for the sign of a contrast averages out; it learns the mean of
z1 first, which costs more nats than it saves, and dies when beta rises. So z1 is trained first, and q(z2 | …) then begins as in
the energy model of complex cells (Adelson and Bergen 1985): pairs of units that read the same filter with opposite sign.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.guides import BottomUpGuide, TopDownGuide
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.programs.models import MarkovModel, SkipModel
from pyro_hvae.programs.pair import HVAE
from pyro_hvae.programs.program import nodes
from pyro_hvae.programs.sites import FullHead, Head
from pyro_hvae.starts.linear_regime import GUIDES, Q_LOG_VARIANCE, SHIFT, TOP_DOWN_GAIN, start_conditional, start_layers

PAIR_GAIN = 2.0  # standard deviation of what a pair of units reads: far enough from zero to be rectified
LEAST_IMAGES = 1000
ACTIVE = 0.05  # share of the median squared norm of a column of A from which on its unit is taken for active


@checked
@torch.no_grad()
def start_from_energies(vae: HVAE, x: Tensor) -> HVAE:
    """Restart z2 of a two-layer pair whose z1 is trained; in place, and returned. z1 and A stay as they were learnt.

    The first layer of the network of q(z2 | …) becomes pairs of opposite sign on the filters of active units of z1, chosen at
    random, the others weighted sums of them with location of variance 1 over ``x`` and v = -2. p(z1 | z2) starts with what
    z1 is over ``x`` whatever z2, and the way from z2 down to q(z1 | x, z2) small. The function classes are unchanged.

    :param x: images ``(image, pixel)`` of the kind that is trained on, some thousands.
    :raises HVAEError: for other pairs, too few images, or where no unit of z1 is active.
    """
    model, guide = vae.model, vae.guide
    if not isinstance(guide, GUIDES) or not isinstance(model, (MarkovModel, SkipModel)):
        raise HVAEError(
            f"the start from energies knows our own two-layer pairs, not {type(model).__name__} with {type(guide).__name__}"
        )
    if model.layers != 2:
        raise HVAEError(
            f"the start from energies restarts z2 above z1; this pair has {model.layers} layers, expected 2"
        )
    if x.dim() != 2 or x.shape[1] != model.pixels or len(x) < LEAST_IMAGES:
        raise HVAEError(
            f"the start from energies needs at least {LEAST_IMAGES} images of {model.pixels} pixels to fit filters to, got "
            f"{tuple(x.shape)}"
        )
    x = x.to(model.A)
    z1 = _posterior(guide, x)
    mean, variance = z1.mean.mean(0), z1.mean.var(0) + z1.variance.mean(0)
    if isinstance(guide, LadderGuide):
        first = 0 if guide.reads == "evidence" else 1
        seen = guide.features(x, guide.evidence[0].location(x - model.to_image.bias))[first]
        layers, head = [layer for network in guide.bottom_up[first:] for layer in network.layers], guide.top
    elif isinstance(guide, TopDownGuide):
        seen, layers, head = guide.bottom_up[0](x), guide.bottom_up[1].layers, guide.heads[1]
    else:
        trunk, head = guide.conditionals[1].children()
        seen, layers = (z1.mean if isinstance(guide, BottomUpGuide) else x), trunk.layers
    if len(layers) == 0:
        raise HVAEError("the start from energies needs a hidden layer in the network of q(z2 | …), which has none")
    power = model.A.square().sum(0)
    active = torch.nonzero(power > ACTIVE * power.median()).flatten()
    active = active[z1.mean.var(0)[active] > 0]
    if len(active) == 0:
        raise HVAEError("no unit of z1 is active yet: train the pair until z1 is settled, then restart z2")
    if isinstance(guide, LadderGuide) and guide.reads == "evidence":
        energies = torch.zeros(len(active), seen.shape[1], device=seen.device, dtype=seen.dtype)
        energies[torch.arange(len(active)), guide.dims[0] + active] = 1.0  # the second half of what it reads
        _start_sums(layers, head, seen, energies)
    else:
        _start_energies(layers, head, seen, z1.mean[:, active])
    if isinstance(guide, TopDownGuide):
        _start_way_down(guide)
    network = model.conditionals[0]
    start_conditional(network, gain=TOP_DOWN_GAIN, v=0.0)
    p_head = network[1]
    # Laplace(b) has variance 2 b²; in both families the scale is exp(v / 2)
    scale_squared = variance / (2 if model.families[0] == "laplace" else 1)
    p_head.location_bias.add_(mean)
    p_head.v_bias.copy_(scale_squared.clamp(min=1e-6).log())
    if isinstance(model, SkipModel):
        nn.init.zeros_(model.skip_to_image.weight)
    if isinstance(guide, LadderGuide):
        guide.start_in_closed_form()  # p(z1) has changed
    vae.starts.append({"start": "energies", "images": len(x)})
    return vae


def _posterior(guide: nn.Module, x: Tensor) -> torch.distributions.Distribution:
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        return nodes(poutine.trace(guide).get_trace(x))["z1"]["fn"].base_dist


def _start_energies(layers: nn.ModuleList, head: nn.Linear, seen: Tensor, z1: Tensor) -> None:
    """Pairs of opposite sign on linear readings of ``z1``, then sums of pairs, everything scaled by what it is over images."""
    centred, wanted = (seen - seen.mean(0)).double(), (z1 - z1.mean(0)).double()
    ridge = (
        1e-6
        * centred.square().mean()
        * len(centred)
        * torch.eye(seen.shape[1], dtype=torch.float64, device=seen.device)
    )
    readings = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ wanted)
    filters = (readings / (centred @ readings).std(0)).T.to(seen) * PAIR_GAIN
    first: nn.Linear
    first, *others = layers
    pairs = first.out_features // 2
    chosen = filters[torch.randperm(len(filters))[:pairs].repeat(-(-pairs // len(filters)))[:pairs]]
    nn.init.zeros_(first.weight)
    first.weight[:pairs], first.weight[pairs : 2 * pairs] = chosen, -chosen
    first.bias.copy_(-(first.weight @ seen.mean(0)))
    pair = torch.zeros(pairs, first.out_features, device=seen.device, dtype=seen.dtype)
    pair[:, :pairs] = pair[:, pairs : 2 * pairs] = torch.eye(pairs)  # the same weight for both: their sum is even
    _start_sums(others, head, nn.functional.softplus(first(seen)), pair)


def _start_sums(layers: Sequence[nn.Module], head: Head | FullHead, features: Tensor, energies: Tensor) -> None:
    """Orthogonal sums of energies, everything scaled by what it is over images.

    :param features: what the first of the layers reads, ``(image, feature)``.
    :param energies: rows are the combinations of features that it may read, ``(energy, feature)``.
    """

    def sums(like: Tensor) -> Tensor:
        weight = torch.empty(len(like), len(energies), dtype=like.dtype, device=like.device)
        return nn.init.orthogonal_(weight) @ energies

    for i, layer in enumerate(layers):
        assert isinstance(layer, nn.Linear)
        weight = sums(layer.weight) if i == 0 else nn.init.orthogonal_(torch.empty_like(layer.weight))
        spread = features.std(0)
        layer.weight.copy_(weight / torch.where(spread > 0, spread, torch.ones_like(spread)))
        layer.bias.copy_(SHIFT - layer.weight @ features.mean(0))
        features = nn.functional.softplus(layer(features))
    like = head.location_weight
    location = nn.init.orthogonal_(torch.empty_like(like)) if len(layers) else sums(like)
    location /= ((features - features.mean(0)) @ location.T).std(0)[:, None]
    head.set_linear(location, -(location @ features.mean(0)), Q_LOG_VARIANCE)


def _start_way_down(guide: TopDownGuide) -> None:
    """z2 → L_z starts anew and small; what L_z was at z2 = 0 is kept in the bias, so that q(z1 | x) stays."""
    c, joint = guide.top_down[0], guide.joint[0]
    zero = guide.heads[1].bias.new_zeros(guide.dims[1])
    _, from_z = joint.first.weight.split(joint.in_features, dim=-1)
    before = from_z @ c(zero)
    start_layers(c.layers, zero)
    nn.init.orthogonal_(from_z, gain=TOP_DOWN_GAIN / 2)
    joint.first.bias += before - from_z @ c(zero)
