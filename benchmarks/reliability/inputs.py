"""10,000 generated inputs: each has to give a right result or an error that names the file and what to do.

    python benchmarks/reliability/inputs.py [--only 'FAMILY;FAMILY'] [--scale 1.0] [--seed 0] [--case FAMILY:SEED]

Every case is made from (family, seed) alone. Cases are read in forked workers whose address space may grow by ``MEMORY`` and
which are ended after ``SECONDS`` without an answer; a worker that dies names the case it was at.
A batch of cases is a row of ``benchmarks/results/reliability.json``; batches that stand there are not read again.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import generators as g
import values as v

from pyro_hvae.errors import HVAEError

MEMORY = 2 * 2**30  # bytes by which a worker may grow
SECONDS = 30
BATCH = 50
#: Family, and how many cases there are of it.
FAMILIES: dict[str, tuple[Callable[..., g.Case], int]] = {
    "run directories, bytes": (g.damaged_run, 2000),
    "run directories, configuration": (g.configuration, 1500),
    "run directories, files of another run": (g.mixed_run, 300),
    "posterior files, netCDF": (lambda m, r, f: g._damaged_file(m, "posterior.nc", r, f), 1500),
    "posterior files without a seal": (g.without_seal, 500),
    "posterior files, zarr": (g.zarr_store, 700),
    "patches": (lambda m, r, f: g._damaged_file(m, "patches.nc", r, f), 700),
    "audits": (lambda m, r, f: g._damaged_file(m, "audit.nc", r, f), 400),
    "photographs and arrays": (g.picture, 1400),
    "promises and bombs": (g.promise, 200),
    "schedules": (v.schedule, 700),
    "training options": (v.training_options, 300),
    "images": (v.images, 300),
}
MEND = re.compile(
    r"\b(delete|makes?|made|export|choose|give|start|begin|use|install|reinstall|expected|save|again|crop|leave|flatten|convert|"
    r"build|pass|copy|remove|cut|raise|lower|must|Known|needs?|takes?|lacks|missing|go on|read it)\b"
)


def judge(case: g.Case) -> tuple[str, str]:
    """What came of a case: ``right``, ``refused``, or a fault."""
    try:
        found = case.read()
    except HVAEError as error:
        text = str(error)
        if case.names and not any(name in text for name in case.names):
            return "error without the file", text
        if not MEND.search(text):
            return "error without a mend", text
        return "refused", text
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    if case.expected is not None and not (found is case.expected or found == case.expected):
        return "wrong result", str(found)
    return "right", ""


def read_cases(family: str, seeds: list[int], material: g.Material, answers: int, folder: Path) -> None:
    """In a worker: a line a case, when it begins and when it is judged."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    make = FAMILIES[family][0]

    def say(*what: Any) -> None:
        os.write(answers, (json.dumps(what) + "\n").encode())

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir(parents=True, exist_ok=True)
        case = make(material, random.Random(f"{family} {seed}"), place)
        say(seed, "begun", case.what)
        verdict, text = judge(case)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        say(seed, verdict, case.what, text[:300].replace(str(place), "…"), grown)
        shutil.rmtree(place, ignore_errors=True)


def batch(family: str, seeds: list[int], material: g.Material, folder: Path) -> dict[str, Any]:
    """Counts of what came of the cases, and every fault."""
    counts: collections.Counter[str] = collections.Counter()
    faults: list[list[Any]] = []
    grown, todo = 0, list(seeds)
    while todo:
        read, write = os.pipe()
        pid = common.child(
            lambda t=tuple(todo), w=write: read_cases(family, list(t), material, w, folder), folder / "log"
        )
        os.close(write)
        os.set_blocking(read, False)
        buffer, last, current, hung = b"", time.monotonic(), None, False
        while True:
            try:
                piece = os.read(read, 65536)
            except BlockingIOError:
                if hung := time.monotonic() - last > SECONDS:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.002)
                continue
            if not piece:
                break
            last, buffer = time.monotonic(), buffer + piece
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                seed, verdict, what, *rest = json.loads(line)
                if verdict == "begun":
                    current = (seed, what)
                    continue
                current, grown = None, max(grown, rest[1])
                todo.remove(seed)
                counts[verdict] += 1
                if verdict not in ("right", "refused"):
                    faults.append([seed, verdict, what, rest[0]])
        os.close(read)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if current is None and code != 0 and not hung:
            raise SystemExit((folder / "log").read_text())
        if current is not None:
            verdict = "hang" if hung else f"ended by signal {-code}"
            counts[verdict] += 1
            faults.append([current[0], verdict, current[1], ""])
            todo.remove(current[0])
    return {"counts": dict(counts), "faults": faults, "grown_mib": round(grown / 2**20, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=";".join(FAMILIES), metavar="FAMILY;FAMILY")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of cases")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--case", metavar="FAMILY:SEED", help="read one case here, with its traceback")
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inputs-") as base:
        # Made in a child: a fork of a process that has trained may hang.
        material_of = Path(base) / "material"
        material = g.Material(material_of)
        if arguments.case:
            family, _, seed = arguments.case.partition(":")
            case = FAMILIES[family][0](material, random.Random(f"{family} {seed}"), Path(base))
            print(case.what)
            print(case.read(), case.expected)
            return
        for family in arguments.only.split(";"):
            number = round(FAMILIES[family][1] * arguments.scale)
            section = f"inputs: {family}"
            known = {row["first"] for row in common.recorded(section, arguments.results)}
            for first in range(arguments.seed, arguments.seed + number, BATCH):
                if first in known:
                    continue
                seeds = list(range(first, min(first + BATCH, arguments.seed + number)))
                row = {"first": first, "cases": len(seeds), **batch(family, seeds, material, Path(base))}
                common.record(section, row, arguments.results)
                print(family, first, row["counts"], row["grown_mib"], *row["faults"], sep="\n    ", flush=True)


if __name__ == "__main__":
    main()
