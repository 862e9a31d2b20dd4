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
from pyro_hvae.published import Training
from pyro_hvae.published.schedules import Schedule


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
#: (betas, images, tally) -> what is to be done: the eager step function, or one traced or compiled from it.
Advance = Callable[[Sequence[Tensor], Tensor, Tensor], StepResult]


@dataclass(frozen=True)
class Tally:
    """Layout of the float64 vector in which steps are summed up on the device.

    In this order: the sums of the values of that name over the steps; how many steps were clipped and skipped; the number of
    the next step; the first step that was not finite (-1 for none); for every value whether it was not finite there.
    """

    names: tuple[str, ...]
    COUNTS = ("clipped", "skipped", "step", "first_bad")

    def index(self, count: str) -> int:
        """Place of one of :attr:`COUNTS`."""
        return len(self.names) + self.COUNTS.index(count)

    def empty(self, step: int, device: torch.device) -> Tensor:
        """A tally before step number ``step``."""
        values = [0.0] * (2 * len(self.names) + len(self.COUNTS))
        values[self.index("step")], values[self.index("first_bad")] = step, -1.0
        return torch.tensor(values, dtype=torch.float64, device=device)

    def split(self, tally: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Sums, counts by name, and which values were not finite."""
        n, end = len(self.names), len(self.names) + len(self.COUNTS)
        return tally[:n], dict(zip(self.COUNTS, tally[n:end].unbind(), strict=True)), tally[end:]

    def join(self, sums: Tensor, counts: dict[str, Tensor], bad: Tensor) -> Tensor:
        """Undo :meth:`split`."""
        return torch.cat([sums, torch.stack([counts[name] for name in self.COUNTS]), bad])


class StepFunction(nn.Module):
    """(betas, images, tally) -> (gradients, found_inf, tally): a training step but for its update.

    A function of its arguments, its parameters and PyTorch's random state alone, so that it can be traced, compiled and
    stacked.

    The tally is that of :class:`Tally`.

    :param names: parameters of the pair that are trained, as ``vae.named_parameters()`` names them.
    :param betas: sites whose beta is an argument.
    :param training: of which ``clip``, ``skip`` and ``precision`` concern a step.
    """

    def __init__(
        self,
        vae: HVAE,
        objective: Bound,
        names: Sequence[str],
        betas: Sequence[str],
        training: Training | None = None,
    ):
        super().__init__()
        training = Training() if training is None else training
        self.vae, self.trained, self.betas = vae, tuple(names), tuple(betas)
        self.clip, self.skip, self.precision = training.clip, training.skip, training.precision
        self.objective = copy.copy(objective)
        self.tally = Tally(("bound", "elbo", "x", *vae.sites, "grad_norm"))

    def evaluate(self, betas: Sequence[Tensor], x: Tensor) -> Evaluation:
        """The objective at the pair's present parameters."""
        self.objective.beta = {**self.objective.beta, **dict(zip(self.betas, betas, strict=True))}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.objective.evaluate(self.vae.model, self.vae.guide, x)

    def forward(self, betas: Sequence[Tensor], x: Tensor, *tally: Tensor) -> Any:
        """The step at the pair's present parameters; without a tally only :meth:`differentiate`."""
        differentiated = self.differentiate(betas, x)
        return self.decide(*differentiated, *tally) if tally else differentiated

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
        means = [evaluation.terms[name].mean() for name in self.tally.names[2:-1]]
        return torch.stack([evaluation.bound.detach().mean(), evaluation.elbo.mean(), *means])

    def decide(self, gradients: list[Tensor | None], values: Tensor, tally: Tensor) -> StepResult:
        """Clip the gradients, decide whether the update is made, and keep the tally."""
        # One by one: the multi-tensor norm has no batching rule for ensembles, and is fused away in a compiled step.
        norm = torch.stack([torch.linalg.vector_norm(g) for g in gradients if g is not None]).norm()
        values = torch.cat([values, norm.reshape(1)]).double()
        sums, counts, bad = self.tally.split(tally)
        finite = values[0].isfinite() & norm.isfinite()
        skipped = norm > self.skip if self.skip is not None else torch.zeros_like(finite)
        clipped = norm > self.clip if self.clip is not None else torch.zeros_like(finite)
        if self.clip is not None:
            shorter = torch.clamp(self.clip / (norm + 1e-6), max=1.0)
            gradients = [g if g is None else g * shorter for g in gradients]
        newly = ~finite & (counts["first_bad"] < 0)
        first_bad = torch.where(newly, counts["step"], counts["first_bad"])
        bad = torch.where(newly, (~values.isfinite()).double(), bad)
        # After the first step that was not finite none is carried out, until the host has seen it and stopped.
        found_inf = (skipped | (first_bad >= 0)).float()
        counts = {
            "clipped": counts["clipped"] + (clipped & finite & ~skipped),
            "skipped": counts["skipped"] + (skipped & finite),
            "step": counts["step"] + 1,
            "first_bad": first_bad,
        }
        return gradients, found_inf, self.tally.join(sums + values, counts, bad)


class TrainingStep:
    """Evaluate the objective on a batch, differentiate, clip, update.

    A step whose loss or gradient is not finite, or whose gradient is longer than ``skip``, changes nothing.

    :param objective: a bound of ours, or one of Pyro's (:mod:`~pyro_hvae.bounds.pyro_objectives`).
    :param parameters: those that are trained, by their names in the pair.
    :param betas: 0-d tensors by site that enter the objective; write to them between steps.
    :param training: of which ``learning_rate`` (its first value), ``clip``, ``skip`` and ``precision`` concern a step.
    """

    def __init__(
        self,
        vae: HVAE,
        objective: Any,
        parameters: dict[str, nn.Parameter],
        betas: dict[str, Tensor],
        training: Training,
    ):
        if training.learning_rate is None:
            raise HVAEError("a step needs a learning rate, such as Training(learning_rate=1e-3)")
        rate = Schedule.of(training.learning_rate)(0)
        self.parameters, self.betas = list(parameters.values()), list(betas.values())
        like = self.parameters[0]
        self.learning_rate = torch.tensor(rate, dtype=torch.float32, device=like.device)
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.learning_rate, fused=True)
        own = isinstance(objective, Bound)
        self.function = StepFunction(
            vae, objective if own else ELBO(), list(parameters), list(betas) if own else (), training
        )
        self.pyro_objective: Any = None if own else objective
        self.eager: Advance = self.function if own else self._by_pyro
        self.tally = self.function.tally.empty(0, like.device)
        self._fetched = 0

    def start_at(self, step: int) -> None:
        """Number the next step ``step``; for runs that are resumed."""
        self.tally.copy_(self.function.tally.empty(step, self.tally.device))
        self._fetched = step

    def __call__(self, x: Tensor, advance: Advance | None = None) -> None:
        """Train on the images ``x (image, pixel)``.

        :param advance: what computes the step; by default the eager step function.
        """
        gradients, found_inf, tally = (self.eager if advance is None else advance)(self.betas, x, self.tally)
        self.tally.copy_(tally)
        self.update(gradients, found_inf)

    def halt(self) -> None:
        """Carry out no more updates, as after a step that was not finite."""
        layout = self.function.tally
        self.tally[layout.index("first_bad")] = self.tally[layout.index("step")]

    def update(self, gradients: Sequence[Tensor | None], found_inf: Tensor) -> None:
        """Change the parameters, unless ``found_inf`` says not to."""
        for p, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and gradient.stride() != p.stride():
                # The fused update reads parameters and gradients as flat memory: a transposed gradient (of an einsum, say)
                # would be applied to the wrong elements.
                gradient = torch.empty_like(p).copy_(gradient)
            p.grad = gradient
        # The fused update is not carried out where found_inf is set: a decision on the device, without a sync.
        self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # as torch.amp.GradScaler hands it over
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
        return self.function.decide(gradients, values, tally)

    def fetch(self) -> Metrics:
        """Means and counts since the last call; the only synchronisation."""
        layout = self.function.tally
        sums, on_device, bad = layout.split(self.tally.cpu().clone())
        counts = {name: int(count) for name, count in on_device.items()}
        count = max(counts["step"] - self._fetched, 1)
        self._fetched = counts["step"]
        self.tally[: layout.index("step")] = 0.0  # sums, and how many were clipped and skipped
        return Metrics(
            {name: total / count for name, total in zip(layout.names, sums.tolist(), strict=True)},
            counts["clipped"],
            counts["skipped"],
            None if counts["first_bad"] < 0 else counts["first_bad"],
            tuple(name for name, b in zip(layout.names, bad.tolist(), strict=True) if b),
        )
