"""The reliability campaign (docs/reliability.md) in small: its own scripts, a few trials each."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "reliability"


def campaign(script, tmp_path, *options):
    """Rows of a script that was run with these options."""
    results = tmp_path / "results.json"
    command = [sys.executable, "-W", "ignore", str(FOLDER / script), *options, "--results", str(results)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(results.read_bytes())


def counts(rows):
    total = {}
    for row in rows:
        for verdict, number in row["counts"].items():
            total[verdict] = total.get(verdict, 0) + number
    return total


def test_killed_runs_and_exports_end_as_if_they_had_not_been(tmp_path):
    found = campaign("kills.py", tmp_path, "--only", "eager,export", "--kills", "3", "--exports", "1")
    assert sum(row["kills"] for row in found["kills_eager"]) >= 1 and len(found["kills_export"]) == 1
    assert all(row["ok"] for rows in found.values() for row in rows), found


def test_generated_inputs_are_right_or_refused(tmp_path):
    families = (
        "run directories, bytes;run directories, configuration;posterior files, zarr;schedules;promises and bombs"
    )
    found = campaign("inputs.py", tmp_path, "--only", families, "--scale", "0.01")
    for family, rows in found.items():
        assert set(counts(rows)) <= {"right", "refused"}, (family, rows)
    assert sum(sum(counts(rows).values()) for rows in found.values()) >= 50


@pytest.mark.slow
def test_more_generated_inputs_are_right_or_refused(tmp_path):
    found = campaign("inputs.py", tmp_path, "--scale", "0.05", "--seed", "1000000")
    faults = {family: row["faults"] for family, rows in found.items() for row in rows if row["faults"]}
    assert not {family: found for family, found in faults.items() if "without a seal" not in family}


@pytest.mark.slow
def test_hostile_files_run_and_write_nothing(tmp_path):
    assert all(row["ok"] for row in campaign("hostile.py", tmp_path)["hostile"])


@pytest.mark.slow
def test_failing_disks_lose_nothing_but_what_came_after_the_checkpoint(tmp_path):
    found = campaign("disk.py", tmp_path, "--only", "full,readonly,vanishing,clock,together")
    assert all(row["ok"] for rows in found.values() for row in rows), found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compiled", "ensemble", "processes"])
def test_killed_runs_of_other_kinds_end_as_if_they_had_not_been(tmp_path, mode):
    found = campaign("kills.py", tmp_path, "--only", mode, "--kills", "15")
    assert all(row["ok"] for row in found[f"kills_{mode}"]), found


def test_the_table_of_the_page_is_that_of_the_results():
    spec = importlib.util.spec_from_file_location("reliability_summary", FOLDER / "summary.py")
    summary = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(summary)
    page = summary.PAGE.read_text(encoding="utf-8")
    lines = "\n".join(summary.table(json.loads(summary.RESULTS.read_bytes())))
    assert f"{summary.BEGIN}\n\n{lines}\n\n{summary.END}" in page
