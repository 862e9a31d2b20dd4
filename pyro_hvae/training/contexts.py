"""What holds while a run is trained: settings of PyTorch and Pyro, and what signals do."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from pyro_hvae.errors import HVAEError

_training = threading.Lock()


@contextmanager
def exclusive() -> Iterator[None]:
    """Refuse a second run in another thread: Pyro's handlers and PyTorch's random numbers are those of the whole process."""
    if not _training.acquire(blocking=False):
        raise HVAEError(
            "another thread of this process is training, and Pyro's handlers and PyTorch's random numbers belong to all "
            "threads; train in processes of their own (pyro-hvae sweep), or several at once with fit_ensemble"
        )
    try:
        yield
    finally:
        _training.release()


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Precision of float32 matrix products, as :func:`torch.set_float32_matmul_precision` names it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class frozen:
    """Parameters that are not trained do not require gradients meanwhile."""

    def __init__(self, parameters: list[torch.nn.Parameter]):
        self.parameters = parameters

    def __enter__(self) -> None:
        for p in self.parameters:
            p.requires_grad_(False)

    def __exit__(self, *exception: object) -> None:
        for p in self.parameters:
            p.requires_grad_(True)


class Stoppable(Protocol):
    """What a signal stops."""

    stop_signal: str | None


_stoppable: list[Signals] = []


def ask_to_stop(name: str) -> None:
    """End what is trained in this process after the step under way, as the signal of that name would; from any thread."""
    for signals in list(_stoppable):
        for loop in signals.loops:
            loop.stop_signal = name


class Signals:
    """Ctrl-C and SIGTERM end the loops after the step under way; a second Ctrl-C ends them at once."""

    def __init__(self, *loops: Stoppable):
        self.loops = loops
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._stop)
        _stoppable.append(self)

    def _stop(self, number: int, frame: object) -> None:
        for loop in self.loops:
            loop.stop_signal = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def __exit__(self, *exception: object) -> None:
        _stoppable.remove(self)
        self._restore()
