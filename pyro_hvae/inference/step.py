"""One training step without a host synchronisation: what happened is summed up on the device and fetched when shown."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_hvae.inference.objectives import ELBO, Bound, Evaluation
from pyro_hvae.programs import HVAE


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


class TrainingStep:
    """Evaluate the objective on a batch, differentiate, clip, update.

    A step whose loss or gradient is not finite, or whose gradient is longer than ``skip``, changes nothing.

    :param betas: 0-d tensors by site that enter the objective; write to them between steps.
    """

    def __init__(
        self,
        vae: HVAE,
        objective: Any,
        optimizer: torch.optim.Adam,
        betas: dict[str, Tensor],
        clip: float | None,
        skip: float | None,
    ):
        self.vae, self.optimizer = vae, optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.clip, self.skip = clip, skip
        if isinstance(objective, Bound):
            self.objective = copy.copy(objective)
            self.objective.beta = {**objective.beta, **betas}
            self._gradients = self._own
        else:
            self.objective = objective
            self._terms = ELBO()
            self._gradients = self._pyro
        device = self.parameters[0].device
        self.names = ("bound", "elbo", "x", *vae.sites, "grad_norm")
        self._sums = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        self._count = 0
        self._counters = torch.zeros(2, dtype=torch.int64, device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._bad = torch.zeros(len(self.names), dtype=torch.bool, device=device)

    def __call__(self, x: Tensor, step: int) -> None:
        """Train on the images ``x (image, pixel)``."""
        self.optimizer.zero_grad(set_to_none=True)
        evaluation = self._gradients(x)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        values = torch.stack([
            evaluation.bound.detach().mean(),
            evaluation.elbo.mean(),
            *(evaluation.terms[name].mean() for name in self.names[2:-1]),
            norm,
        ])  # fmt: skip
        finite = values[0].isfinite() & norm.isfinite()
        skipped = norm > self.skip if self.skip is not None else torch.zeros_like(finite)
        clipped = torch.zeros_like(finite)
        if self.clip is not None:
            clipped = norm > self.clip
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        newly = ~finite & (self._first_bad < 0)
        self._first_bad = torch.where(newly, step, self._first_bad)
        self._bad = torch.where(newly, ~values.isfinite(), self._bad)
        # The fused update is not carried out where found_inf is set: a decision on the device, without a sync. After the
        # first step that was not finite none is, until the host has seen it and stopped.
        self.optimizer.found_inf = (skipped | (self._first_bad >= 0)).float()
        self.optimizer.step()
        self._counters += torch.stack([clipped & finite & ~skipped, skipped & finite])
        self._sums += values
        self._count += 1

    def _own(self, x: Tensor) -> Evaluation:
        evaluation = self.objective.evaluate(self.vae.model, self.vae.guide, x)
        (-evaluation.bound.mean()).backward()
        return evaluation

    def _pyro(self, x: Tensor) -> Evaluation:
        loss = self.objective.loss_and_grads(self.vae.model, self.vae.guide, x)
        for p in self.parameters:
            if p.grad is not None:
                p.grad /= len(x)  # Pyro's losses are sums over images
        with torch.no_grad():
            evaluation = self._terms.evaluate(self.vae.model, self.vae.guide, x)
        return Evaluation(torch.full_like(evaluation.bound, -loss / len(x)), evaluation.terms, {}, 1.0)

    def fetch(self) -> Metrics:
        """Means and counts since the last call; the only synchronisation."""
        count = max(self._count, 1)
        means = (self._sums / count).tolist()
        clipped, skipped = self._counters.tolist()
        first_bad = int(self._first_bad)
        bad = tuple(n for n, b in zip(self.names, self._bad.tolist(), strict=True) if b)
        self._sums.zero_()
        self._counters.zero_()
        self._count = 0
        return Metrics(
            dict(zip(self.names, means, strict=True)), clipped, skipped, None if first_bad < 0 else first_bad, bad
        )
