"""One training step without a host synchronisation: what happened is summed up on the device and fetched when shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_hvae.bounds.objectives import ELBO, Bound, Evaluation
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.program import announcing


@dataclass(frozen=True)
class Metrics:
    """What was fetched since the last time."""

    means: dict[str, float]
    """Means over the steps: bound, elbo, the terms of the bound, grad_norm."""
    clipped: int
    skipped: int
    first_bad: int | None
    """First step whose loss or gradient was not finite."""
    bad_terms: tuple[str, ...]
    """Terms that were not finite at that step; empty if only the gradient was not."""


#: Gradients by parameter (None where the bound does not depend on it), whether to leave the update out, the new tally.
StepResult = tuple[list[Tensor | None], Tensor, Tensor]


class StepFunction(nn.Module):
    """(betas, images, tally) -> (gradients, found_inf, tally): a training step but for its update.

    A function of its arguments, its parameters and PyTorch's random state alone, so that it can be traced, compiled and
    stacked.

    The tally is a float64 vector: sums of the values named :attr:`names`, counts of clipped and skipped steps, the step's
    number, the first step that was not finite (-1 for none) and which of the values were not finite there.

    :param names: parameters of the pair that are trained, as ``vae.named_parameters()`` names them.
    :param betas: sites whose beta is an argument.
    """

    def __init__(
        self,
        vae: HVAE,
        objective: Bound,
        names: Sequence[str],
        betas: Sequence[str],
        clip: float | None = None,
        skip: float | None = None,
        precision: str = "float32",
    ):
        super().__init__()
        self.vae, self.trained, self.betas, self.clip, self.skip = vae, tuple(names), tuple(betas), clip, skip
        self.objective = copy.copy(objective)
        self.precision = precision
        self.names = ("bound", "elbo", "x", *vae.sites, "grad_norm")

    def tally(self, step: int, device: torch.device) -> Tensor:
        """An empty tally before step number ``step``."""
        n = len(self.names)
        return torch.tensor([0.0] * (n + 2) + [step, -1.0] + [0.0] * n, dtype=torch.float64, device=device)

    def evaluate(self, betas: Sequence[Tensor], x: Tensor) -> Evaluation:
        """The objective at the pair's present parameters."""
        self.objective.beta = {**self.objective.beta, **dict(zip(self.betas, betas, strict=True))}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.objective.evaluate(self.vae.model, self.vae.guide, x)

    def forward(self, betas: Sequence[Tensor], x: Tensor, *tally: Tensor) -> Any:
        """The step at the pair's present parameters; without a tally only :meth:`differentiate`."""
        differentiated = self.differentiate(betas, x)
        return self.judge(*differentiated, *tally) if tally else differentiated

    def differentiate(self, betas: Sequence[Tensor], x: Tensor) -> tuple[list[Tensor | None], Tensor]:
        """Gradients of minus the mean bound, and the means of the bound, the ELBO and its terms over the images.

        :raises HVAEError: where the bound depends on no parameter that is trained.
        """
        present = dict(self.vae.named_parameters())
        evaluation = self.evaluate(betas, x)
        loss = -evaluation.bound.mean()
        gradients: Sequence[Tensor | None] = ()
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, [present[name] for name in self.trained], allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise HVAEError(
                f"the bound depends on none of the parameters that are trained ({', '.join(self.trained)}); are they "
                "detached, or not used by the programs?"
            )
        return list(gradients), self.values(evaluation)

    def values(self, evaluation: Evaluation) -> Tensor:
        """What is summed up in the tally, but for the gradient's norm."""
        means = [evaluation.terms[name].mean() for name in self.names[2:-1]]
        return torch.stack([evaluation.bound.detach().mean(), evaluation.elbo.mean(), *means])

    def judge(self, gradients: list[Tensor | None], values: Tensor, tally: Tensor) -> StepResult:
        """Clip the gradients, decide whether the update is made, and keep the tally."""
        n = len(self.names)
        # One by one: the multi-tensor norm has no batching rule for ensembles, and is fused away in a compiled step.
        norm = torch.stack([torch.linalg.vector_norm(g) for g in gradients if g is not None]).norm()
        values = torch.cat([values, norm.reshape(1)]).double()
        sums, (clips, skips, step, first_bad), bad = tally[:n], tally[n : n + 4].unbind(), tally[n + 4 :]
        finite = values[0].isfinite() & norm.isfinite()
        skipped = norm > self.skip if self.skip is not None else torch.zeros_like(finite)
        clipped = norm > self.clip if self.clip is not None else torch.zeros_like(finite)
        if self.clip is not None:
            shorter = torch.clamp(self.clip / (norm + 1e-6), max=1.0)
            gradients = [g if g is None else g * shorter for g in gradients]
        newly = ~finite & (first_bad < 0)
        first_bad = torch.where(newly, step, first_bad)
        bad = torch.where(newly, (~values.isfinite()).double(), bad)
        # After the first step that was not finite none is carried out, until the host has seen it and stopped.
        found_inf = (skipped | (first_bad >= 0)).float()
        counts = torch.stack([clips + (clipped & finite & ~skipped), skips + (skipped & finite), step + 1, first_bad])
        return gradients, found_inf, torch.cat([sums + values, counts, bad])


class TrainingStep:
    """Evaluate the objective on a batch, differentiate, clip, update.

    A step whose loss or gradient is not finite, or whose gradient is longer than ``skip``, changes nothing.

    :param objective: a bound of ours, or one of Pyro's (:mod:`~pyro_hvae.bounds.pyro_objectives`).
    :param parameters: those that are trained, by their names in the pair.
    :param betas: 0-d tensors by site that enter the objective; write to them between steps.
    """

    def __init__(
        self,
        vae: HVAE,
        objective: Any,
        parameters: dict[str, nn.Parameter],
        betas: dict[str, Tensor],
        learning_rate: float,
        clip: float | None = None,
        skip: float | None = None,
        precision: str = "float32",
    ):
        self.parameters, self.betas = list(parameters.values()), list(betas.values())
        like = self.parameters[0]
        self.learning_rate = torch.tensor(learning_rate, dtype=torch.float32, device=like.device)
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.learning_rate, fused=True)
        own = isinstance(objective, Bound)
        self.function = StepFunction(
            vae, objective if own else ELBO(), list(parameters), list(betas) if own else (), clip, skip, precision
        )
        self.pyro_objective = None if own else objective
        self.advance: Callable[[Sequence[Tensor], Tensor, Tensor], StepResult] = self.function if own else self._by_pyro
        self.tally = self.function.tally(0, like.device)
        self._fetched = 0

    def start_at(self, step: int) -> None:
        """Number the next step ``step``; for runs that are resumed."""
        self.tally.copy_(self.function.tally(step, self.tally.device))
        self._fetched = step

    def __call__(self, x: Tensor) -> None:
        """Train on the images ``x (image, pixel)``."""
        gradients, found_inf, tally = self.advance(self.betas, x, self.tally)
        self.tally.copy_(tally)
        self.update(gradients, found_inf)

    def halt(self) -> None:
        """Carry out no more updates, as after a step that was not finite."""
        self.tally[len(self.function.names) + 3] = self.tally[len(self.function.names) + 2]

    def update(self, gradients: Sequence[Tensor | None], found_inf: Tensor) -> None:
        """Change the parameters, unless ``found_inf`` says not to."""
        for p, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and gradient.stride() != p.stride():
                # The fused update reads parameters and gradients as flat memory: a transposed gradient (of an einsum, say)
                # would be applied to the wrong elements.
                gradient = torch.empty_like(p).copy_(gradient)
            p.grad = gradient
        # The fused update is not carried out where found_inf is set: a decision on the device, without a sync.
        self.optimizer.found_inf = found_inf
        self.optimizer.step()

    def _by_pyro(self, betas: Sequence[Tensor], x: Tensor, tally: Tensor) -> StepResult:
        """The step under one of Pyro's objectives, which differentiate by themselves."""
        vae = self.function.vae
        self.optimizer.zero_grad(set_to_none=True)
        # Pyro's objectives differentiate where a program announces parameters.
        loss = self.pyro_objective.loss_and_grads(announcing(vae.model), announcing(vae.guide), x)
        gradients = [
            None if p.grad is None else p.grad / len(x) for p in self.parameters
        ]  # Pyro's losses are sums over images
        if all(gradient is None for gradient in gradients):
            raise HVAEError(
                f"{type(self.pyro_objective).__name__} of Pyro depends on none of the parameters that are trained; are they "
                "detached, or not used by the programs?"
            )
        with torch.no_grad():
            values = self.function.values(self.function.evaluate((), x))
        values[0] = -loss / len(x)
        return self.function.judge(gradients, values, tally)

    def fetch(self) -> Metrics:
        """Means and counts since the last call; the only synchronisation."""
        names = self.function.names
        n = len(names)
        values = self.tally.tolist()
        sums, (clipped, skipped, step, first_bad), bad = values[:n], values[n : n + 4], values[n + 4 :]
        count = max(int(step) - self._fetched, 1)
        self._fetched = int(step)
        self.tally[: n + 2] = 0.0
        return Metrics(
            {name: total / count for name, total in zip(names, sums, strict=True)},
            int(clipped),
            int(skipped),
            None if first_bad < 0 else int(first_bad),
            tuple(name for name, b in zip(names, bad, strict=True) if b),
        )
