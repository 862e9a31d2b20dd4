"""z1 integrated out: Hamiltonian moves of (z2, …, zL) alone, exact, for every model with x linear-Gaussian in z1.

One sweep, for all chains and images at once:

1. (z2, …, zL) moves by Hamiltonian Monte Carlo under p(z2, …, zL | u, x), in which z1 is integrated out in closed form, the
   auxiliary u of :mod:`~pyro_hvae.sampling.decoupling` making its units independent;
2. z1 is drawn from p(z1 | z2, u, x), exactly and independently of the z1 before, unit by unit
   (:class:`~pyro_hvae.programs.product.LaplaceNormalProduct`);
3. u is drawn anew given z1, over-relaxed; 2 and 3 a second time.

Every step leaves the joint posterior of (z, u) invariant, so there is nothing to accept or to weigh in z1. Nothing is
approximated: where A has orthogonal columns u carries no information at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_hvae.programs.models import GenerativeModel
from pyro_hvae.sampling.adaptive_hmc import AdaptiveHMC
from pyro_hvae.sampling.decoupling import Decoupling
from pyro_hvae.sampling.kernels import Kernels

OVER_RELAXED = 0.9  # of u: new noise is minus this times the old one, plus what keeps its variance (Adler 1981)
PRIOR_DRAWS = 2000
CYCLES = 2  # of z1 and u in a sweep
FORGOTTEN = 0.01  # correlation by way of u that may be left between two means of z1 given the same z2
MOST_CYCLES = 30


class UpperLayers:
    """(z2, …, zL) of a model as one vector."""

    def __init__(self, model: GenerativeModel):
        self.model = model

    def split(self, upper: Tensor) -> dict[int, Tensor]:
        """``{l: (..., dim zl)}`` for l = 2 … L."""
        return dict(enumerate(upper.split(self.model.dims[1:], -1), start=2)) if self.model.layers > 1 else {}

    def p_z1(self, upper: Tensor) -> torch.distributions.Independent:
        """p(z1 | z2)."""
        return self.model.conditionals[0](self.split(upper)[2]) if self.model.layers > 1 else self.model.prior()

    def log_upper(self, upper: Tensor) -> Tensor:
        """log p(z2, …, zL), ``(...)``."""
        z, top = self.split(upper), self.model.layers
        total = self.model.prior().log_prob(z[top])
        for l in range(2, top):
            total = total + self.model.conditionals[l - 1](z[l + 1]).log_prob(z[l])
        return total

    def draw_upper(self, shape: tuple[int, ...]) -> Tensor:
        """Ancestral draws of (z2, …, zL), ``(*shape, dim)``."""
        model = self.model
        z = {model.layers: model.prior().sample(shape)}
        for l in range(model.layers - 1, 1, -1):
            z[l] = model.conditionals[l - 1](z[l + 1]).sample()
        return torch.cat([z[l] for l in range(2, model.layers + 1)], -1)


@torch.no_grad()
def decoupled(model: GenerativeModel) -> Decoupling:
    """The decoupling of a model of ours, its units weighed by their prior variance, layers above averaged out."""
    layers = UpperLayers(model)
    with torch.random.fork_rng(devices=[model.A.device] if model.A.is_cuda else []):
        torch.manual_seed(0)
        p = layers.p_z1(layers.draw_upper((PRIOR_DRAWS,))) if model.layers > 1 else layers.p_z1(model.A.new_zeros(1, 0))
    mean, variance = (t.double().reshape(-1, model.dims[0]) for t in (p.mean, p.variance))
    return Decoupling.of(model.A, model.sigma, variance.mean(0) + mean.var(0, correction=0))


class Collapsed(UpperLayers):
    """Chains of (z1, …, zL, u) for a batch of images.

    :param x: images ``(image, pixel)``.
    :param start: latents ``{site: (chain, image, dim)}`` to begin with.
    :param spread: standard deviations of (z2, …, zL) to begin with, ``(image, dim)``.
    """

    def __init__(
        self, model: GenerativeModel, x: Tensor, start: dict[str, Tensor], spread: Tensor, warmup: int,
        decoupling: Decoupling, kernels: Kernels,
    ):  # fmt: skip
        super().__init__(model)
        self.x, self.decoupling, self.kernels = x, decoupling, kernels
        self.width = decoupling.precision.rsqrt()
        self.evidence = (x - model.to_image.bias) @ decoupling.to_units
        self.z1 = start["z1"]
        batch = self.z1.shape[:-1]
        self.upper = torch.cat([start[f"z{l}"] for l in range(2, model.layers + 1)] or [x.new_zeros(*batch, 0)], -1)
        self.skips = model.layers > 1 and model.skipped(self.split(self.upper)) is not None
        self.noise = torch.randn_like(self.z1)
        self.moves = AdaptiveHMC(spread, warmup) if model.layers > 1 else None
        # Sweeps on which z1 is drawn until u has forgotten: the two means of z1 given z2 are then those of separate draws.
        memory = max(decoupling.memory, 1e-6)
        self.long = next((k for k in range(2, MOST_CYCLES) if memory ** (k + 1) < FORGOTTEN), MOST_CYCLES)

    def sites(self) -> dict[str, Tensor]:
        """The latents as they are, ``{site: (chain, image, dim)}``."""
        return {"z1": self.z1} | {f"z{l}": z for l, z in self.split(self.upper).items()}

    def sweep(self, *, adapt: bool, cycles: int = CYCLES) -> tuple[Tensor, Tensor]:
        """One sweep; the acceptance probabilities of its Hamiltonian move and whether it diverged, ``(chain, image)``.

        Then :attr:`first` and :attr:`mean` are E[z1 | z2, u, x] at the first and the last of the cycles, and :attr:`within` is
        the conditional variance at the last.
        """
        pull = self._pull()
        if self.moves is None:
            probability = torch.ones_like(self.z1[..., 0])
            divergent = probability < 0
        else:
            self.upper, probability, divergent = self.moves.move(
                lambda upper: self.log_density(upper, pull), self.upper, adapt=adapt
            )
        base = self.p_z1(self.upper).base_dist
        loc, scale = base.loc.expand_as(self.z1), base.scale.expand_as(self.z1)
        for cycle in range(cycles):
            if cycle:
                pull = self._pull()
            center = self._evidence(self.upper, pull) / self.decoupling.precision
            self.z1, self.mean, self.within = self.kernels.draw(loc, scale, center, self.width)
            if not cycle:
                self.first = self.mean
            self._refresh(OVER_RELAXED if cycles == CYCLES else 0.0)  # over-relaxed, u forgets more slowly
        return probability, divergent

    def log_density(self, upper: Tensor, pull: Tensor) -> Tensor:
        """log p(z2, …, zL | u, x) up to a constant."""
        base = self.p_z1(upper).base_dist
        v = self._evidence(upper, pull)
        precision = self.decoupling.precision
        value = self.log_upper(upper) + self.kernels.log_normaliser(base.loc, base.scale, v / precision, self.width)
        if self.skips:
            rest = (self.x - self.model.to_image.bias - self.model.skipped(self.split(upper))) / self.model.sigma
            value = value + 0.5 * (v.square() / precision).sum(-1) - 0.5 * rest.square().sum(-1)
        return value

    def _evidence(self, upper: Tensor, pull: Tensor) -> Tensor:
        """What the image and u say of z1: the linear term of its log likelihood."""
        if not self.skips:
            return pull + self.evidence
        return pull + self.evidence - self.model.skipped(self.split(upper)) @ self.decoupling.to_units

    def _pull(self) -> Tensor:
        """R'u, with u = R z1 + noise."""
        self._u = self.z1 @ self.decoupling.root + self.noise
        return self._u @ self.decoupling.root

    def _refresh(self, relaxed: float) -> None:
        """The noise of u given the new z1: what u is beyond R z1, turned round, and new noise."""
        left = self._u - self.z1 @ self.decoupling.root
        self.noise = -relaxed * left + (1 - relaxed**2) ** 0.5 * torch.randn_like(left)
