"""Annealed importance sampling from the prior to the posterior, and back."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_hvae.arguments import whole_number
from pyro_hvae.sampling.hmc import StepSize, hmc
from pyro_hvae.sampling.log_joint import Joint

PILOT_SHARE = 4  # the pilot runs one chain for every four of the run it prepares
SPREAD = 20


def sigmoid_schedule(num_temperatures: int, *, steepness: float = 4.0) -> Tensor:
    """Inverse temperatures ``0 = t_0 < … < t_T = 1``, ``(num_temperatures + 1,)``, dense at both ends.

    Rescaled ``1 / (1 + exp(-steepness (2k/T - 1)))`` (Wu, Burda, Salakhutdinov & Grosse 2017, arXiv 1611.04273, eq. 6).
    """
    whole_number("num_temperatures", num_temperatures, 2)
    t = torch.sigmoid(steepness * torch.linspace(-1, 1, num_temperatures + 1, dtype=torch.float64))
    return (t - t[0]) / (t[-1] - t[0])


@dataclass(frozen=True)
class Annealing:
    """Transitions that leave ``p(u) p(x | u)^t`` invariant, for a ladder of inverse temperatures t.

    Step sizes are a table, made by :meth:`tuned` in a separate pilot run and never changed afterwards. Given the table
    every transition is an ordinary Markov transition with the right invariant density, so the weights are exactly
    unbiased; the usual rule that adapts the step size of a running chain to its own acceptances is not, and the bound
    then holds only as long as the adaptation is slow.
    """

    temperatures: Tensor
    """``(temperature + 1,)``"""
    step_sizes: Tensor
    """``(temperature - 1, image)``: of the transitions at ``t_1 … t_{T-1}``."""
    leapfrog_steps: int

    @staticmethod
    def tuned(joint: Joint, temperatures: Tensor, leapfrog_steps: int) -> Annealing:
        """Run down the ladder once with chains of its own, following the acceptance rate per image."""
        step = StepSize(len(joint.x), 0.7 / joint.dim**0.25, joint.x, settle=float("inf"))
        table, u = [], joint.prior()
        with pyro.validation_enabled(False):
            for t in temperatures[1:-1].tolist():
                table.append(step.value)
                u, probability = hmc(_tempered(joint, t), u, step.value, leapfrog_steps)
                step.update(probability)
        return Annealing(temperatures, torch.stack(table), leapfrog_steps)

    @torch.no_grad()
    def forward(self, joint: Joint) -> tuple[Tensor, Tensor]:
        """From the prior to the posterior.

        :returns: log weights ``(chain, image)`` with ``E[exp(log weight)] = p(x)``; mean acceptance probability of each
            transition, ``(temperature - 1, image)``.
        """
        u = joint.prior()
        return self._run(joint, u, range(len(self.temperatures) - 1), reverse=False)

    @torch.no_grad()
    def backward(self, joint: Joint, u: Tensor) -> tuple[Tensor, Tensor]:
        """From exact posterior draws ``u (chain, image, dim)`` to the prior: the forward run seen from its end.

        :data:`SPREAD` transitions at t = 1 come first. They leave each chain's start an exact draw of the posterior and
        make those of chains that were given the same draw less alike, so that averaging over chains helps.

        :returns: log weights with ``E[exp(-log weight)] = 1 / p(x)``, and acceptance as in :meth:`forward`.
        """
        with pyro.validation_enabled(False):
            for _ in range(SPREAD):
                u, _ = hmc(_tempered(joint, 1.0), u, self.step_sizes[-1], self.leapfrog_steps)
        return self._run(joint, u, range(len(self.temperatures) - 2, -1, -1), reverse=True)

    def _run(self, joint: Joint, u: Tensor, order: range, *, reverse: bool) -> tuple[Tensor, Tensor]:
        t = self.temperatures.tolist()
        log_weight = torch.zeros(u.shape[:-1], dtype=torch.float64, device=u.device)
        acceptance = torch.ones_like(self.step_sizes)
        with pyro.validation_enabled(False):
            for i, k in enumerate(order):  # the step between t_k and t_{k+1}
                log_weight += (t[k + 1] - t[k]) * joint(u)[1].double()
                if i + 1 == len(order):
                    break
                here = k if reverse else k + 1
                step_size = self.step_sizes[here - 1]
                u, probability = hmc(_tempered(joint, t[here]), u, step_size, self.leapfrog_steps)
                acceptance[here - 1] = probability.mean(0)
        return log_weight, acceptance


def _tempered(joint: Joint, t: float):
    def log_density(u: Tensor) -> Tensor:
        log_prior, log_likelihood = joint(u)
        return log_prior + t * log_likelihood

    return log_density
