"""The command line: ``pyro-hvae demo | train | export | analyse | evidence | yardstick | audit | physiology | predict | sweep |
stimuli | presets | references | pack | doctor | completion``.

Each command is a module with ``add(subparsers)`` and ``run(arguments) -> exit code``; heavy imports happen inside ``run``,
so that ``pyro-hvae analyse`` works on machines without torch.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import textwrap
import warnings
from collections.abc import Sequence

from pyro_hvae import __version__
from pyro_hvae.cli import (
    analyse,
    audit,
    completion,
    demo,
    doctor,
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
from pyro_hvae.cli.examples import START, epilog
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
    doctor,
    completion,
)


def parser() -> Parser:
    """The parser of all commands."""
    start = "\n".join(f"  {line}" for line in START)
    top = Parser(
        prog="pyro-hvae",
        description="Hierarchical VAEs of early visual cortex, in Pyro.",
        epilog=f"to begin:\n{start}\n\n`pyro-hvae COMMAND --help` shows the options of a command and an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"pyro_hvae {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(subparsers)
    for name, added in subparsers.choices.items():
        # As written, lines and all: an example that is wrapped cannot be pasted.
        added.epilog, added.formatter_class = epilog(name, added.epilog), argparse.RawDescriptionHelpFormatter
        if added.description:
            added.description = textwrap.fill(added.description, 100)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. The one place where errors become a line on standard error and a code: 2 for
    what is refused, by the package or by the file system, 130 after Ctrl-C, 141 where nobody reads the output any more."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks "±" or "×" shows "?"
            stream.reconfigure(errors="replace")
    # Said once a day to whoever imports ArviZ 0.23; what of it concerns this package is in docs/posterior-file.md.
    warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
    if not (sys.argv[1:] if arguments is None else arguments):
        parser().print_help()
        return 0
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
