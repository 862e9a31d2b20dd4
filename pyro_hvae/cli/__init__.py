"""The command line: ``pyro-hvae demo | train | export | analyse | evidence | yardstick | audit | physiology | predict | sweep |
stimuli | presets | references | pack``.

Each command is a module with ``add(subparsers)`` and ``run(arguments) -> exit code``; heavy imports happen inside ``run``,
so that ``pyro-hvae analyse`` works on machines without torch.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from pyro_hvae.cli import (
    analyse,
    audit,
    demo,
    evidence,
    export,
    physiology,
    predict,
    presets,
    references,
    stimuli,
    sweep,
    train,
    yardstick,
)
from pyro_hvae.cli.parsing import Parser
from pyro_hvae.errors import HVAEError

COMMANDS = (
    demo,
    train,
    export,
    analyse,
    evidence,
    yardstick,
    audit,
    physiology,
    predict,
    sweep,
    stimuli,
    presets,
    references,
)


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(prog="pyro-hvae", description="Hierarchical VAEs of early visual cortex, in Pyro.")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(subparsers)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. The one place where errors become a line on standard error and a code: 2 for
    what is refused, by the package or by the file system, 130 after Ctrl-C, 141 where nobody reads the output any more."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks "±" or "×" shows "?"
            stream.reconfigure(errors="replace")
    try:
        parsed = parser().parse_args(arguments)
        code = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except HVAEError as error:
        return _told(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's own flush at the end is quiet
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _told(
            f"{where}{error.strerror or error}; choose another path, or see to its permissions and the disk", 2
        )
    except KeyboardInterrupt:
        return _told("interrupted", 130)


def _told(message: str, code: int) -> int:
    print(f"pyro-hvae: {message}", file=sys.stderr)
    return code
