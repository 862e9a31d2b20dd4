"""``pyro-hvae completion``: a script with which a shell completes commands and options."""

from __future__ import annotations

import argparse

from pyro_hvae.errors import HVAEError

SHELLS = ("bash", "zsh", "tcsh")


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script with which the shell completes commands and options",
        description="Print a script for the shell. bash: put it into ~/.bashrc, or `source` it. zsh: save it as _pyro-hvae in "
        "a folder of $fpath.",
    )
    parser.add_argument("shell", choices=SHELLS, help=", ".join(SHELLS))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    try:
        import shtab
    except ImportError as error:
        raise HVAEError("completion needs shtab: pip install shtab") from error
    from pyro_hvae.cli import parser

    print(shtab.complete(parser(), arguments.shell))
    return 0
