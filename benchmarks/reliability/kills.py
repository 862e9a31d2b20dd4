"""SIGKILL at random moments of training and export: what is on disk afterwards, and whether a resumed run ends the same.

    python benchmarks/reliability/kills.py [--only eager,compiled,ensemble,processes,export] [--kills 200] [--exports 50]

Every other kill waits for a temporary file, so that writing is hit as often as computing. After each kill every file under its
final name is read; after the last, when the run has come to its end, parameters, optimizer, random state and history are
compared bit for bit with those of a run that was never interrupted, and no temporary may be left. Rows that stand in
``benchmarks/results/reliability.json`` are not made again; ``docs/reliability.md`` tells what they mean.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import xarray as xr

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior
from pyro_hvae.training.run_directory import Checkpoint, RunDirectory, read_netcdf

RESULTS = common.RESULTS
LIMIT = 300.0  # seconds that an attempt may take
Processes = list[int]


def training(steps: int, compile: bool) -> dict[str, Any]:
    """Arguments of ``fit`` for runs that write often."""
    return dict(
        steps=steps, batch=20, learning_rate=1e-3, beta=1.0, device="cpu", compile=compile, progress=False, log_every=2,
        evaluate_every=10, evaluate_images=20, checkpoint_every=3, seed=1,
    )  # fmt: skip


def go_on(run: Path, options: dict[str, Any]) -> None:
    """What a user does after a crash: resume; where there is nothing to resume from, as the message says, begin again."""
    pair, data = common.tiny_pair(), common.tiny_data()
    try:
        hvae.fit(pair, data, **options, out=run, resume=(run / "config.json").exists())
    except HVAEError as error:
        if "no checkpoint yet" not in str(error):
            raise
        hvae.fit(pair, data, **options, out=run, overwrite=True)


class Mode:
    """A way of training: how an attempt is started, and which run directories it writes."""

    def __init__(self, name: str, steps: int, compile: bool = False):
        self.name, self.options = name, training(steps, compile)

    def start(self, folder: Path) -> Processes:
        """Begin, or go on, in processes of their own; kills go to one of them."""
        return [common.child(lambda: go_on(folder / "run", self.options), folder / "log.txt")]

    def runs(self, folder: Path) -> list[Path]:
        return [folder / "run"]


class Torchrun(Mode):
    """Two processes with the environment that torchrun gives them."""

    def start(self, folder: Path) -> Processes:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def one(rank: int) -> None:
            os.environ |= dict(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
            )
            pair, data, run = common.tiny_pair(), common.tiny_data(), folder / "run"
            begun = any(run.glob("checkpoints/step-*.safetensors"))
            hvae.fit(pair, data, **self.options, out=run, resume=begun, overwrite=not begun)

        return [common.child(lambda rank=rank: one(rank), folder / "log.txt") for rank in (0, 1)]


class Members(Mode):
    """An ensemble of two; after a kill its members go on alone, as ``train --resume`` has them."""

    def start(self, folder: Path) -> Processes:
        def begin_or_go_on() -> None:
            data = common.tiny_data(size=20)
            options = self.options | {"batch": 10}
            runs = self.runs(folder)
            if not all(any(run.glob("checkpoints/step-*.safetensors")) for run in runs):
                hvae.fit_ensemble("LinearVAE20", data, seeds=(0, 1), out=folder, overwrite=True, **_ensemble(options))
                return
            for seed, run in enumerate(runs):
                pair = hvae.build("LinearVAE20", seed=seed)
                hvae.fit(pair, data, out=run, resume=True, **options | {"seed": seed})

        return [common.child(begin_or_go_on, folder / "log.txt")]

    def runs(self, folder: Path) -> list[Path]:
        return [folder / "seed=0", folder / "seed=1"]


def _ensemble(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "seed"}


MODES = {
    "eager": lambda: Mode("eager", 90),
    "compiled": lambda: Mode("compiled", 150, compile=True),
    "ensemble": lambda: Members("ensemble", 30),
    "processes": lambda: Torchrun("processes", 60),
}
SHARES = {"eager": 0.45, "compiled": 0.2, "ensemble": 0.15, "processes": 0.2}


def partials(folder: Path) -> list[Path]:
    return [p for p in folder.rglob(".*.partial") if p.exists()] if folder.exists() else []


def kill_at(pids: Processes, seconds: float, folder: Path, writing: bool, rng: random.Random) -> bool:
    """SIGKILL one of the processes after a while, if they have not all ended before."""
    end = time.monotonic() + seconds
    limit = end + 20
    while time.monotonic() < end or (writing and not partials(folder) and time.monotonic() < limit):
        if os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.0005)
    victim = rng.choice(pids)
    if os.waitid(os.P_PID, victim, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        return False
    os.kill(victim, signal.SIGKILL)
    return True


def collect(pids: Processes, limit: float) -> list[int | None]:
    return [common.wait(pid, limit) for pid in pids]


def faults_of(runs: Sequence[Path]) -> list[str]:
    """What cannot be read of what stands under a final name."""
    found = []
    for run in runs:
        for file in [p for p in run.rglob("*") if p.is_file() and not p.name.endswith(".partial")]:
            try:
                if file.name == "config.json":
                    RunDirectory.open(run)
                elif file.suffix == ".nc":
                    read_netcdf(file)
                elif file.suffix == ".safetensors":
                    Checkpoint.read(file)
                else:
                    found.append(f"{file.name}: not known")
            except HVAEError as error:
                found.append(str(error))
    return found


def state_of(run: Path) -> tuple[dict[str, torch.Tensor], xr.Dataset]:
    directory = RunDirectory.open(run)
    return directory.latest().tensors, directory.history().drop_vars("seconds")


def differences(run: Path, reference: Path) -> list[str]:
    """Tensors and rows of history in which a run differs from the uninterrupted one."""
    (mine, rows), (theirs, expected) = state_of(run), state_of(reference)
    found = [n for n in mine.keys() | theirs.keys() if n not in mine or n not in theirs or not mine[n].equal(theirs[n])]
    rows.attrs, expected.attrs = {}, {}
    return found + ([] if rows.identical(expected) else ["history"])


def rounding(run: Path, reference: Path) -> float:
    """Largest difference of a parameter, relative to the largest of the parameters."""
    mine, theirs = state_of(run)[0], state_of(reference)[0]
    names = [n for n in theirs if n.startswith("vae.")]
    return max(float((mine[n] - theirs[n]).abs().max() / theirs[n].abs().max().clamp(min=1e-6)) for n in names)


def campaign(name: str, kills: int, seed: int) -> None:
    """Chains of attempts, each killed and gone on with, until so many kills are recorded."""
    mode, section = MODES[name](), f"kills_{name}"
    with tempfile.TemporaryDirectory(prefix=f"kills-{name}-") as base:
        reference = Path(base) / "reference"
        reference.mkdir()
        began = time.monotonic()
        if (codes := collect(mode.start(reference), LIMIT)) != [0] * len(codes):
            raise SystemExit((reference / "log.txt").read_text())
        took = time.monotonic() - began
        while (done := sum(row["kills"] for row in common.recorded(section, RESULTS))) < kills:
            chain = len(common.recorded(section, RESULTS))
            rng = random.Random(f"{name} {seed} {chain}")
            row = _chain(mode, Path(base) / f"chain-{chain}", reference, took, rng, kills - done)
            common.record(section, {"chain": chain, "seed": seed, **row}, RESULTS)
            print(name, done, row, flush=True)


def _chain(mode: Mode, folder: Path, reference: Path, took: float, rng: random.Random, most: int) -> dict[str, Any]:
    folder.mkdir()
    row: dict[str, Any] = {"kills": 0, "while_writing": 0, "left_partial": 0, "hung": 0, "faults": [], "exits": []}
    while True:
        pids = mode.start(folder)
        writing = rng.random() < 0.5
        killed = row["kills"] < min(most, 12) and kill_at(
            pids, rng.uniform(0, took * (0.6 if writing else 1)), folder, writing, rng
        )
        codes = collect(pids, LIMIT)
        if not killed:
            row["exits"] = codes
            break
        row["kills"] += 1
        row["hung"] += codes.count(None)
        row["while_writing"] += bool(found := partials(folder))
        row["left_partial"] += len(found)
        row["faults"] += faults_of(mode.runs(folder))
    if any(code != 0 for code in row["exits"]):
        row["faults"].append(" ".join((folder / "log.txt").read_text().splitlines()[-1:]))
    else:
        pairs = list(zip(mode.runs(folder), mode.runs(reference), strict=True))
        row["different"] = [name for mine, theirs in pairs for name in differences(mine, theirs)]
        if isinstance(mode, Members):  # stacked and alone differ in rounding
            row["rounding"] = max(rounding(mine, theirs) for mine, theirs in pairs)
            row["different"] = [] if row["rounding"] < 1e-4 else row["different"]
        row["checkpoints"] = [len(RunDirectory.open(mine).checkpoints()) for mine, _ in pairs]
    row["partials_at_the_end"] = [str(p.relative_to(folder)) for p in partials(folder)]
    row["ok"] = not (row["faults"] or row.get("different") or row["partials_at_the_end"] or row["hung"])
    if row["ok"]:
        shutil.rmtree(folder)
    return row


# -- export


def exported(path: Path, overwrite: bool) -> None:
    hvae.export_posterior(
        common.tiny_pair(), common.tiny_data(test=400).test, draws=4, moment_draws=8, path=path, overwrite=overwrite
    ).close()


def content(path: Path) -> dict[str, np.ndarray]:
    with open_posterior(path) as tree:
        return {f"{node.path}/{n}": v.values for node in tree.subtree for n, v in node.to_dataset().variables.items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n], equal_nan=a[n].dtype.kind == "f") for n in a)


def export_campaign(kills: int, seed: int) -> None:
    """Exports killed: to a new path, and over an earlier file; netCDF and zarr in turn."""
    section = "kills_export"
    with tempfile.TemporaryDirectory(prefix="kills-export-") as base:
        names = ("posterior.nc", "posterior.zarr")
        whole, took = {}, 0.0
        for name in names:
            began = time.monotonic()
            target = Path(base) / f"whole-{name}"
            if common.wait(common.child(lambda t=target: exported(t, False), Path(base) / "log.txt"), LIMIT) != 0:
                raise SystemExit((Path(base) / "log.txt").read_text())
            whole[name], took = content(target), time.monotonic() - began
        while (n := len(common.recorded(section, RESULTS))) < kills:
            rng = random.Random(f"export {seed} {n}")
            name, overwrite = names[n % 2], n // 2 % 2 == 1
            folder = Path(base) / str(n)
            folder.mkdir()
            path = folder / name
            if overwrite:
                copy: Callable[..., object] = shutil.copytree if name.endswith("zarr") else shutil.copy
                copy(Path(base) / f"whole-{name}", path)
            writing = rng.random() < 0.5
            pids = [common.child(lambda p=path, o=overwrite: exported(p, o), folder / "log.txt")]
            killed = kill_at(pids, rng.uniform(0, took), folder, writing, rng)
            collect(pids, LIMIT)
            row = {"export": n, "seed": seed, "kind": name, "overwrite": overwrite, "killed": killed}
            row["left_partial"] = len(partials(folder))
            there = path.exists()
            row["stood"] = "whole" if there and same(content(path), whole[name]) else "damaged" if there else "none"
            lost = overwrite and row["stood"] != "whole"
            again = common.child(lambda p=path: exported(p, True), folder / "log.txt")
            row["exit"] = common.wait(again, LIMIT)
            row["same"] = row["exit"] == 0 and same(content(path), whole[name])
            row["left_at_the_end"] = sorted(p.name for p in folder.iterdir() if p.name not in (name, "log.txt"))
            row["ok"] = row["same"] and not lost and row["stood"] != "damaged" and not row["left_at_the_end"]
            if not killed:
                shutil.rmtree(folder)
                row["ok"] = row["same"]
            common.record(section, row, RESULTS)
            print(row, flush=True)


def main() -> None:
    global RESULTS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join([*MODES, "export"]))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--exports", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    arguments = parser.parse_args()
    RESULTS = arguments.results
    for name in arguments.only.split(","):
        if name == "export":
            export_campaign(arguments.exports, arguments.seed)
        else:
            campaign(name, round(arguments.kills * SHARES[name]), arguments.seed)
    print(json.dumps({s: len(r) for s, r in json.loads(RESULTS.read_bytes()).items()}))


if __name__ == "__main__":
    main()
