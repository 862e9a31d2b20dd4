"""The progress bar of a training run; plain lines where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Mapping

import rich.progress
from rich.console import Console


class Progress:
    """Shows steps, speed and the terms of the bound. As context manager."""

    def __init__(self, steps: int, done: int, *, enabled: bool):
        self.steps, self.console = steps, Console(stderr=True)
        self.enabled = enabled
        self.bar: rich.progress.Progress | None = None
        self.terms = self.test = ""
        self.next_line = done
        if enabled and self.console.is_terminal:
            self.bar = rich.progress.Progress(
                rich.progress.BarColumn(bar_width=20),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.fields[terms]}"),
                console=self.console,
            )
            self.task = self.bar.add_task("", total=steps, completed=done, terms="")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, row: Mapping[str, float]) -> None:
        """Show a row of the history."""
        kls = "  ".join(f"KL {n[3:]} {v:.1f}" for n, v in row.items() if n.startswith("kl_"))
        self.terms = f"ELBO {row['elbo']:.1f}  rec {row['reconstruction']:.1f}  {kls}"
        step = int(row["step"])
        if self.bar:
            self.bar.update(self.task, completed=step, terms=self.terms + self.test)
        elif self.enabled and (step >= self.next_line or step == self.steps):
            self.console.print(f"step {step}/{self.steps}  {self.terms}{self.test}", highlight=False)
            self.next_line = step + max(self.steps // 10, 1)

    def evaluated(self, row: Mapping[str, float]) -> None:
        """Show the held-out ELBO from now on."""
        self.test = f"  held-out {row['test_elbo']:.1f}"
