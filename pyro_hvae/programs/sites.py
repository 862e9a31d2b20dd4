"""The two families of stochastic sites, Laplace and Normal: heads, conditionals, standard priors."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_hvae.errors import unknown
from pyro_hvae.programs.networks import MLP

FAMILIES: dict[str, type[dist.TorchDistribution]] = {"laplace": dist.Laplace, "normal": dist.Normal}
LOG_VARIANCE_BOUND = 20.0


def family_class(family: str) -> type[dist.TorchDistribution]:
    """The distribution class of a family name; an unknown name is an :class:`~pyro_hvae.errors.HVAEError`."""
    if family not in FAMILIES:
        raise unknown("site family", family, FAMILIES)
    return FAMILIES[family]


def standard(family: str, dim: int, like: Tensor) -> dist.TorchDistribution:
    """Prior with location 0 and scale 1 over ``dim`` dimensions: Normal(0, 1), or Laplace(0, 1) of variance 2."""
    return family_class(family)(like.new_zeros(dim), like.new_ones(dim)).to_event(1)


class Head(nn.Linear):
    """Linear map from features to a site's distribution.

    The output is a location and ``v``, with ``scale = exp(v / 2)`` for both families, so that ``v`` is the log
    variance of a Normal and ``log b^2`` of a Laplace (whose variance is ``2 b^2``). ``v`` is clamped before the
    exponential: the scale of a collapsed dimension drifts without bound where q = p at any scale, and clamping
    afterwards would turn an overflow into NaN gradients.

    Shape: ``(..., in_features) ->`` distribution of batch shape ``(...)`` and event shape ``(dim,)``.
    """

    def __init__(self, in_features: int, dim: int, family: str):
        super().__init__(in_features, 2 * dim)
        self.dim, self.family = dim, family
        self._distribution = family_class(family)

    def forward(self, features: Tensor) -> dist.TorchDistribution:
        # Under autocast the product alone is rounded: draws and densities keep the precision of the parameters.
        loc, v = super().forward(features).to(self.weight.dtype).chunk(2, dim=-1)
        scale = torch.exp(0.5 * v.clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND))
        return self._distribution(loc, scale).to_event(1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, family={self.family!r}"


def conditional(in_features: int, hidden: Sequence[int], dim: int, family: str) -> nn.Sequential:
    """p(z | input): a softplus network of its own, then a :class:`Head`."""
    trunk = MLP(in_features, hidden)
    return nn.Sequential(trunk, Head(trunk.out_features, dim, family))
