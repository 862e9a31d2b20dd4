"""What the parts of the reliability campaign share: a tiny pair and its data, results on disk row by row, forked children."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyro_hvae as hvae
from pyro_hvae.programs import MarkovModel, TopDownGuide
from pyro_hvae.stimuli import PatchData, patch_dataset

RESULTS = Path(__file__).parents[1] / "results" / "reliability.json"
SIDE = 4


def tiny_pair(seed: int = 0) -> hvae.HVAE:
    """A two-layer pair over 4×4 patches, its networks of a few units."""
    return pair_of((6, 3), seed)


def pair_of(dims: tuple[int, int], seed: int) -> hvae.HVAE:
    """The tiny pair with other layers."""
    sizes = dict(pixels=SIDE**2, dims=dims)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = TopDownGuide(**sizes, hidden_x=((8,), (5,)), hidden_z=((5,),), hidden_joint=((8,),))
        return hvae.HVAE(MarkovModel(**sizes, hidden=((7,),)), guide)


def tiny_data(train: int = 200, test: int = 40, size: int = SIDE) -> PatchData:
    """White patches that differ in contrast, already preprocessed."""
    rng = np.random.default_rng(0)
    sets = [
        patch_dataset(rng.standard_normal((n, size**2)) * rng.gamma(2, 0.5, (n, 1)), split=split, source="made")
        for n, split in ((train, "train"), (test, "test"))
    ]
    return PatchData(*sets, None, size, {"kind": "made", "seed": 0})


@contextmanager
def rows(path: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """The results, to be changed inside the block; one process at a time, and whole or not at all on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        found = json.loads(path.read_bytes()) if path.exists() else {}
        yield found
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        os.replace(beside, path)
    finally:
        os.close(handle)


def recorded(section: str, path: Path = RESULTS) -> list[dict[str, Any]]:
    """Rows of a section so far."""
    return json.loads(path.read_bytes()).get(section, []) if path.exists() else []


def record(section: str, row: dict[str, Any], path: Path = RESULTS) -> None:
    """Add a row to a section."""
    with rows(path) as found:
        found.setdefault(section, []).append(row)


def child(work: Callable[[], object], log: Path) -> int:
    """Fork, run ``work`` with its output in ``log``; returns the process id. Ends with 0, or 1 after an exception.

    Nothing of this process has used threads of torch, so that a fork is a fresh start without the imports.
    """
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        torch.set_num_threads(1)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def wait(pid: int, seconds: float) -> int | None:
    """Exit code of a child (minus the signal that ended it); None, and it is killed, where it takes longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None
