"""What a user's code is told while a pair is trained, and how it may end the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE

Row = Mapping[str, float]


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands when a callback is called."""

    vae: HVAE
    """The pair as it is now; to be read, not changed."""
    step: int
    """Steps taken."""
    steps: int
    """Steps that the run is to take."""
    path: Path | None
    """The run directory, if there is one."""
    rows: Sequence[Row]
    """The history so far, of earlier parts of a resumed run too; the last is of this step where it was logged."""
    evaluations: Sequence[Row]
    """Held-out evaluations so far, each with its step as ``evaluation`` and ``test_elbo``, … in nats an image."""


@runtime_checkable
class Callback(Protocol):
    """What :func:`~pyro_hvae.fit` calls as it goes: subclass it and write those methods that are wanted.

    Each returns None, or a sentence that says why the training is to end; then the step is logged, evaluated and saved, and
    the sentence is :attr:`Run.stopped <pyro_hvae.Run>`. Whatever random numbers a callback draws, the run is the same as
    without it: the random state is put back. An error of a callback ends the run; the last checkpoint stands. Under
    ``torchrun`` the first process alone has callbacks.
    """

    def on_log(self, state: TrainingState, row: Row) -> str | None:
        """After a row of the history (every ``log_every`` steps); its names are those of :attr:`Run.history`."""
        return None

    def on_evaluate(self, state: TrainingState, row: Row) -> str | None:
        """After a held-out evaluation (every ``evaluate_every`` steps)."""
        return None

    def on_checkpoint(self, state: TrainingState, path: Path) -> str | None:
        """After a checkpoint was written to ``path``; runs without a directory have none."""
        return None


class EarlyStopping(Callback):
    """Ends a run whose held-out ELBO, un-annealed, has not grown for a while.

    It stops at the first evaluation at which the best of the last ``patience`` evaluations is not more than ``gain`` above
    the best before them. It goes by the evaluations that the run records, so that a resumed run stops where an unbroken one
    would.

    :param patience: evaluations without a gain, at least 1; an evaluation every ``evaluate_every`` steps.
    :param gain: nats an image that count as a gain.
    :param after: evaluations at or before this step do not count: while a beta grows, the bound that is measured may fall.
    """

    @checked
    def __init__(self, patience: int = 5, gain: float = 0.0, after: int = 0):
        if not 0 <= gain < float("inf"):
            raise HVAEError(f"gain is in nats an image and must be finite and at least 0, got {gain}")
        self.patience, self.gain = whole_number("patience", patience, 1), gain
        self.after = whole_number("after", after)

    def on_evaluate(self, state: TrainingState, row: Row) -> str | None:
        """See the class."""
        counted = [(e["test_elbo"], int(e["evaluation"])) for e in state.evaluations if e["evaluation"] > self.after]
        if len(counted) <= self.patience:
            return None
        best, at = max(counted[: -self.patience])
        recent, _ = max(counted[-self.patience :])
        if recent > best + self.gain:
            return None
        return (
            f"the held-out ELBO has not grown for {self.patience} evaluations: at best {recent:.3f} nats an image since, "
            f"{best:.3f} at step {at}"
        )


def told(callbacks: Sequence[Callback], event: str, state: TrainingState, what: Row | Path) -> str | None:
    """Call all of them, whatever one says; the first reason to stop, and the random state as it was."""
    if not callbacks:
        return None
    device = next((p.device for p in state.vae.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        reasons = [getattr(callback, event)(state, what) for callback in callbacks]
    return next((str(reason) for reason in reasons if reason), None)
