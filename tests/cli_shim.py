"""``pyro-hvae`` as a file for a shell: the command line of the checkout, whatever is installed."""

import os
import sys
from pathlib import Path


def with_command(folder: Path) -> dict[str, str]:
    """An environment in which ``pyro-hvae`` is this checkout's."""
    shim = folder / "pyro-hvae"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m pyro_hvae "$@"\n')
    shim.chmod(0o755)
    found = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return found | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
