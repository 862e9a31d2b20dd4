"""The table of ``docs/reliability.md`` from ``benchmarks/results/reliability.json``; with ``--write``, put there.

python benchmarks/reliability/summary.py [--write]
"""

from __future__ import annotations

import argparse
import collections
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "reliability.json", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
KILLS = {
    "kills_eager": "training, eager",
    "kills_compiled": "training, compiled",
    "kills_ensemble": "training, an ensemble of two",
    "kills_processes": "training, two processes",
}
Rows = list[dict[str, Any]]


def killed(what: str, rows: Rows) -> tuple[str, str, str]:
    """Chains of killed runs."""
    kills, ok = sum(r["kills"] for r in rows), sum(r["ok"] for r in rows)
    writing, left = sum(r["while_writing"] for r in rows), sum(len(r["partials_at_the_end"]) for r in rows)
    if rounding := max((r.get("rounding", 0.0) for r in rows), default=0.0):
        ends = f"{ok} of {len(rows)} runs ended as an uninterrupted one up to rounding (at most {rounding:.0e})"
    else:
        ends = f"{ok} of {len(rows)} runs ended bit for bit as an uninterrupted one"
    return f"SIGKILL, {what}", f"{kills} kills", f"{writing} left a temporary; {ends}; {left} temporaries at the end"


def exports(rows: Rows) -> tuple[str, str, str]:
    """Killed exports."""
    hit = [r for r in rows if r["killed"]]
    stood = collections.Counter(r["stood"] for r in hit)
    said = (
        f"{stood['none']} left no file, {stood['whole']} a whole one (earlier or new), {stood['damaged']} a damaged one"
    )
    again = sum(r["same"] for r in rows)
    left = sum(len(r["left_at_the_end"]) for r in rows)
    return (
        "SIGKILL, export",
        f"{len(hit)} kills",
        f"{said}; {again} of {len(rows)} the same when made again; {left} temporaries left",
    )


def inputs(family: str, rows: Rows) -> tuple[str, str, str]:
    """Generated inputs of a family."""
    counts: collections.Counter[str] = collections.Counter()
    for row in rows:
        counts.update(row["counts"])
    said = [f"{counts.pop('right', 0):,} right", f"{counts.pop('refused', 0):,} refused"]
    said += [f"**{number:,} {verdict}**" for verdict, number in sorted(counts.items())]
    grown = max(row["grown_mib"] for row in rows)
    return (
        family,
        f"{sum(r['cases'] for r in rows):,} inputs",
        f"{', '.join(said)}; memory grew by at most {grown:.0f} MiB",
    )


def trials(what: str, rows: Rows) -> tuple[str, str, str]:
    """Trials that each hold or do not."""
    ok = sum(row["ok"] for row in rows)
    return what, f"{len(rows)} trials", f"{ok} held" if ok == len(rows) else f"{ok} held, **{len(rows) - ok} did not**"


def soaked(rows: Rows) -> tuple[str, str, str]:
    """The longest soak."""
    row = max(rows, key=lambda r: r["steps"])
    reports = [after["files"] for after in row["after_each_report"]]
    said = (
        f"memory {row['mib_first']:.0f} MiB at the first thousand steps, {row['mib_last']:.0f} at the last, in the second half "
        f"{row['kib_per_1000_steps']:.1f} KiB for 1000 steps; open files {row['files_first']}, at most {row['files_most']}; "
        f"{reports[0]} after the first export and report, {reports[-1]} after the last of {len(reports)}"
    )
    return "a soak, compiled", f"{row['steps']:,} steps", said


def table(results: dict[str, Rows]) -> list[str]:
    """Lines of Markdown."""
    found: list[tuple[str, str, str, str]] = []
    for section, what in KILLS.items():
        if section in results:
            found.append((*killed(what, results[section]), f"kills.py --only {section.removeprefix('kills_')}"))
    if "kills_export" in results:
        found.append((*exports(results["kills_export"]), "kills.py --only export"))
    for section, rows in results.items():
        if section.startswith("inputs: "):
            found.append((*inputs(section.removeprefix("inputs: "), rows), f'inputs.py --only "{section[8:]}"'))
    if "hostile" in results:
        found.append((*trials("files that want to run or write something", results["hostile"]), "hostile.py"))
    for section, rows in results.items():
        if section.startswith("disk: "):
            found.append((*trials(section.removeprefix("disk: "), rows), "disk.py"))
    if "soak" in results:
        found.append((*soaked(results["soak"]), "soak.py"))
    lines = ["| tried | how many | what happened | command: `python benchmarks/reliability/` |", "|---|---|---|---|"]
    return lines + [f"| {what} | {number} | {said} | `{command}` |" for what, number, said, command in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    lines = "\n".join(table(json.loads(RESULTS.read_bytes())))
    if parser.parse_args().write:
        text = PAGE.read_text(encoding="utf-8")
        block = f"{BEGIN}\n\n{lines}\n\n{END}"
        PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: block, text, flags=re.DOTALL), encoding="utf-8")
    print(lines)


if __name__ == "__main__":
    main()
