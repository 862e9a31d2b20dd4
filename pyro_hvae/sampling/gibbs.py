"""Gibbs sampling of p(z1, …, zL | x) where x is linear-Gaussian in z1 and z1 is Laplace or Normal given z2.

One sweep, for every chain and image at once:

1. Laplace z1 with location m and scale b (both functions of z2) is a scale mixture of Normals,
   ``z1 | t ~ Normal(m, b^2 t)`` with ``t ~ Exponential(1/2)`` (Andrews & Mallows 1974), and given z1,
   ``1/t ~ InverseGaussian(b / |z1 - m|, 1)`` (Park & Casella 2008, J. Am. Stat. Assoc. 103:681, eq. 6).
2. ``z1 | t, z2, x`` is Normal and is drawn exactly.
3. (z2, …, zL) moves by Hamiltonian Monte Carlo twice, with t integrated out: once with z1 held, once with
   (z1 - m) / b held. Either alone mixes slowly: the first where z1 is known from the image, for then z2 learns from z1
   alone; the second where z1 is not. Together they do not (interweaving: Yu & Meng 2011, J. Comput. Graph. Stat. 20:531).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.images import Images, images_for
from pyro_hvae.programs.models import GenerativeModel
from pyro_hvae.sampling.convergence import chains_tree, seeded
from pyro_hvae.sampling.hmc import StepSize, check_counts, hmc

SCRATCH_BYTES = 2**28  # of the matrices factorised at a time
Z1_HELD, INNOVATION_HELD = "z1 held", "innovation held"


@checked
def gibbs(
    model: Callable,
    x: Images,
    *,
    num_samples: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    thin: int = 1,
    leapfrog_steps: int = 10,
    seed: int | None = None,
) -> xr.DataTree:
    """Long-run draws of the exact posterior, for any of our models, in the model's own precision.

    Chains start from the prior. Step sizes of the Hamiltonian moves are adapted per image during warm-up only.

    :param x: images ``(image, pixel)``.
    :param num_samples: draws kept of each chain.
    :param warmup: sweeps thrown away first.
    :param thin: sweeps per draw kept.
    :param leapfrog_steps: of each Hamiltonian move of (z2, …, zL); more of them where z2 mixes badly.
    :returns: group ``posterior`` with ``zl (chain, draw, image, zl_dim)``; group ``sample_stats`` with the mean
        ``acceptance_rate (move, image)`` and ``step_size (move, image)`` of the two moves, where there is a z2.
        :func:`~pyro_hvae.sampling.convergence.convergence` says whether to believe it.
    :raises HVAEError: for a model that is not one of ours.
    """
    if not isinstance(model, GenerativeModel):
        raise HVAEError(
            f"gibbs needs p(x | z) linear-Gaussian in z1, as our own models have it, got {type(model).__name__}; "
            "use nuts(model, x)"
        )
    check_counts(num_samples=num_samples, warmup=warmup, chains=chains, thin=thin, leapfrog_steps=leapfrog_steps)
    x = images_for(model, x)
    with seeded(seed, x.device), torch.no_grad():
        state = _Sweep(model, x, chains, leapfrog_steps, settle=warmup / 2)
        for _ in range(warmup):
            state.sweep(adapt=True)
        shapes = {site: (chains, num_samples, len(x), dim) for site, dim in zip(model.sites, model.dims, strict=True)}
        kept = {site: np.empty(shape, dtype=np.dtype(str(x.dtype).split(".")[1])) for site, shape in shapes.items()}
        accepted = {name: torch.zeros_like(move.value) for name, move in state.moves.items()}
        for draw in range(num_samples):
            for _ in range(thin):
                for name, probability in state.sweep(adapt=False).items():
                    accepted[name] += probability.mean(0)
            for site, value in state.sites().items():
                kept[site][:, draw] = value.cpu().numpy()
    statistics: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    if accepted:
        rates = torch.stack(list(accepted.values())) / (num_samples * thin)
        sizes = torch.stack([move.value for move in state.moves.values()])
        statistics = {
            "move": (("move",), np.array(list(accepted))),
            "acceptance_rate": (("move", "image"), rates.cpu().numpy()),
            "step_size": (("move", "image"), sizes.cpu().numpy()),
        }
    attrs = dict(sampler="gibbs", warmup=warmup, thin=thin, leapfrog_steps=leapfrog_steps, seed=str(seed))
    return chains_tree(kept, statistics, attrs)


class _Sweep:
    """The state of all chains and the transitions on it."""

    def __init__(self, model: GenerativeModel, x: Tensor, chains: int, leapfrog_steps: int, settle: float):
        self.model, self.x, self.leapfrog_steps = model, x, leapfrog_steps
        self.images = LinearGaussianDraw.of(model.A, model.sigma)
        self.upper = x.new_zeros(chains, len(x), 0)
        self.moves: dict[str, StepSize] = {}
        if model.layers > 1:
            z = {model.layers: model.prior().sample((chains, len(x)))}
            for l in range(model.layers - 1, 1, -1):
                z[l] = model.conditionals[l - 1](z[l + 1]).sample()
            self.upper = torch.cat([z[l] for l in range(2, model.layers + 1)], -1)
            start = 0.5 / self.upper.shape[-1] ** 0.25
            self.moves = {name: StepSize(len(x), start, x, settle=settle) for name in (Z1_HELD, INNOVATION_HELD)}
        p = self.p_z1(self.upper)
        self.z1 = p.sample(() if model.layers > 1 else (chains, len(x)))

    def sites(self) -> dict[str, Tensor]:
        return {"z1": self.z1} | {f"z{l}": z for l, z in self.split(self.upper).items()}

    def split(self, upper: Tensor) -> dict[int, Tensor]:
        return dict(enumerate(upper.split(self.model.dims[1:], -1), start=2)) if self.model.layers > 1 else {}

    def p_z1(self, upper: Tensor) -> torch.distributions.Independent:
        """p(z1 | z2)."""
        return self.model.conditionals[0](self.split(upper)[2]) if self.model.layers > 1 else self.model.prior()

    def log_upper(self, upper: Tensor) -> Tensor:
        """log p(z2, …, zL), ``(chain, image)``."""
        z, top = self.split(upper), self.model.layers
        total = self.model.prior().log_prob(z[top])
        for l in range(2, top):
            total = total + self.model.conditionals[l - 1](z[l + 1]).log_prob(z[l])
        return total

    def log_likelihood(self, upper: Tensor, z1: Tensor) -> Tensor:
        """log p(x | z1, …, zL) up to a constant, ``(chain, image)``."""
        residual = self.x - self.model.image_mean({1: z1, **self.split(upper)})
        return -0.5 * (residual / self.model.sigma).square().sum(-1)

    def sweep(self, *, adapt: bool) -> dict[str, Tensor]:
        """One transition of everything; the acceptance probabilities ``(chain, image)`` of the Hamiltonian moves."""
        self.draw_z1()
        if not self.moves:
            return {}
        probabilities = {Z1_HELD: self._move(Z1_HELD, self._density_z1_held, adapt)}
        base = self.p_z1(self.upper).base_dist
        innovation = (self.z1 - base.loc) / base.scale

        def z1(upper: Tensor) -> Tensor:
            base = self.p_z1(upper).base_dist
            return base.loc + base.scale * innovation

        def innovation_held(upper: Tensor) -> Tensor:
            # The innovation's own density does not depend on z2.
            return self.log_upper(upper) + self.log_likelihood(upper, z1(upper))

        probabilities[INNOVATION_HELD] = self._move(INNOVATION_HELD, innovation_held, adapt)
        self.z1 = z1(self.upper)
        return probabilities

    def _density_z1_held(self, upper: Tensor) -> Tensor:
        return self.log_upper(upper) + self.p_z1(upper).log_prob(self.z1) + self.log_likelihood(upper, self.z1)

    def _move(self, name: str, log_density: Callable[[Tensor], Tensor], adapt: bool) -> Tensor:
        step_size = self.moves[name]
        self.upper, probability = hmc(log_density, self.upper, step_size.value, self.leapfrog_steps)
        if adapt:
            step_size.update(probability)
        return probability

    def draw_z1(self) -> None:
        """Steps 1 and 2: the mixing variances given z1, then z1 given them."""
        base = self.p_z1(self.upper).base_dist
        loc, scale = base.loc.expand_as(self.z1), base.scale.expand_as(self.z1)
        if self.model.families[0] == "laplace":
            scale = scale * mixing_variance((self.z1 - loc).abs() / scale).sqrt()
        residual = self.x - self.model.image_mean({1: loc, **self.split(self.upper)})
        self.z1 = loc + self.images.draw(residual, scale)


def mixing_variance(a: Tensor) -> Tensor:
    """Draw t given ``a = |z - m| / b`` where ``z | t ~ Normal(m, b^2 t)`` and ``t ~ Exponential(1/2)``.

    ``1/t`` is inverse Gaussian with mean ``1/a`` and shape 1, here by the method of Michael, Schucany & Haas (1976),
    written in t: their smaller root for ``1/t`` loses all digits by cancellation for small a, which is where a Laplace
    posterior often is.
    """
    y = torch.randn_like(a).square()
    t = a + 0.5 * y + (a * y + 0.25 * y.square()).sqrt()
    t = t.clamp(min=torch.finfo(t.dtype).tiny)
    return torch.where(torch.rand_like(t) * (t + a) < t, t, a.square() / t)


@dataclass(frozen=True)
class LinearGaussianDraw:
    """Exact draws of d given r, where ``d ~ Normal(0, diag(s^2))`` and ``r | d ~ Normal(A d, sigma^2 I)``.

    Works with ``d = s e``: the matrices to factorise, ``I + S A'A S / sigma^2`` or ``I + A S^2 A' / sigma^2``, have no
    eigenvalue below 1 however small s is, so single precision suffices.
    """

    H: Tensor
    """``A / sigma``, ``(pixel, dim)``"""
    sigma: Tensor
    gram: Tensor
    """``H'H``"""

    @staticmethod
    def of(A: Tensor, sigma: Tensor) -> LinearGaussianDraw:
        H = (A / sigma).detach()
        return LinearGaussianDraw(H, sigma.detach(), H.T @ H)

    @property
    def through_pixels(self) -> bool:
        """Whether the pixel × pixel form is the cheaper one. It pays for forming its matrix, the other does not."""
        n, p = self.H.shape
        return n**3 / 3 + n * n * p < p**3 / 3

    def draw(self, r: Tensor, s: Tensor) -> Tensor:
        """:param r: ``(..., pixel)``. :param s: ``(..., dim)``, same leading dimensions. :returns: ``(..., dim)``"""
        n, p = self.H.shape
        form, elements = (self.by_pixels, n * (2 * n + p)) if self.through_pixels else (self.by_dims, 2 * p * p)
        rows = max(1, SCRATCH_BYTES // (elements * s.element_size()))
        pairs = zip((r / self.sigma).reshape(-1, n).split(rows), s.reshape(-1, p).split(rows), strict=True)
        return torch.cat([form(*pair) for pair in pairs]).reshape(s.shape)

    def by_dims(self, r: Tensor, s: Tensor) -> Tensor:
        """Through the dim × dim precision of e (``r`` in units of sigma, one leading dimension)."""
        Q = s.unsqueeze(-1) * self.gram * s.unsqueeze(-2)
        Q.diagonal(dim1=-2, dim2=-1).add_(1)
        L = torch.linalg.cholesky(Q)
        half = torch.linalg.solve_triangular(L, (s * (r @ self.H)).unsqueeze(-1), upper=False)
        e = torch.linalg.solve_triangular(L.mT, half + torch.randn_like(half), upper=True)
        return s * e.squeeze(-1)

    def by_pixels(self, r: Tensor, s: Tensor) -> Tensor:
        """Through the pixel × pixel covariance of r (Bhattacharya, Chakraborty & Mallick 2016, Biometrika 103:985)."""
        prior = s * torch.randn_like(s)
        imagined = prior @ self.H.T + torch.randn_like(r)
        K = (self.H * s.square().unsqueeze(-2)) @ self.H.T
        K.diagonal(dim1=-2, dim2=-1).add_(1)
        w = torch.cholesky_solve((r - imagined).unsqueeze(-1), torch.linalg.cholesky(K)).squeeze(-1)
        return prior + s.square() * (w @ self.H)
