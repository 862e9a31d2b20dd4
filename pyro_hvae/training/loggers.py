"""Callbacks that write what they are told elsewhere: comma-separated values, TensorBoard."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.training.callbacks import Callback, Row, TrainingState


class CSVLog(Callback):
    """The history as two text files of a folder, complete after every row: ``training.csv`` and ``heldout.csv``.

    Columns are the names of :attr:`Run.history`; the first is ``step``, or ``evaluation``. Where a run is resumed, rows of its
    earlier part come first.

    :raises HVAEError: where one of the files is there and is not such a log.
    """

    @checked
    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._begun: dict[str, Sequence[str]] = {}
        for name, first in (("training.csv", "step"), ("heldout.csv", "evaluation")):
            file = self.folder / name
            if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(f"{first},"):
                raise HVAEError(
                    f"{file} is there and is no log of a run (its first column is not {first!r}); give another folder"
                )

    def on_log(self, state: TrainingState, row: Row) -> None:
        """A line of ``training.csv``."""
        self._write("training.csv", state.rows, row)

    def on_evaluate(self, state: TrainingState, row: Row) -> None:
        """A line of ``heldout.csv``."""
        self._write("heldout.csv", state.evaluations, row)

    def _write(self, name: str, rows: Sequence[Row], row: Row) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = name not in self._begun
        columns = self._begun.setdefault(name, list(row))
        with open(self.folder / name, "w" if fresh else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            if fresh:
                writer.writeheader()
            writer.writerows(rows if fresh else [row])


class TensorBoardLog(Callback):
    """The history as scalars for TensorBoard, under ``train/`` and ``heldout/``; needs the extra ``logging``.

    :param folder: where the event files go; look at them with ``tensorboard --logdir FOLDER``.
    :raises HVAEError: where tensorboard is not installed.
    """

    @checked
    def __init__(self, folder: str | os.PathLike[str]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise HVAEError("TensorBoardLog needs tensorboard: pip install 'pyro-hvae[logging]'") from error
        self.folder = Path(folder)
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def on_log(self, state: TrainingState, row: Row) -> None:
        """Scalars ``train/elbo``, ``train/kl_z1``, …"""
        self._write("train", state, row)

    def on_evaluate(self, state: TrainingState, row: Row) -> None:
        """Scalars ``heldout/elbo``, …"""
        self._write("heldout", state, row)

    def _write(self, part: str, state: TrainingState, row: Row) -> None:
        if self._writer is None:  # what an earlier part of the run wrote beyond the checkpoint is hidden
            self._writer = self._make(str(self.folder), purge_step=state.step)
        for name, value in row.items():
            if name not in ("step", "evaluation"):
                self._writer.add_scalar(f"{part}/{name.removeprefix('test_')}", value, state.step)
        self._writer.flush()
