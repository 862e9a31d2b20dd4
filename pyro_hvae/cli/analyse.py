"""``pyro-hvae analyse``: every analysis that applies to posterior files, and a report. Needs neither torch nor pyro."""

from __future__ import annotations

import argparse


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser("analyse", help="run the analyses on posterior files and write report.html")
    parser.add_argument("files", nargs="+", metavar="FILE", help="posterior files, compared side by side, and audits")
    parser.add_argument("--out", required=True, metavar="DIR", help="where report.html, results.json and figures/ go")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report in DIR")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report and print its path."""
    from pyro_hvae.report import analyse

    print(analyse(arguments.files, arguments.out, overwrite=arguments.overwrite))
    return 0
