"""A long run of a tiny pair, then export and report several times over: memory and open files, and how they grow.

    python benchmarks/reliability/soak.py [--steps 200000] [--reports 5]

Resident memory and open files are noted every thousand steps; the slope is that of a line through those of the second half.
Interrupted, it goes on from its newest checkpoint with ``--out``. Results: ``benchmarks/results/reliability.json``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

import pyro_hvae as hvae
from pyro_hvae.report import analyse
from pyro_hvae.training.training_loop import Loop

EVERY = 1000


def resident() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def watched(noted: list[tuple[int, float, int]]) -> None:
    """Note memory and open files whenever a run has logged a thousand steps more."""
    log = Loop._log

    def log_and_note(loop: Loop, seconds: float) -> None:
        log(loop, seconds)
        if loop.done % EVERY == 0:
            noted.append((loop.done, resident(), handles()))

    Loop._log = log_and_note  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--reports", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    arguments = parser.parse_args()
    noted: list[tuple[int, float, int]] = []
    watched(noted)
    with tempfile.TemporaryDirectory(prefix="soak-") as base:
        out = Path(base) / "run" if arguments.out is None else arguments.out
        data, began = common.tiny_data(train=2000, test=200), time.monotonic()
        run = hvae.fit(
            common.tiny_pair(), data, steps=arguments.steps, batch=20, learning_rate=1e-3, beta=1.0, device="cpu", compile=True,
            progress=False, log_every=100, evaluate_every=5000, checkpoint_every=2000, out=out,
            resume=(out / "config.json").exists(),
        )  # fmt: skip
        steps, memory, files = (np.array(column, float) for column in zip(*noted, strict=True))
        late = steps > steps.max() / 2
        slope = float(np.polyfit(steps[late], memory[late], 1)[0])
        after: list[dict[str, Any]] = []
        for index in range(arguments.reports):
            hvae.export_posterior(run.vae, data, draws=4, units=(0, 1), path=Path(base) / f"{index}.nc").close()
            analyse(Path(base) / f"{index}.nc", Path(base) / f"report-{index}")
            after.append({"mib": round(resident(), 1), "files": handles()})
            print(after[-1], flush=True)
        row = {
            "steps": run.step,
            "seconds": round(time.monotonic() - began),
            "mib_first": round(float(memory[0]), 1),
            "mib_half": round(float(memory[late][0]), 1),
            "mib_last": round(float(memory[-1]), 1),
            "kib_per_1000_steps": round(slope * 1024 * 1000, 2),
            "files_first": int(files[0]),
            "files_most": int(files.max()),
            "files_last": int(files[-1]),
            "after_each_report": after,
        }
        common.record("soak", row, arguments.results)
        print(row)


if __name__ == "__main__":
    main()
