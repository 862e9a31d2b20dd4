"""The product of a Laplace and a Normal, against mpmath, quadrature and its own definition."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import mpmath as mp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from numpy.polynomial import chebyshev
from pyro.infer import SVI, Trace_ELBO
from scipy import stats
from torch import nn
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import mills as module
from pyro_hvae.programs.mills import mills
from pyro_hvae.programs.product import LaplaceNormalProduct, product

RATIOS = (1e-4, 1e-2, 0.3, 1.0, 3.0, 1e2, 1e4)  # width / scale
OFFSETS = (0.0, 0.01, 0.5, 1.0, 3.0, -2.0, 10.0, -30.0, 1e2, 1e3)  # (center - loc) / width
SCALES = (1e-3, 1.0, 1e3)
GRID = list(itertools.product(RATIOS, OFFSETS, SCALES))


def iterated(a: mp.mpf) -> tuple[mp.mpf, ...]:
    """R_0 … R_3 by the upward recurrence, in more digits than it loses."""
    with mp.workdps(120):
        r0 = mp.sqrt(mp.pi / 2) * mp.erfc(a / mp.sqrt(2)) * mp.exp(a * a / 2)
        r1 = 1 - a * r0
        r2 = (r0 - a * r1) / 2
        return r0, r1, r2, (r1 - a * r2) / 3


def truth(loc: float, scale: float, center: float, width: float) -> dict[str, mp.mpf]:
    """Moments, KL to the own Laplace, entropy, normaliser: from the definition, piece by piece, in 60 digits."""
    with mp.workdps(60):
        mu, b, m, s = (mp.mpf(v) for v in (loc, scale, center, width))
        tau, d = s / b, (m - mu) / s
        up, low = iterated(tau - d), iterated(tau + d)
        total = up[0] + low[0]
        mean, second, size = (up[1] - low[1]) / total, 2 * (up[2] + low[2]) / total, (up[1] + low[1]) / total
        normaliser = -d * d / 2 - mp.log(2 * mp.pi) / 2 + mp.log(total) - mp.log(2 * b)
        kl = mp.log(2 * b / s) + d * mean - second / 2 - mp.log(total)
        return {
            "mean": mu + s * mean,
            "variance": s * s * (second - mean**2),
            "kl_to_prior": kl,
            "entropy": mp.log(2 * b) + tau * size - kl,
            "log_normalizer": normaliser,
        }


def parameters(ratio: float, offset: float, scale: float, dtype: torch.dtype) -> list[torch.Tensor]:
    b = torch.tensor(scale, dtype=dtype)
    loc, width = 0.37 * b, ratio * b
    return [loc, b, loc + offset * width, width]


def quantities(q: LaplaceNormalProduct) -> dict[str, torch.Tensor]:
    own = dist.Laplace(q.loc, q.scale)
    return {
        "mean": q.mean, "variance": q.variance, "kl_to_prior": q.kl_to_prior(), "entropy": q.entropy(),
        "log_normalizer": q.log_normalizer, "kl": kl_divergence(q, own),
    }  # fmt: skip


# -- the special function


def test_the_table_of_coefficients_is_the_chebyshev_series_of_the_ratio():
    def target(x: float) -> mp.mpf:
        with mp.workdps(60):
            a = 4 * (1 + mp.mpf(x)) / (1 - mp.mpf(x))
            r = 1 / a if a > 100 else None
            if r is not None:  # continued fraction from far up: R_n-1/R_n-2 = 1/(a + n R_n/R_n-1)
                for n in range(80, 3, -1):
                    r = 1 / (a + n * r)
            else:
                r = iterated(a)[3] / iterated(a)[2]
            return (a + 1) * r

    nodes = np.cos(np.pi * (np.arange(60) + 0.5) / 60)
    values = np.array([float(target(x)) for x in nodes])
    series = chebyshev.chebfit(nodes, values, 59)
    assert np.abs(series[: len(module.COEFFICIENTS)] - module.COEFFICIENTS).max() < 1e-14


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 5e-15)])
def test_mills_ratios_against_mpmath(dtype, tolerance):
    a = torch.tensor([0.0, 1e-3, 0.3, 1.0, 2.0, 5.0, 30.0, 1e3, 1e6], dtype=dtype)
    found = mills(a)
    for i, value in enumerate(a.double().tolist()):
        r0, r1, r2, _ = iterated(mp.mpf(value))
        for got, exact in zip(found, (r0, r1 / r0, 2 * r2 / r0), strict=True):
            assert abs(got[i].item() / float(exact) - 1) < tolerance


def test_derivatives_of_mills_ratios_obey_their_recurrence():
    a = torch.logspace(-3, 4, 30, dtype=torch.float64).requires_grad_()
    r0 = mills(a).r0
    (slope,) = torch.autograd.grad(r0.sum(), a)
    assert torch.allclose(slope, -r0 * mills(a).first, rtol=1e-10)  # R_0' = -R_1


# -- closed forms


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_moments_entropy_kl_and_normaliser_against_mpmath(dtype, tolerance):
    for ratio, offset, scale in GRID:
        p = parameters(ratio, offset, scale, dtype)
        found = quantities(LaplaceNormalProduct(*p))
        exact = truth(*(v.double().item() for v in p))
        exact["kl"] = exact["kl_to_prior"]
        eps = torch.finfo(dtype).eps
        for name, value in found.items():
            e = float(exact[name])
            allowed = tolerance * (abs(e) if name == "variance" else max(1.0, abs(e)))
            if name == "mean":  # in its own standard deviations, beside the rounding of the number itself
                allowed = tolerance * float(exact["variance"]) ** 0.5 + 4 * eps * abs(e)
            assert abs(value.item() - e) <= allowed, (name, ratio, offset, scale, value.item(), e)


def test_gradients_in_single_precision_are_those_in_double():
    """And those in double are finite differences of the exact values."""
    names = ("variance", "kl_to_prior", "entropy", "log_normalizer", "kl", "mean")
    for ratio, offset, scale in itertools.product(RATIOS, OFFSETS, (1.0,)):
        gradients = {}
        for dtype in (torch.float32, torch.float64):
            p = [v.detach().to(dtype).requires_grad_() for v in parameters(ratio, offset, scale, torch.float32)]
            found = quantities(LaplaceNormalProduct(*p))
            gradients[dtype] = {n: torch.autograd.grad(found[n], p, retain_graph=True) for n in names}
        unit = torch.stack([p[3], p[1], p[3], p[3]]).detach()  # places move by widths, sizes by themselves
        for name in names:
            single, double = (torch.stack([g.double() for g in gradients[d][name]]) for d in gradients)
            size, error = double * unit, (single - double) * unit
            floor = 1e-6 * max(1.0, abs(found[name].item())) if name != "variance" else 1e-5 * found[name].item()
            assert bool(single.isfinite().all())
            assert error.abs().max() <= 1e-3 * size.abs().max() + floor, (name, ratio, offset, single, double)


@pytest.mark.parametrize("name", ["mean", "variance", "kl_to_prior", "entropy", "log_normalizer"])
def test_gradients_in_double_against_differences_of_the_exact_values(name):
    for ratio, offset in itertools.product((1e-2, 0.3, 3.0, 1e2), (0.01, 1.0, -2.0, 10.0, 1e2)):
        p = [v.requires_grad_() for v in parameters(ratio, offset, 1.3, torch.float64)]
        gradient = torch.autograd.grad(quantities(LaplaceNormalProduct(*p))[name], p)
        values = [mp.mpf(v.item()) for v in p]
        for i, g in enumerate(gradient):
            with mp.workdps(60):
                h = mp.mpf(10) ** -15
                moved = [[v + sign * h * (j == i) for j, v in enumerate(values)] for sign in (1, -1)]
                exact = float((truth(*moved[0])[name] - truth(*moved[1])[name]) / (2 * h))
            assert g.item() == pytest.approx(exact, rel=1e-7, abs=1e-9), (name, i, ratio, offset)


def test_kl_to_another_laplace_and_density_by_quadrature():
    z = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
    step = z[1] - z[0]
    for p, other in (
        ((0.3, 0.7, 1.9, 0.5), (-0.4, 1.1)), ((0.3, 0.7, 1.9, 0.5), (2.4, 0.2)), ((-1.0, 2.0, -1.5, 3.0), (0.2, 0.5)),
        ((0.0, 0.1, 4.0, 1.0), (1.0, 1.0)), ((0.0, 5.0, 4.0, 0.3), (4.0, 1.0)), ((0.0, 5.0, -4.0, 0.3), (-4.1, 1.0)),
    ):  # fmt: skip
        p, other = torch.tensor(p, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
        q, laplace = LaplaceNormalProduct(*p), dist.Laplace(*other)
        unnormalised = dist.Laplace(p[0], p[1]).log_prob(z) + dist.Normal(p[2], p[3]).log_prob(z)
        assert torch.allclose(q.log_prob(z), unnormalised - q.log_normalizer, atol=1e-10)
        weight = q.log_prob(z).exp() * step
        assert weight.sum().item() == pytest.approx(1, abs=1e-6)
        exact = (weight * (q.log_prob(z) - laplace.log_prob(z))).sum()
        assert kl_divergence(q, laplace).item() == pytest.approx(exact.item(), abs=2e-6)
        assert torch.allclose(q.cdf(z[::1000]), (weight.cumsum(0) - weight / 2)[::1000], atol=1e-6)


def test_gradient_of_the_kl_reaches_the_other_laplace():
    q = LaplaceNormalProduct(*(torch.tensor(v, dtype=torch.float64) for v in (0.3, 0.7, 1.9, 0.5)))
    p = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.7)]
    assert torch.autograd.gradcheck(lambda *p: kl_divergence(q, dist.Laplace(*p)), p)
    shifted = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.3, 0.4)]
    assert torch.autograd.gradcheck(lambda *p: kl_divergence(q, dist.Laplace(*p)), shifted)


def test_limits():
    wide = LaplaceNormalProduct(torch.tensor(1.0), torch.tensor(0.5), torch.tensor(3.0), torch.tensor(5e3))
    assert wide.kl_to_prior().abs() < 1e-6 and wide.mean == pytest.approx(1, abs=1e-3)
    assert wide.variance == pytest.approx(2 * 0.5**2, rel=1e-3)
    narrow = LaplaceNormalProduct(torch.tensor(1.0), torch.tensor(500.0), torch.tensor(3.0), torch.tensor(0.1))
    assert narrow.mean == pytest.approx(3, abs=1e-4) and narrow.variance == pytest.approx(0.01, rel=1e-3)


_numbers = st.tuples(
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
    st.floats(-1e3, 1e3),
    st.floats(-4, 4),
)


@settings(max_examples=300, deadline=None)
@given(_numbers)
def test_nothing_is_ever_nan(numbers):
    loc, scale, offset, log_ratio = (torch.tensor(v, dtype=torch.float32) for v in numbers)
    width = scale * 10**log_ratio
    p = [v.detach().requires_grad_() for v in (loc, scale, loc + offset * width, width)]
    q = LaplaceNormalProduct(*p, validate_args=False)
    torch.manual_seed(0)
    z = q.rsample((5,))
    values = [*quantities(q).values(), q.log_prob(z.detach()), q.cdf(z.detach()), z]
    assert all(bool(v.isfinite().all()) for v in values)
    assert q.variance >= 0 and -1e-5 * max(1, float(q.entropy().abs())) <= q.kl_to_prior()
    for g in torch.autograd.grad(sum(v.sum() for v in values), p):
        assert bool(g.isfinite())


# -- draws


@pytest.mark.parametrize("offset", [0.0, 0.3, -2.0, 5.0, -30.0])
@pytest.mark.parametrize("ratio", [1e-3, 0.3, 3.0, 50.0, 1e4])
def test_draws_have_the_distribution(ratio, offset):
    torch.manual_seed(1)
    p = parameters(ratio, offset, 1.3, torch.float32)
    draws = LaplaceNormalProduct(*p).sample((20_000,)).double()
    exact = LaplaceNormalProduct(*(v.double() for v in p))
    assert stats.kstest(exact.cdf(draws).numpy(), "uniform").pvalue > 1e-4
    error = (draws.mean() - exact.mean) / (exact.variance / len(draws)).sqrt()
    assert abs(error) < 4.5


def test_draws_move_with_the_parameters_at_a_fixed_quantile():
    """d z / d theta = -(dF/dtheta)/q, draw by draw, against differences of the distribution function."""
    torch.manual_seed(2)
    checked = 0
    for ratio, offset in itertools.product([1e-3, 0.3, 1.0, 3.0, 50.0], [0.0, 0.3, -2.0, 5.0, -30.0]):
        p = torch.stack(parameters(ratio, offset, 1.3, torch.float64))
        q = LaplaceNormalProduct(*p)
        z = q.sample((12,))
        keep = (q.cdf(z) > 1e-6) & (q.cdf(z) < 1 - 1e-6)
        for value in z[keep]:
            moving = p.clone().requires_grad_()
            (found,) = torch.autograd.grad(LaplaceNormalProduct(*moving).rsample_at(value), moving)
            density = q.log_prob(value).exp()
            for i in range(4):
                h = 1e-5 * max(abs(p[i].item()), 1e-3)
                ends = [LaplaceNormalProduct(*(p + sign * h * (torch.arange(4) == i))).cdf(value) for sign in (1, -1)]
                exact = -(ends[0] - ends[1]) / (2 * h) / density
                assert found[i].item() == pytest.approx(exact.item(), rel=1e-3, abs=1e-3 + 1e-10 / density.item())
                checked += 1
    assert checked > 800


def test_reparametrised_gradient_of_an_expectation():
    torch.manual_seed(3)
    p = [torch.tensor(v, requires_grad=True) for v in (0.3, 0.7, 1.2, 0.6)]
    exact = torch.autograd.grad(LaplaceNormalProduct(*p).variance + LaplaceNormalProduct(*p).mean ** 2, p)
    n = 40_000
    wide = [v.detach().expand(n).clone().requires_grad_() for v in p]
    q = LaplaceNormalProduct(*wide)
    gradients = torch.autograd.grad((q.rsample() ** 2).sum(), wide)
    for g, e in zip(gradients, exact, strict=True):
        assert abs((g.mean() - e) / (g.std() / math.sqrt(n))) < 4


# -- as a distribution


def test_shapes_expand_and_validation():
    q = LaplaceNormalProduct(torch.zeros(3, 1), 1.0, torch.randn(4), torch.rand(4) + 0.1)
    assert q.batch_shape == (3, 4) and q.sample((2,)).shape == (2, 3, 4)
    wide = q.expand((5, 3, 4)).to_event(1)
    assert wide.batch_shape == (5, 3) and wide.log_prob(wide.rsample()).shape == (5, 3)
    assert torch.allclose(wide.mean[2], q.mean)
    with pytest.raises(ValueError, match="scale"):
        LaplaceNormalProduct(
            torch.zeros(2), torch.tensor([1.0, -1.0]), torch.zeros(2), torch.ones(2), validate_args=True
        )
    with pytest.raises(ValueError, match="width"):
        LaplaceNormalProduct(torch.zeros(2), torch.ones(2), torch.zeros(2), torch.zeros(2), validate_args=True)


def test_product_of_a_normal_adds_precisions_and_keeps_events():
    prior = dist.Normal(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.1])).to_event(1)
    q = product(prior, torch.tensor([1.0, 1.0]), torch.tensor([0.5, 3.0]))
    assert isinstance(q.base_dist, torch.distributions.Normal) and q.event_shape == (2,)
    precision = 1 / torch.tensor([2.0, 0.1]) ** 2 + 1 / torch.tensor([0.5, 3.0]) ** 2
    mean = (
        torch.tensor([0.5, -1.0]) / torch.tensor([4.0, 0.01]) + torch.tensor([1.0, 1.0]) / torch.tensor([0.25, 9.0])
    ) / precision
    assert torch.allclose(q.mean, mean) and torch.allclose(q.variance, 1 / precision)
    extreme = product(dist.Normal(torch.zeros(2), torch.ones(2)), torch.full((2,), 2.0), torch.tensor([1e-25, 1e25]))
    assert torch.equal(extreme.mean, torch.tensor([2.0, 0.0]))
    assert torch.allclose(extreme.scale, torch.tensor([1e-25, 1.0]), atol=0)
    laplace = product(dist.Laplace(torch.zeros(2), torch.ones(2)).to_event(1), torch.zeros(2), torch.ones(2))
    assert isinstance(laplace.base_dist, LaplaceNormalProduct) and laplace.event_shape == (2,)
    with pytest.raises(HVAEError, match="Gamma"):
        product(dist.Gamma(torch.ones(2), torch.ones(2)), torch.zeros(2), torch.ones(2))


def test_traced_and_stacked_it_gives_the_same_numbers():
    def loss(*p):
        q = LaplaceNormalProduct(*p, validate_args=False)
        return q.kl_to_prior() + q.mean + q.variance + q.entropy()

    torch.manual_seed(4)
    p = (torch.randn(3, 5), torch.rand(3, 5) + 0.1, 4 * torch.randn(3, 5), torch.rand(3, 5) + 0.1)
    expected = loss(*p)
    assert torch.allclose(make_fx(loss)(*p)(*p), expected)
    assert torch.allclose(torch.func.vmap(loss)(*p), expected)


def test_at_a_site_of_ones_own_it_trains():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.center, self.log_width = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            pyro.module("guide", self)
            pyro.sample("z", LaplaceNormalProduct(0.0, 1.0, self.center, self.log_width.exp()))

    def model(x):
        z = pyro.sample("z", dist.Laplace(torch.zeros(()), torch.ones(())))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    pyro.clear_param_store()
    torch.manual_seed(5)
    guide, x = Guide(), torch.tensor([1.2, 0.7, 1.6, 0.9])
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO(num_particles=4))
    for _ in range(300):
        svi.step(x)
    # The exact posterior: the Laplace prior times a Normal around the mean of x.
    assert guide.center.item() == pytest.approx(x.mean().item(), abs=0.03)
    assert guide.log_width.exp().item() == pytest.approx(0.25, abs=0.02)
