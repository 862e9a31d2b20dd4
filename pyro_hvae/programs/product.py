"""Provisional."""

import math

import pyro.distributions as dist
import torch
from torch.distributions import Independent, constraints
from torch.distributions.kl import register_kl


def _R(a):
    r0 = torch.special.erfcx(a / math.sqrt(2)) * math.sqrt(math.pi / 2)
    return r0


class LaplaceNormalProduct(dist.TorchDistribution):
    has_rsample = True
    arg_constraints = {}
    support = constraints.real

    def __init__(self, loc, scale, center, width, validate_args=None):
        self.loc, self.scale, self.center, self.width = torch.broadcast_tensors(loc, scale, center, width)
        super().__init__(self.loc.shape, validate_args=False)

    def expand(self, shape, _instance=None):
        return LaplaceNormalProduct(*(t.expand(shape) for t in (self.loc, self.scale, self.center, self.width)))

    def _parts(self):
        if not hasattr(self, "_p"):
            mu, b, m, s = (t.double() for t in (self.loc, self.scale.clamp(0.01, 1e3), self.center, self.width))
            d = (m - mu) / s
            tau = s / b
            D = d.abs()
            ap, am = tau - D, tau + D
            lp = torch.special.log_ndtr(-ap) + ap.square() / 2
            lm = torch.special.log_ndtr(-am) + am.square() / 2
            L = torch.logaddexp(lp, lm)
            wp, wm = (lp - L).exp(), (lm - L).exp()
            hp = torch.exp(-ap.square() / 2 - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(-ap))
            hm = torch.exp(-am.square() / 2 - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(-am))
            ep, em = hp - ap, hm - am
            e2p, e2m = 1 - ap * ep, 1 - am * em
            Eu = wp * ep - wm * em
            Eu2 = wp * e2p + wm * e2m
            logZ = -D.square() / 2 + L - (2 * b).log()
            self._p = (mu, b, m, s, d, tau, D, Eu, Eu2, logZ)
        return self._p

    @property
    def mean(self):
        mu, b, m, s, d, tau, D, Eu, Eu2, lz = self._parts()
        return (mu + s * Eu * torch.where(d < 0, -1.0, 1.0)).to(self.loc.dtype)

    @property
    def variance(self):
        mu, b, m, s, d, tau, D, Eu, Eu2, lz = self._parts()
        return (s.square() * (Eu2 - Eu.square())).to(self.loc.dtype)

    def kl_to_prior(self):
        mu, b, m, s, d, tau, D, Eu, Eu2, lz = self._parts()
        return (-s.log() - 0.5 * math.log(2 * math.pi) - 0.5 * (Eu2 - 2 * D * Eu + D.square()) - lz).to(self.loc.dtype)

    def log_prob(self, z):
        mu, b, m, s, d, tau, D, Eu, Eu2, lz = self._parts()
        z = z.double()
        return (
            -(z - mu).abs() / b
            - (2 * b).log()
            - 0.5 * ((z - m) / s).square()
            - s.log()
            - 0.5 * math.log(2 * math.pi)
            - lz
        ).to(self.loc.dtype)

    def rsample(self, sample_shape=()):
        with torch.no_grad():
            mu, b, m, s, d, tau, D, Eu, Eu2, lz = self._parts()
            shape = self._extended_shape(sample_shape)
            v = torch.rand((2, *shape), dtype=torch.float64)
            ap, am = tau - D, tau + D
            lp = torch.special.log_ndtr(-ap) + ap.square() / 2
            lm = torch.special.log_ndtr(-am) + am.square() / 2
            wp = torch.sigmoid(lp - lm)
            up = v[0] < wp
            a = torch.where(up, ap, am)
            L = -v[1].log()
            e = 2 * L / (torch.sqrt(a.clamp(min=0) ** 2 + 2 * L) + a.clamp(min=0))
            la = torch.special.log_ndtr(-a)
            t = a.clamp(min=0) + e
            t = torch.where(a < 0, -torch.special.ndtri(v[1] * torch.special.ndtr(-a)), t)
            for _ in range(6):
                f = torch.special.log_ndtr(-t) - la + L
                h = torch.exp(-t.square() / 2 - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(-t))
                t = torch.where(a < 0, t, t + f / h)
            u = (t - a).clamp(min=0)
            sgn = torch.where(up, 1.0, -1.0) * torch.where(d < 0, -1.0, 1.0)
            return (mu + s * sgn * u).to(self.loc.dtype)


@register_kl(LaplaceNormalProduct, torch.distributions.Laplace)
def _kl(q, p):
    return q.kl_to_prior()


def product(prior, center, width):
    if isinstance(prior, Independent):
        return product(prior.base_dist, center, width).to_event(prior.reinterpreted_batch_ndims)
    if isinstance(prior, torch.distributions.Normal):
        t, e = prior.scale.square(), width.square()
        return dist.Normal((prior.loc * e + center * t) / (t + e), (t * e / (t + e)).sqrt())
    return LaplaceNormalProduct(prior.loc, prior.scale, center, width)
