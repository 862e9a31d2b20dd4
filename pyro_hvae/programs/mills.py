"""Iterated Mills ratios: the one special function behind the product of a Laplace and a Normal.

    R_n(a) = ∫_0^∞ t^n/n! exp(-a t - t²/2) dt,    R_0(a) = Φ(-a)/φ(a), Mills' ratio,    R_-1 = 1.

They obey n R_n = R_{n-2} - a R_{n-1} and R_n' = -(n+1) R_{n+1}. Upwards the recurrence cancels for large a; downwards, from
the ratio R_3/R_2, every term is positive and nothing does. That ratio is smooth and goes as 1/a, so one Chebyshev series gives
all: polynomials and divisions alone, which a compiler turns into vector instructions, where the scaled error function is a
scalar call.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from numpy.polynomial.chebyshev import cheb2poly
from torch import Tensor

# (a + 1) R_3(a)/R_2(a) over x = (a - 4)/(a + 4), a in [0, ∞): computed with 60 digits; a test computes them again.
_K, _C = 4.0, 1.0
COEFFICIENTS = (
    0.895674445372402103,
    0.220998984701759304,
    -0.136805493828678623,
    0.014480168785207029,
    0.00762824191614701843,
    -0.00157884966590369567,
    -0.000584304828540083721,
    0.000151073266562100195,
    0.0000535577808123963316,
    -0.0000140620993402984836,
    -5.45496926456207492e-6,
    1.26351271522829769e-6,
    5.8681889059553477e-7,
    -1.06168138522624063e-7,
    -6.43244708248543852e-8,
    7.80996720028917989e-9,
    7.00507964532439933e-9,
    -4.10558389810161582e-10,
    -7.43906446093504544e-10,
    -4.58161784426540518e-12,
    7.58623622970318993e-11,
    5.65183049264942956e-12,
    -7.31771761501113093e-12,
    -1.10443177116860444e-12,
    6.55416491649693437e-13,
    1.60462150644505712e-13,
    -5.29582671046453712e-14,
    -2.00154460877741512e-14,
    3.63958162327503614e-15,
    2.24108721265374963e-15,
    -1.77077895703554019e-16,
    -2.29518881457094156e-16,
)
_TERMS_FLOAT32 = 15


def _powers(terms: int) -> tuple[float, ...]:
    """The truncated series in powers of x, highest first; they fall off, so that Horner's rule loses nothing."""
    return tuple(map(float, cheb2poly(COEFFICIENTS[:terms])[::-1]))


_DOUBLE, _SINGLE = _powers(len(COEFFICIENTS)), _powers(_TERMS_FLOAT32)


class Mills(NamedTuple):
    """R_0 and the moments of the density proportional to exp(-a t - t²/2) on t > 0; all positive, shapes of a."""

    r0: Tensor
    first: Tensor
    """E[t] = R_1/R_0."""
    second: Tensor
    """E[t²] = 2 R_2/R_0."""

    @property
    def variance(self) -> Tensor:
        """Var[t]."""
        return self.second - self.first.square()


def mills(a: Tensor) -> Mills:
    """Of ``a >= 0``, to a few units in the last place; differentiable. Negative values give nonsense, not NaN."""
    x = (a - _K) / (a + _K)
    powers = _DOUBLE if a.dtype == torch.float64 else _SINGLE
    series = powers[1] + powers[0] * x
    for c in powers[2:]:
        series = c + series * x
    rho = series / (a + _C)  # R_3/R_2
    r2 = 1 / (a + 3 * rho)  # R_2/R_1
    r1 = 1 / (a + 2 * r2)  # R_1/R_0
    return Mills(1 / (a + r1), r1, 2 * r1 * r2)


def normal_cdf(x: Tensor) -> Tensor:
    """Φ(x); accurate for x >= 0."""
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def normal_pdf(x: Tensor) -> Tensor:
    """φ(x)."""
    return torch.exp(-0.5 * x.square()) * (1 / math.sqrt(2 * math.pi))
