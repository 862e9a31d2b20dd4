"""The two families of stochastic sites, Laplace and Normal: heads, conditionals, standard priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent
from torch.distributions.kl import register_kl

from pyro_hvae.errors import unknown
from pyro_hvae.programs.networks import MLP

FAMILIES: dict[str, Callable[..., dist.TorchDistribution]] = {"laplace": dist.Laplace, "normal": dist.Normal}
LOG_VARIANCE_BOUND = 20.0


def family_class(family: str) -> Callable[..., dist.TorchDistribution]:
    """The distribution class of a family name; an unknown name is an :class:`~pyro_hvae.errors.HVAEError`."""
    if family not in FAMILIES:
        raise unknown("site family", family, FAMILIES)
    return FAMILIES[family]


def standard(family: str, dim: int, like: Tensor) -> dist.TorchDistribution:
    """Prior with location 0 and scale 1 over ``dim`` dimensions: Normal(0, 1), or Laplace(0, 1) of variance 2."""
    return family_class(family)(like.new_zeros(dim), like.new_ones(dim)).to_event(1)


class _Rows(nn.Linear):
    """Which rows of a head's weight and bias are what: views, to be read and written where a pair is started."""

    dim: int

    @property
    def location_weight(self) -> Tensor:
        """``(dim, in_features)``."""
        return self.weight[: self.dim]

    @property
    def location_bias(self) -> Tensor:
        """``(dim,)``."""
        return self.bias[: self.dim]

    @property
    def v_weight(self) -> Tensor:
        """``(dim, in_features)``."""
        return self.weight[self.dim : 2 * self.dim]

    @property
    def v_bias(self) -> Tensor:
        """v where the features are zero, ``(dim,)``."""
        return self.bias[self.dim : 2 * self.dim]

    @torch.no_grad()
    def set_linear(self, weight: Tensor, bias: Tensor, v: Tensor | float) -> None:
        """A linear location, v whatever the features, and no correlations."""
        self.weight.zero_()
        self.bias.zero_()
        self.location_weight.copy_(weight)
        self.location_bias.copy_(bias)
        self.v_bias.copy_(torch.as_tensor(v))


class Head(_Rows):
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


class FullNormal(dist.MultivariateNormal):
    """Normal with a covariance matrix; terms of its densities unit by unit, each given the units before it.

    Made as its base: ``FullNormal(loc, scale_tril=L)`` with ``loc (..., dim)`` and ``L (..., dim, dim)`` lower triangular.
    """

    def unit_log_prob(self, value: Tensor) -> Tensor:
        """log q(z_i | z_1 … z_i-1), ``(..., dim)``; sums to ``log_prob``."""
        noise = torch.linalg.solve_triangular(
            self._unbroadcasted_scale_tril, (value - self.loc).unsqueeze(-1), upper=False
        ).squeeze(-1)
        return -0.5 * (noise.square() + math.log(2 * math.pi)) - self._log_diagonal()

    def unit_kl(self, p: torch.distributions.Normal) -> Tensor:
        """Parts of KL[q || p] for independent Normals ``p``, ``(..., dim)``; they sum to it, log det being a sum over units."""
        spread = (self.variance + (self.loc - p.loc).square()) / p.scale.square()
        return 0.5 * (spread - 1) - self._log_diagonal() + p.scale.log()

    def _log_diagonal(self) -> Tensor:
        return self._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1).log()


@register_kl(FullNormal, Independent)
def _kl_full_normal(q: FullNormal, p: Independent) -> Tensor:
    if p.reinterpreted_batch_ndims != 1 or not isinstance(p.base_dist, torch.distributions.Normal):
        raise NotImplementedError
    return q.unit_kl(p.base_dist).sum(-1)


class FullHead(_Rows):
    """Linear map from features to a :class:`FullNormal`.

    The output is a location, v with exp(v / 2) on the diagonal of the Cholesky factor (as in :class:`Head`), and the rows of
    its strict lower triangle in units of the diagonal element of the row.
    """

    _index: Tensor

    def __init__(self, in_features: int, dim: int):
        super().__init__(in_features, 2 * dim + dim * (dim - 1) // 2)
        self.dim = dim
        rows, columns = torch.tril_indices(dim, dim, -1)
        index = torch.zeros(dim, dim, dtype=torch.long)
        index[rows, columns] = 1 + torch.arange(len(rows))
        self.register_buffer(
            "_index", index.flatten(), persistent=False
        )  # into the numbers below the diagonal, 0 first

    def forward(self, features: Tensor) -> FullNormal:
        out = super().forward(features).to(self.weight.dtype)
        loc, v, below = out.split([self.dim, self.dim, out.shape[-1] - 2 * self.dim], dim=-1)
        diagonal = torch.exp(0.5 * v.clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND))
        lower = F.pad(below, (1, 0)).index_select(-1, self._index).unflatten(-1, (self.dim, self.dim))
        lower = lower + torch.eye(self.dim, dtype=out.dtype, device=out.device)
        return FullNormal(loc, scale_tril=lower * diagonal.unsqueeze(-1))


def conditional(in_features: int, hidden: Sequence[int], dim: int, family: str) -> nn.Sequential:
    """p(z | input): a softplus network of its own, then a :class:`Head`."""
    trunk = MLP(in_features, hidden)
    return nn.Sequential(trunk, Head(trunk.out_features, dim, family))
