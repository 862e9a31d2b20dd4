"""Laplace times Normal: the site of the ladder guide. ``docs/product-distribution.md`` derives everything here."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import broadcast_all

from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.mills import mills, normal_cdf, normal_pdf

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
NEWTON_STEPS = {torch.float32: 3, torch.float64: 4}  # convergence is quadratic, from above


class _Pieces(NamedTuple):
    """The two pieces of q in u = ±(z - loc)/width, the sign such that the Normal's centre lies at D >= 0.

    With a = tau - D, tau = width/scale, the upper piece (u > 0) is proportional to exp(-a u - u²/2) and the lower one, in
    t = -u, to exp(-(tau + D) t - t²/2). Where a < 0 the upper piece's own normaliser overflows: sums are then kept as
    C = Φ(-a) + φ(a) R_0(tau + D), which is φ(a) times as large.
    """

    sign: Tensor
    tau: Tensor
    D: Tensor
    a: Tensor
    inside: Tensor
    """a < 0: the Normal's mean, moved by the Laplace, lies inside the upper piece."""
    p: Tensor
    """Probability of the lower piece."""
    up1: Tensor
    """E[u | u > 0]."""
    up_variance: Tensor
    low1: Tensor
    """E[-u | u < 0]."""
    low_variance: Tensor
    log_sum: Tensor
    """log(R_0(a) + R_0(tau + D)) where a >= 0, log(√(2π) C) where a < 0."""


class LaplaceNormalProduct(dist.TorchDistribution):
    """q(z) proportional to Laplace(z; loc, scale) · Normal(z; center, width²): what is expected times what is seen.

    Two truncated Normals that meet at ``loc``; density, moments, entropy and KL to any Laplace in closed form, in the precision
    of the parameters from width/scale = 1e-4 to 1e4 and \\|center - loc\\| up to 1e3 widths.

    :param loc: location of the Laplace.
    :param scale: scale b of the Laplace (variance 2 b²), positive.
    :param center: mean of the Normal.
    :param width: standard deviation s of the Normal, positive.

    All four broadcast against each other.
    """

    arg_constraints = {  # noqa: RUF012  (as torch has it)
        "loc": constraints.real,
        "scale": constraints.positive,
        "center": constraints.real,
        "width": constraints.positive,
    }
    support = constraints.real
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        center: Tensor | float,
        width: Tensor | float,
        validate_args: bool | None = None,
    ):
        self.loc, self.scale, self.center, self.width = broadcast_all(loc, scale, center, width)
        self._cached: _Pieces | None = None
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LaplaceNormalProduct:
        new = self._get_checked_instance(LaplaceNormalProduct, _instance)
        for name in ("loc", "scale", "center", "width"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        new._cached = None
        super(LaplaceNormalProduct, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _pieces(self) -> _Pieces:
        if self._cached is not None:
            return self._cached
        parameters = (self.loc, self.scale, self.center, self.width)
        pieces = _split(*parameters)
        if torch.is_grad_enabled() or not any(p.requires_grad for p in parameters):
            self._cached = pieces  # what was computed without a graph must not be found by who needs one
        return pieces

    @property
    def mean(self) -> Tensor:
        """E[z]."""
        return self.loc + self.width * self._pieces.sign * _mean(self._pieces)

    @property
    def variance(self) -> Tensor:
        """Var[z]: within the pieces and between them."""
        k = self._pieces
        within = (1 - k.p) * k.up_variance + k.p * k.low_variance
        return self.width.square() * (within + k.p * (1 - k.p) * (k.up1 + k.low1).square())

    @property
    def log_normalizer(self) -> Tensor:
        """log ∫ Laplace(z; loc, scale) Normal(z; center, width²) dz."""
        k = self._pieces
        # -D²/2 + a²/2 = tau (tau - 2 D)/2 where the sum is kept in units of φ(a)
        exponent = torch.where(k.inside, 0.5 * k.tau * (k.tau - 2 * k.D), -0.5 * k.D.square())
        return exponent + k.log_sum - LOG_SQRT_2PI - torch.log(2 * self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k = self._pieces
        return -_energy(k, k.sign * (value - self.loc) / self.width) - k.log_sum - self.width.log()

    def cdf(self, value: Tensor) -> Tensor:
        """P(z <= value)."""
        k = self._pieces
        below, above = _tails(k, k.sign * (value - self.loc) / self.width)
        return torch.where(k.sign > 0, below, above)

    def entropy(self) -> Tensor:
        k = self._pieces
        low2, up2 = k.low_variance + k.low1.square(), k.up_variance + k.up1.square()
        low = (k.tau + k.D) * k.low1 + 0.5 * low2 + torch.where(k.inside, 0.5 * k.a.square(), 0.0)
        # where a < 0 the upper energy is (u + a)²/2
        up = torch.where(k.inside, 0.5 * (k.up_variance + (k.up1 + k.a).square()), k.a * k.up1 + 0.5 * up2)
        return self.width.log() + k.log_sum + (1 - k.p) * up + k.p * low

    def kl_to_prior(self) -> Tensor:
        """KL[q || Laplace(loc, scale)] = E_q log Normal(z; center, width²) - log_normalizer, without its cancellations."""
        k = self._pieces
        low2, up2 = k.low_variance + k.low1.square(), k.up_variance + k.up1.square()
        mean = _mean(k)
        outside = k.D * mean - 0.5 * ((1 - k.p) * up2 + k.p * low2)
        shift = torch.where(k.inside, k.a, torch.zeros_like(k.a))
        up = k.up_variance + (k.up1 + shift).square()
        low = k.low_variance + (k.low1 - shift).square()
        inside = k.tau * mean - 0.5 * ((1 - k.p) * up + k.p * low)
        return torch.where(k.inside, inside, outside) - (torch.log(0.5 * k.tau) + k.log_sum)

    # -- draws

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  (as torch has it)
        """Exact draws: a piece, then a truncated Normal by inversion in log space."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            v = torch.rand((2, *shape), dtype=self.loc.dtype, device=self.loc.device)
            return self.at_quantiles(v[0], v[1])

    def at_quantiles(self, piece: Tensor, place: Tensor) -> Tensor:
        """The draw that two uniform numbers make: the first chooses the piece, the second the place in it. No gradient."""
        k = self._pieces
        lower = piece < k.p
        a = torch.where(lower, k.tau + k.D, k.a)
        t = _truncated(a, place.clamp(min=torch.finfo(place.dtype).tiny))
        return self.loc + self.width * k.sign * torch.where(lower, -t, t)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.rsample_at(self.sample(sample_shape))

    def rsample_at(self, value: Tensor) -> Tensor:
        """``value``, a draw, as it moves with the parameters while its quantile stays (implicit reparametrisation).

        The gradient is -(∂F/∂θ)/q for the distribution function F (Figurnov, Mohamed, Mnih 2018). What is differentiated is the
        log of the tail beyond the value on its side of ``loc``: with S = P(u > value), ∂z = (S/q) ∂ log S.
        """
        value = value.detach()
        k = self._pieces
        u0 = (k.sign * (value - self.loc) / self.width).detach()
        up = u0 > 0
        y = u0.abs() + torch.where(up, k.a, k.tau + k.D)
        deep = y < 0  # u > 0 and u + a < 0: in the bulk of the upper piece
        inner, outer = torch.where(deep, y, torch.zeros_like(y)), torch.where(deep, torch.zeros_like(y), y)
        r0, beyond = mills(outer).r0, normal_cdf(-inner)
        log_tail = torch.where(deep, torch.log(beyond) + LOG_SQRT_2PI, torch.log(r0) - _energy(k, u0)) - k.log_sum
        tail = torch.where(deep, beyond / normal_pdf(inner.clamp(min=-12.0)), r0)  # S/q = R_0(y)
        moved = torch.where(up, 1.0, -1.0) * tail.detach() * (log_tail - log_tail.detach())
        u = u0 + moved
        z = self.loc + self.width * k.sign * u
        return value + (z - z.detach())


def product(prior: torch.distributions.Distribution, center: Tensor, width: Tensor) -> dist.TorchDistribution:
    """The distribution proportional to ``prior`` times Normal(center, width²), dimension by dimension.

    :param prior: a Laplace (gives a :class:`LaplaceNormalProduct`) or a Normal (gives the Normal of summed precisions), also
        inside ``.to_event(n)``, which the result keeps.
    :raises HVAEError: for any other distribution.
    """
    if isinstance(prior, Independent):
        return product(prior.base_dist, center, width).to_event(prior.reinterpreted_batch_ndims)
    if isinstance(prior, torch.distributions.Laplace):
        return LaplaceNormalProduct(prior.loc, prior.scale, center, width)
    if isinstance(prior, torch.distributions.Normal):
        # 1/(1 + r²) and r²/(1 + r²) by way of the smaller of r and 1/r, whose square does not overflow
        wide = width > prior.scale
        r2 = torch.where(wide, prior.scale / width, width / prior.scale).square()
        seen = torch.where(wide, r2, torch.ones_like(r2)) / (1 + r2)  # share of the evidence in the mean
        loc, center = torch.broadcast_tensors(prior.loc, center)
        narrower = torch.where(wide, prior.scale.expand_as(r2), width.expand_as(r2))
        return dist.Normal(torch.lerp(loc, center, seen), narrower / torch.sqrt(1 + r2))
    raise HVAEError(
        f"a {type(prior).__name__} has no closed-form product with a Normal here; expected a Laplace or a Normal (inside "
        ".to_event(n) or not)"
    )


def _split(loc: Tensor, scale: Tensor, center: Tensor, width: Tensor) -> _Pieces:
    d, tau = (center - loc) / width, width / scale
    sign = torch.where(d < 0, -torch.ones_like(d), torch.ones_like(d))
    D = sign * d
    a, far = tau - D, tau + D
    inside = a < 0
    zero = torch.zeros_like(a)
    out, deep = torch.where(inside, zero, a), torch.where(inside, a, zero)  # each branch on values that it can take
    low, up = mills(far), mills(out)
    phi, Phi = normal_pdf(deep), normal_cdf(-deep)
    hazard = phi / Phi
    C = Phi + phi * low.r0
    total = up.r0 + low.r0
    return _Pieces(
        sign, tau, D, a, inside,
        p=torch.where(inside, phi * low.r0 / C, low.r0 / total),
        up1=torch.where(inside, hazard - deep, up.first),
        up_variance=torch.where(inside, 1 - hazard * (hazard - deep), up.variance),
        low1=low.first,
        low_variance=low.variance,
        log_sum=torch.where(inside, LOG_SQRT_2PI + torch.log(C), torch.log(total)),
    )  # fmt: skip


def _mean(k: _Pieces) -> Tensor:
    """E[u]."""
    return k.up1 - k.p * (k.up1 + k.low1)


def _energy(k: _Pieces, u: Tensor) -> Tensor:
    """-log q(u) less ``log_sum``."""
    shift = torch.where(k.inside, k.a, torch.zeros_like(k.a))
    up = torch.where(k.inside, 0.5 * (u + shift).square(), u * (k.a + 0.5 * u))
    low = 0.5 * shift.square() - u * (k.tau + k.D - 0.5 * u)
    return torch.where(u > 0, up, low)


def _tails(k: _Pieces, u: Tensor) -> tuple[Tensor, Tensor]:
    """P(below u), P(above u)."""
    y = torch.where(u > 0, u + k.a, k.tau + k.D - u)
    deep = y < 0
    inner = torch.where(deep, y, torch.zeros_like(y))
    outer = torch.exp(-_energy(k, u) - k.log_sum) * mills(torch.where(deep, torch.zeros_like(y), y)).r0
    # deep: u > 0 and u + a < 0, so a < 0 and log_sum = log √(2π) C
    beyond = torch.where(deep, normal_cdf(-inner) * torch.exp(LOG_SQRT_2PI - k.log_sum), outer)
    return torch.where(u > 0, 1 - beyond, beyond), torch.where(u > 0, beyond, 1 - beyond)


def _truncated(a: Tensor, v: Tensor) -> Tensor:
    """t > 0 with density proportional to exp(-a t - t²/2), the value beyond which it lies with probability v."""
    L = -torch.log(v)
    out = torch.where(a > 0, a, torch.zeros_like(a))
    # log of the tail is concave in t, and this lies right of the root: Newton comes down to it without overshooting.
    t = 2 * L / (torch.sqrt(out.square() + 2 * L) + out)
    log_r0 = torch.log(mills(out).r0)
    for _ in range(NEWTON_STEPS.get(a.dtype, 4)):
        m = mills(out + t)
        t = (t + m.r0 * (torch.log(m.r0) - log_r0 - t * (out + 0.5 * t) + L)).clamp(min=0)
    # a <= 0: y = t + a is Normal beyond a; v Φ(-a) lies in its tail or in its bulk
    deep = torch.where(a > 0, torch.zeros_like(a), a)
    beyond = v * normal_cdf(-deep)
    y = -torch.special.ndtri(beyond.clamp(max=1 - torch.finfo(v.dtype).eps))
    return torch.where(a > 0, t, (y - deep).clamp(min=0))


@register_kl(LaplaceNormalProduct, torch.distributions.Laplace)
def _kl_laplace(q: LaplaceNormalProduct, p: torch.distributions.Laplace) -> Tensor:
    """KL to any Laplace: to q's own, plus what changes from that to ``p``, which vanishes where they are the same."""
    k = q._pieces
    v = k.sign * (p.loc - q.loc) / q.width
    at_zero = _mean_distance(k, torch.zeros_like(v))
    change = _mean_distance(k, v) * (q.width / p.scale) - at_zero * k.tau
    return q.kl_to_prior() + change + torch.log(p.scale) - torch.log(q.scale)


def _mean_distance(k: _Pieces, v: Tensor) -> Tensor:
    """E|u - v|: E[u] - v and twice the part on the far side of v."""
    up = v >= 0
    t = torch.where(up, v, -v)  # abs() has no gradient at zero, where q's own Laplace lies
    y = t + torch.where(up, k.a, k.tau + k.D)
    deep = y < 0
    inner, outer = torch.where(deep, y, torch.zeros_like(y)), torch.where(deep, torch.zeros_like(y), y)
    m = mills(outer)
    weight = torch.exp(-_energy(k, v) - k.log_sum)
    part = torch.where(
        deep,
        (normal_pdf(inner) - inner * normal_cdf(-inner)) * torch.exp(LOG_SQRT_2PI - k.log_sum),
        weight * m.r0 * m.first,
    )
    mean = _mean(k)
    return 2 * part + torch.where(up, v - mean, mean - v)
