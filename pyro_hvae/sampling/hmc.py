"""One Hamiltonian Monte Carlo transition, vectorised over chains and images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_hvae.arguments import whole_number

TARGET_ACCEPTANCE = 0.8
GAIN = 0.3
JITTER = 0.2  # relative half-width of the random step size: no trajectory length is in resonance with every dimension


@torch.no_grad()
def hmc(
    log_density: Callable[[Tensor], Tensor], u: Tensor, step_size: Tensor, leapfrog_steps: int
) -> tuple[Tensor, Tensor]:
    """Leapfrog with unit masses and an accept/reject step; leaves ``exp(log_density)`` invariant.

    Each chain and image accepts by itself, so the density must be one of independent rows. The step size is jittered
    independently of the state: a mixture of reversible transitions, hence itself reversible, which is what the reverse
    chain of bidirectional Monte Carlo needs.

    :param log_density: ``(chain, image, dim) -> (chain, image)``; non-finite values count as density zero.
    :param u: current states ``(chain, image, dim)``.
    :param step_size: ``(image,)``, or anything that broadcasts to ``(chain, image)``.
    :returns: new states, and the probability ``(chain, image)`` with which each proposal was accepted.
    """
    shape = u.shape[:-1]
    jitter = 1 + JITTER * (2 * torch.rand(shape, dtype=u.dtype, device=u.device) - 1)
    step = (step_size * jitter).unsqueeze(-1)
    momentum = torch.randn_like(u)
    start, gradient = value_and_gradient(log_density, u)
    proposal, p = u, momentum + 0.5 * step * gradient
    for i in range(leapfrog_steps):
        proposal = proposal + step * p
        end, gradient = value_and_gradient(log_density, proposal)
        p = p + (step if i + 1 < leapfrog_steps else 0.5 * step) * gradient
    log_ratio = end - start + 0.5 * (momentum.square() - p.square()).sum(-1)
    probability = torch.nan_to_num(log_ratio, nan=-torch.inf).clamp(max=0).exp()
    accept = torch.rand(shape, dtype=u.dtype, device=u.device) < probability
    return torch.where(accept.unsqueeze(-1), proposal, u), probability


def value_and_gradient(log_density: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """``log_density(u)`` and its gradient, both detached; parameters of the model gather no gradient."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = log_density(u)
        (gradient,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), gradient


class StepSize:
    """Step size per image, driven to :data:`TARGET_ACCEPTANCE` on the log scale; :attr:`value` ``(image,)``.

    The t-th correction has gain :data:`GAIN` up to ``settle`` and ``GAIN / (t - settle)^0.6`` after it (Robbins-Monro):
    first it follows a target that moves or a chain that is still on its way, then it converges.
    """

    def __init__(self, images: int, start: float, like: Tensor, *, settle: float):
        self.value = torch.full((images,), float(start), dtype=like.dtype, device=like.device)
        self._settle, self._count = settle, 0

    def update(self, probability: Tensor) -> None:
        """Learn from one transition's acceptance probabilities ``(chain, image)``."""
        self._count += 1
        gain = GAIN / max(1.0, self._count - self._settle) ** 0.6
        self.value = self.value * torch.exp(gain * (probability.mean(0) - TARGET_ACCEPTANCE))


def check_counts(**counts: int) -> None:
    """Refuse counts below one, by name."""
    for name, count in counts.items():
        whole_number(name, count, 1)
