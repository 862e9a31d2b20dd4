"""Disks that are full, folders that are read-only or vanish, clocks that go backwards, two processes at one path.

    python benchmarks/reliability/disk.py [--only full,failing,readonly,vanishing,clock,together]

Nothing may be lost but what was trained since the newest checkpoint: after each fault the run is resumed, and has to end bit
for bit as one that was left alone. A full disk is a small tmpfs where this process may mount one, else a limit on files' size.
Results: ``benchmarks/results/reliability.json``.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import kills

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.training.training_loop import Loop

OPTIONS = kills.training(30, False)


def outcome(work: Callable[[], object], folder: Path) -> str:
    """``ended``, ``refused: …``, ``fault: …``, of work in a child."""
    answer = folder / "answer"

    def answered() -> None:
        try:
            work()
            text = "ended"
        except HVAEError as error:
            text = f"refused: {str(error).replace(str(folder), '…')[:200]}"
        except BaseException as error:
            text = f"fault: {type(error).__name__}: {error}"
        answer.write_text(text)

    answer.unlink(missing_ok=True)
    code = common.wait(common.child(answered, folder / "log"), 300)
    return answer.read_text() if code == 0 else f"fault: exit {code} {(folder / 'log').read_text()[-300:]}"


def train(run: Path) -> None:
    kills.go_on(run, OPTIONS)


def resumed(run: Path, reference: Path, folder: Path) -> dict[str, Any]:
    """Go on after a fault, and compare."""
    before = kills.faults_of([run])
    ended = outcome(lambda: train(run), folder)
    different = kills.differences(run, reference) if ended == "ended" else [ended]
    left = [p.name for p in kills.partials(run)]
    return {"unreadable": before, "resumed": ended, "different": different, "left": left,
            "ok": not (before or different or left)}  # fmt: skip


def mounted(folder: Path, kib: int) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def full(folder: Path, reference: Path) -> None:
    """Training and export onto a disk that fills up; then there is room again."""
    for kib in (40, 52, 64, 76, 88, 92, 96, 100, 104, 112, 120, 132):
        disk = folder / f"disk-{kib}"
        limited = not mounted(disk, kib)

        def onto(disk: Path = disk, limited: bool = limited, kib: int = kib) -> None:
            if limited:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 256, kib * 256))
            train(disk / "run")

        try:
            first = outcome(onto, folder)
            checkpoints = len(list((disk / "run").glob("checkpoints/step-*")))
            if not limited:
                subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
            row = resumed(disk / "run", reference, folder)
        finally:
            if not limited:
                subprocess.run(["umount", str(disk)], check=False)
        row |= {"kind": f"training, {kib} KiB", "first": first, "checkpoints": checkpoints}
        row["ok"] &= not first.startswith("fault")
        note("full disk", row)
    for name in ("posterior.nc", "posterior.zarr"):
        for kib in (32, 128, 300):
            disk = folder / f"{name}-{kib}"
            limited = not mounted(disk, kib)
            if limited:
                continue
            try:
                first = outcome(lambda d=disk, n=name: kills.exported(d / n, False), folder)
                there, left = (disk / name).exists(), [p.name for p in kills.partials(disk)]
            finally:
                subprocess.run(["umount", str(disk)], check=False)
            ok = not left and there == (first == "ended") and not first.startswith("fault")
            note("full disk", {"kind": f"export {name}, {kib} KiB", "first": first, "left": left, "ok": ok})


def failing(folder: Path, reference: Path) -> None:
    """The n-th call that syncs, renames or links fails."""
    rng = random.Random(0)
    for n in range(40):
        name, code = (
            rng.choice(["fsync", "replace", "open"]),
            rng.choice([errno.ENOSPC, errno.EIO, errno.EDQUOT]),
        )
        at, run = rng.randrange(1, 45), folder / f"failing-{n}"

        def disturbed(name: str = name, code: int = code, at: int = at, run: Path = run) -> None:
            real, calls = getattr(os, name), 0

            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal calls
                ours = name == "fsync" or str(run) in str(arguments[0])
                calls += ours
                if ours and calls == at:
                    raise OSError(code, os.strerror(code))
                return real(*arguments, **named)

            setattr(os, name, call)
            train(run)

        first = outcome(disturbed, folder)
        row = {"kind": f"{name} {at}: {errno.errorcode[code]}", "first": first} | resumed(run, reference, folder)
        row["ok"] &= not first.startswith("fault")
        note("failing calls", row)
        shutil.rmtree(run)


def readonly(folder: Path, reference: Path) -> None:
    """Folders that may not be written, for a user who is not the superuser."""
    run = folder / "readonly"
    folder.chmod(0o755)
    shutil.copytree(reference, run)

    def as_nobody(work: Callable[[], object]) -> Callable[[], None]:
        def lowered() -> None:
            if os.getuid() == 0:
                with tempfile.TemporaryDirectory() as place:  # what is imported late may not be readable to others
                    hvae.fit(common.tiny_pair(), common.tiny_data(), **OPTIONS, out=Path(place) / "run")
                    hvae.load(Path(place) / "run")
                    for name in ("posterior.nc", "posterior.zarr"):
                        kills.exported(Path(place) / name, False)
                        kills.exported(Path(place) / name, True)
                os.environ["HOME"] = "/nonexistent"
                os.setgid(65534)
                os.setuid(65534)
            work()

        return lowered

    (folder / "answers").mkdir(mode=0o777)
    (folder / "answers").chmod(0o777)
    trials: dict[str, Callable[[], object]] = {
        "resume": lambda: hvae.fit(
            common.tiny_pair(), common.tiny_data(), **OPTIONS | {"steps": 40}, out=run, resume=True
        ),
        "overwrite": lambda: hvae.fit(common.tiny_pair(), common.tiny_data(), **OPTIONS, out=run, overwrite=True),
        "begin": lambda: hvae.fit(common.tiny_pair(), common.tiny_data(), **OPTIONS, out=folder / "new"),
        "export": lambda: kills.exported(folder / "posterior.nc", False),
        "export a store": lambda: kills.exported(folder / "posterior.zarr", False),
        "load": lambda: hvae.load(run),
    }
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for name, work in trials.items():
        first = outcome(as_nobody(work), folder / "answers")
        kept = before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        ok = kept and (first == "ended" if name == "load" else first.startswith("refused"))
        note("read-only folders", {"kind": name, "first": first, "kept": kept, "ok": ok})


def vanishing(folder: Path, reference: Path) -> None:
    """The run's folder, or its checkpoints, are moved away while it trains; then they are back."""
    for n, (name, step) in enumerate([(name, step) for name in ("", "checkpoints") for step in (1, 4, 8, 16, 25)]):
        run, away = folder / f"vanishing-{n}", folder / f"away-{n}"

        def moved(run: Path = run, away: Path = away, name: str = name, step: int = step) -> None:
            finish = Loop.finish_step

            def finish_step(loop: Loop, bar: Any) -> None:
                if loop.done == step:
                    (run / name).rename(away)
                finish(loop, bar)

            Loop.finish_step = finish_step  # type: ignore[method-assign]
            train(run)

        first = outcome(moved, folder)
        remains = (run / name).exists() and list((run / name).iterdir())
        if not remains and away.exists():
            (run / name).exists() and (run / name).rmdir()
            away.rename(run / name)
        row = {"kind": f"{name or 'run'} at step {step}", "first": first} | resumed(run, reference, folder)
        row["ok"] &= first.startswith("refused")
        note("vanishing folders", row)


def clock(folder: Path, reference: Path) -> None:
    """Wall clock and timestamps of files that run backwards, by an hour a call."""
    for n in range(5):
        run = folder / f"clock-{n}"

        def backwards(run: Path = run) -> None:
            now = [time.time()]

            def earlier() -> float:
                now[0] -= 3600
                for file in run.rglob("*"):
                    os.utime(file, (now[0], now[0]))
                return now[0]

            time.time, time.time_ns = earlier, lambda: int(earlier() * 1e9)
            finish = Loop.finish_step
            Loop.finish_step = lambda loop, bar: (earlier(), finish(loop, bar))[1]  # type: ignore[method-assign]
            train(run)

        first = outcome(backwards, folder)
        row = {"kind": "training", "first": first} | resumed(run, reference, folder)
        row["ok"] &= first == "ended"
        note("clock going backwards", row)


def together(folder: Path, reference: Path) -> None:
    """Two processes begin one run, resume one run, or one overwrites what the other trains."""
    rng = random.Random(0)
    for n in range(24):
        kind = ("begin", "resume", "overwrite")[n % 3]
        run = folder / f"together-{n}"
        if kind == "resume":
            half = OPTIONS | {"steps": 10}  # where the whole run logs and evaluates, too
            outcome(lambda r=run, h=half: hvae.fit(common.tiny_pair(), common.tiny_data(), **h, out=r), folder)

        def one(which: int, run: Path = run, kind: str = kind, wait: float = rng.uniform(0, 1.0)) -> None:
            more: dict[str, Any] = {"resume": True} if kind == "resume" else {}
            if which:
                time.sleep(wait)
                more |= {"overwrite": True} if kind == "overwrite" else {}
            hvae.fit(common.tiny_pair(), common.tiny_data(), **OPTIONS, out=run, **more)

        places = [folder / f"{n}-{which}" for which in (0, 1)]
        for place in places:
            place.mkdir()
        texts = _both(one, places)
        row = {"kind": kind, "first": texts} | resumed(run, reference, folder)
        row["ok"] &= any(text == "ended" for text in texts) and not any(text.startswith("fault") for text in texts)
        note("two processes, one run", row)


def _both(one: Callable[[int], object], places: list[Path]) -> list[str]:
    pids = [common.child(lambda w=w: _told(one, w, places[w]), places[w] / "log") for w in (0, 1)]
    codes = [common.wait(pid, 300) for pid in pids]
    return [(p / "answer").read_text() if c == 0 else f"fault: exit {c}" for p, c in zip(places, codes, strict=True)]


def _told(one: Callable[[int], object], which: int, place: Path) -> None:
    try:
        one(which)
        text = "ended"
    except HVAEError as error:
        text = f"refused: {str(error)[-160:]}"
    except BaseException as error:
        text = f"fault: {type(error).__name__}: {error}"
    (place / "answer").write_text(text)


def note(section: str, row: dict[str, Any]) -> None:
    common.record(f"disk: {section}", row, RESULTS)
    print(section, row, flush=True)


RESULTS = common.RESULTS
PARTS = {f.__name__: f for f in (full, failing, readonly, vanishing, clock, together)}


def main() -> None:
    global RESULTS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    arguments = parser.parse_args()
    RESULTS = arguments.results
    with tempfile.TemporaryDirectory(prefix="disk-") as base:
        folder = Path(base)
        folder.chmod(0o755)  # for a user of no rights
        (folder / "reference").mkdir()
        if (ended := outcome(lambda: train(folder / "reference" / "run"), folder)) != "ended":
            raise SystemExit(ended)
        for name in arguments.only.split(","):
            (folder / name).mkdir()
            PARTS[name](folder / name, folder / "reference" / "run")
            print(name, "done", flush=True)


if __name__ == "__main__":
    main()
