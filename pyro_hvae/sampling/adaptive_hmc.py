"""Hamiltonian moves of many images at once, each with a step size and a metric of its own, learnt during warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from pyro_hvae.sampling.hmc import JITTER, TARGET_ACCEPTANCE, value_and_gradient

DIVERGENT = 1000.0  # error of the energy from which on a trajectory is called divergent, as in Stan
LEAPFROGS = (2, 3, 4, 6, 9, 13, 19, 28, 40)  # path lengths that are tried
TRIALS = 4  # transitions of each
DENSE_UP_TO = 64  # dimensions, of a covariance matrix an image
SHRINK = 20  # draws' worth of belief in a diagonal metric
GAMMA, SHIFT, KAPPA = 0.05, 10, 0.75  # of dual averaging: Hoffman & Gelman 2014, section 3.2
SEARCHED, LEARNT = 0.35, 0.75  # shares of warm-up at which the metric is learnt the first and the last time


class AdaptiveHMC:
    """Positions ``(chain, image, dim)`` are moved by :meth:`move`; during warm-up that also learns.

    Step sizes follow the acceptance rate over the chains of an image by dual averaging (Hoffman & Gelman 2014, J. Mach.
    Learn. Res. 15:1593). The metric is the covariance of an image's draws so far, all chains together, shrunk towards its
    diagonal; for more than :data:`DENSE_UP_TO` dimensions the diagonal alone. The number of leapfrog steps is one for all
    images: of several tried, the one with the most effective draws a gradient, judged by the lag-one autocorrelation of
    positions and of their squared distances (the criteria of Pasarica & Gelman 2010 and of ChEES, Hoffman, Radul & Sountsov
    2021). Each trajectory has a random length around it, so that none is in resonance. After warm-up nothing changes any more.

    :param spread: standard deviations to begin with, ``(image, dim)``.
    :param warmup: transitions of warm-up; the caller makes them first, with ``adapt=True``.
    :param overhead: cost of what is done between two transitions, in gradients.
    """

    def __init__(self, spread: Tensor, warmup: int, overhead: float = 2.0):
        self.dense = spread.shape[-1] <= DENSE_UP_TO
        self.factor = torch.diag_embed(spread) if self.dense else spread
        self.leapfrogs = 4
        self._warmup, self._overhead = warmup, overhead
        self._count = 0
        self._kept: list[Tensor] = []
        self._sums = (0, torch.zeros_like(spread), torch.zeros_like(spread))
        self._trials: dict[int, Tensor] = {}
        self._centre = torch.zeros_like(spread)
        self._restart(spread.new_full(spread.shape[:1], 0.5))

    def _restart(self, step: Tensor) -> None:
        self.step = step
        self._anchor, self._log_mean = (10 * step).log(), step.log()
        self._error, self._updates = torch.zeros_like(step), 0

    def _physical(self, y: Tensor) -> Tensor:
        return torch.einsum("cbj,bij->cbi", y, self.factor) if self.dense else y * self.factor

    def _pulled(self, gradient: Tensor) -> Tensor:
        return torch.einsum("cbi,bij->cbj", gradient, self.factor) if self.dense else gradient * self.factor

    def _standard(self, difference: Tensor) -> Tensor:
        if not self.dense:
            return difference / self.factor
        return torch.linalg.solve_triangular(self.factor, difference.movedim(0, -1), upper=False).movedim(-1, 0)

    def move(
        self, log_density: Callable[[Tensor], Tensor], position: Tensor, *, adapt: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One transition that leaves ``exp(log_density)`` invariant (when it does not adapt).

        :param log_density: ``(chain, image, dim) -> (chain, image)``, of independent rows.
        :returns: new positions, acceptance probabilities and whether the trajectory diverged, ``(chain, image)``.
        """
        candidate = self._candidate() if adapt else None
        with pyro.validation_enabled(False):  # a trajectory that leaves the numbers is refused, not an error
            new, probability, divergent = self._transition(log_density, position, candidate or self.leapfrogs)
        if adapt:
            self._learn(position, new, probability, candidate)
        return new, probability, divergent

    @torch.no_grad()
    def _transition(
        self, log_density: Callable[[Tensor], Tensor], position: Tensor, leapfrogs: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        shape = position.shape[:-1]
        jitter = 1 + JITTER * (2 * torch.rand(shape, dtype=position.dtype, device=position.device) - 1)
        step = (self.step * jitter).unsqueeze(-1)
        start_momentum = torch.randn_like(position)
        start, gradient = value_and_gradient(log_density, position)
        end, proposal, momentum = start, position, start_momentum + 0.5 * step * self._pulled(gradient)
        for i in range(leapfrogs):
            proposal = proposal + step * self._physical(momentum)
            end, gradient = value_and_gradient(log_density, proposal)
            momentum = momentum + (step if i + 1 < leapfrogs else 0.5 * step) * self._pulled(gradient)
        gain = end - start + 0.5 * (start_momentum.square() - momentum.square()).sum(-1)
        gain = torch.nan_to_num(gain, nan=-torch.inf, posinf=-torch.inf)
        probability = gain.clamp(max=0).exp()
        accept = torch.rand(shape, dtype=position.dtype, device=position.device) < probability
        return torch.where(accept.unsqueeze(-1), proposal, position), probability, gain < -DIVERGENT

    # -- warm-up

    @property
    def _trials_begin(self) -> int:
        return int(SEARCHED * self._warmup)

    def _candidate(self) -> int | None:
        """The path length that is tried now."""
        behind = self._count - self._trials_begin - TRIALS * 2  # let the step size settle on the new metric
        tried = behind // TRIALS
        fits = self._trials_begin + TRIALS * (2 + len(LEAPFROGS)) < LEARNT * self._warmup
        return LEAPFROGS[tried] if fits and behind >= 0 and tried < len(LEAPFROGS) else None

    def _learn(self, before: Tensor, after: Tensor, probability: Tensor, candidate: int | None) -> None:
        self._count += 1
        self._updates += 1
        share = 1 / (self._updates + SHIFT)
        self._error = (1 - share) * self._error + share * (TARGET_ACCEPTANCE - probability.mean(0))
        log_step = self._anchor - math.sqrt(self._updates) / GAMMA * self._error
        weight = self._updates**-KAPPA
        self._log_mean = weight * log_step + (1 - weight) * self._log_mean
        self.step = log_step.exp()
        if candidate:
            self._judge(before, after, candidate)
        elif self._trials:
            self._choose()
        if self._count >= self._trials_begin // 2:
            self._remember(after)
        if self._count in (self._trials_begin, int(0.55 * self._warmup), int(LEARNT * self._warmup)):
            self._learn_metric()
        if self._count == self._warmup:
            self.step = self._log_mean.exp()
            self._kept.clear()

    def _remember(self, position: Tensor) -> None:
        if self.dense:
            self._kept.append(position)
            return
        n, total, squares = self._sums
        position = position - self._centre
        self._sums = (n + len(position), total + position.sum(0), squares + position.square().sum(0))

    def _learn_metric(self) -> None:
        if self.dense:
            draws = torch.cat(self._kept)
            self._centre = draws.mean(0)
            centred = draws - self._centre
            n = len(draws)
            covariance = torch.einsum("nbi,nbj->bij", centred, centred) / n
            variance = covariance.diagonal(dim1=-2, dim2=-1)
            variance = (n * variance + SHRINK * 1e-3 * variance.mean(-1, keepdim=True)) / (n + SHRINK * 1e-3)
            covariance = (n * covariance + SHRINK * torch.diag_embed(variance)) / (n + SHRINK)
            factor, failed = torch.linalg.cholesky_ex(covariance)
            self.factor = torch.where(failed[:, None, None] == 0, factor, torch.diag_embed(variance.sqrt()))
            del self._kept[: len(self._kept) // 2]  # the earlier half is the further from stationary
        else:
            n, total, squares = self._sums
            variance = (squares / n - (total / n).square()).clamp(min=0)
            old = self.factor.square()
            self.factor = ((n * variance + SHRINK * old) / (n + SHRINK)).sqrt()
            self._sums = (0, torch.zeros_like(total), torch.zeros_like(total))
        self._restart(self._log_mean.exp().clamp(0.05, 1.0))

    def _judge(self, before: Tensor, after: Tensor, leapfrogs: int) -> None:
        """Lag-one sums of products of this transition: of positions, and of squared distances from the centre."""
        centre = self._centre if self.dense else self._sums[1] / max(self._sums[0], 1)
        y, new = self._standard(before - centre), self._standard(after - centre)
        r, moved = y.square().sum(-1), new.square().sum(-1)
        middle = 0.5 * (r + moved).mean()
        sums = torch.stack(
            [(y - new).square().sum(), (y.square() + new.square()).sum(),
             (r - moved).square().sum(), ((r - middle).square() + (moved - middle).square()).sum()]
        ).double()  # fmt: skip
        self._trials[leapfrogs] = self._trials.get(leapfrogs, torch.zeros_like(sums)) + sums

    def _choose(self) -> None:
        """The path length with the most effective draws a gradient, of means and of spreads alike."""
        worth = {}
        for leapfrogs, (jump, size, jump_r, size_r) in self._trials.items():
            rho = max(float(1 - jump / size), float(1 - jump_r / size_r), 0.0)
            worth[leapfrogs] = (1 - rho) / (1 + rho) / (leapfrogs + 1 + self._overhead)
        self.leapfrogs = max(worth, key=lambda leapfrogs: worth[leapfrogs])
        self._trials.clear()
