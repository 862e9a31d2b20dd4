"""Chains of draws of p(z | x) for many images at once, started at a guide: which sampler, where it starts, how far it went.

=================================  =====================================================================================
the model                          :func:`posterior_chains` takes
=================================  =====================================================================================
any of ours                        :class:`~pyro_hvae.sampling.collapsed.Collapsed`: z1 integrated out in closed form
any other with continuous latents  :class:`Plain`: Hamiltonian moves of all latents, whitened by the model's own program
=================================  =====================================================================================

Of the ways to sample our models that were tried on TDVAE20, this one mixes best for its cost (``docs/benchmarks.md``). z1 by a
proposal of independent units with an accept step fails on what A lacks of orthogonality, however little it is in each of 450
units; the scale mixture of :mod:`~pyro_hvae.sampling.gibbs` factorises a matrix an image and sweep; moving z1 by Hamiltonian
Monte Carlo meets the kinks of 450 Laplace priors.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from pyro_hvae.bounds.traces import PARTICLES, sample_sites
from pyro_hvae.programs import HVAE, GenerativeModel
from pyro_hvae.sampling.adaptive_hmc import AdaptiveHMC
from pyro_hvae.sampling.collapsed import Collapsed, decoupled
from pyro_hvae.sampling.kernels import Kernels
from pyro_hvae.sampling.log_joint import Joint

SPREAD_DRAWS = 64  # of the guide, whose standard deviations are the first metric
LEAST_SPREAD = 1e-3  # of the prior's scale, for a guide that is too sure


class Plain:
    """Chains of all latents of any model, in the coordinates of :class:`~pyro_hvae.sampling.log_joint.Joint`.

    Offers what :class:`~pyro_hvae.sampling.collapsed.Collapsed` does, with draws where that has conditional moments.
    """

    long = 1

    def __init__(self, model: Callable, x: Tensor, start: dict[str, Tensor], many: dict[str, Tensor], warmup: int):
        chains = len(next(iter(start.values())))
        self.joint = Joint(model, x, chains)
        self.u = self.joint.whiten(start)
        spread = Joint(model, x, len(next(iter(many.values())))).whiten(many).std(0)
        self.moves = AdaptiveHMC(spread.clamp(LEAST_SPREAD, 1.0), warmup, overhead=0.0)

    def sites(self) -> dict[str, Tensor]:
        """The latents as they are, ``{site: (chain, image, dim)}``."""
        return {site: z.reshape(*z.shape[:2], -1) for site, z in self.joint.latents(self.u).items()}

    def sweep(self, *, adapt: bool, cycles: int = 1) -> tuple[Tensor, Tensor]:
        """One Hamiltonian move; its acceptance probabilities and whether it diverged, ``(chain, image)``."""
        self.u, probability, divergent = self.moves.move(self._log_density, self.u, adapt=adapt)
        return probability, divergent

    def _log_density(self, u: Tensor) -> Tensor:
        log_prior, log_likelihood = self.joint(u)
        return log_prior + log_likelihood


class ChainStarter:
    """Starts chains for batches of images of one pair.

    :param compiled: as for :class:`~pyro_hvae.sampling.kernels.Kernels`; of no effect on :class:`Plain`.
    """

    def __init__(self, vae: HVAE, *, compiled: bool = False):
        self.vae = vae
        self.collapses = isinstance(vae.model, GenerativeModel)
        if self.collapses:
            self.decoupling = decoupled(vae.model)
            families: tuple[str, ...] = vae.model.families
            self.kernels = Kernels(families[0], compiled=compiled)

    @torch.no_grad()
    def start(self, x: Tensor, chains: int, warmup: int) -> Collapsed | Plain:
        """Chains at draws of the guide, one draw a chain.

        :param x: images ``(image, pixel)``.
        :param warmup: transitions with ``adapt=True`` that the caller makes first.
        """
        start, many = self._guessed(x, chains), self._guessed(x, SPREAD_DRAWS)
        if not self.collapses:
            return Plain(self.vae.model, x, start, many, warmup)
        model: GenerativeModel = self.vae.model
        upper = [many[f"z{l}"].std(0) for l in range(2, model.layers + 1)]
        spread = torch.cat(upper, -1).clamp(LEAST_SPREAD, 1.0) if upper else x.new_zeros(len(x), 0)
        return Collapsed(model, x, start, spread, warmup, self.decoupling, self.kernels)

    def _guessed(self, x: Tensor, draws: int) -> dict[str, Tensor]:
        guide = pyro.plate(PARTICLES, draws, dim=-2)(self.vae.guide)
        trace = pyro.poutine.trace(guide).get_trace(x)
        return {name: node["value"] for name, node in sample_sites(trace, observed=False).items()}
