"""The tutorials run as scripts from the first line to the last; the site runs them as notebooks when it is built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.py"))


def test_there_are_eleven_and_each_has_a_title_and_a_line_in_the_table():
    assert len(TUTORIALS) == 11
    index = (ROOT / "docs" / "tutorials" / "index.md").read_text(encoding="utf-8")
    for file in TUTORIALS:
        text = file.read_text(encoding="utf-8")
        assert "# %% [markdown]\n# # " in text and f"]({file.name})" in index, file.name
        compile(text, file.name, "exec")


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.parametrize("file", TUTORIALS, ids=lambda file: file.stem)
def test_it_runs(file, tmp_path):
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr[-3000:]
