"""The command line: ``pyro-hvae demo | train | export | analyse | evidence | yardstick | audit | sweep | stimuli | presets |
references | pack``.

Each command is a module with ``add(subparsers)`` and ``run(arguments) -> exit code``; heavy imports happen inside ``run``,
so that ``pyro-hvae analyse`` works on machines without torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pyro_hvae.cli import analyse, audit, demo, evidence, export, presets, references, stimuli, sweep, train, yardstick
from pyro_hvae.errors import HVAEError

COMMANDS = (demo, train, export, analyse, evidence, yardstick, audit, sweep, stimuli, presets, references)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(prog="pyro-hvae", description="Hierarchical VAEs of early visual cortex, in Pyro.")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(subparsers)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. Errors raised on purpose are printed without a traceback (exit code 2)."""
    parsed = parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except HVAEError as error:
        print(f"pyro-hvae: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pyro-hvae: interrupted", file=sys.stderr)
        return 130
