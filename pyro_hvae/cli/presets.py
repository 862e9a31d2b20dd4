"""``pyro-hvae presets``: the table of published systems."""

from __future__ import annotations

import argparse


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser("presets", help="print the published systems and how they are trained")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, and the notes below it."""
    from rich.console import Console
    from rich.table import Table

    from pyro_hvae.published.presets import table

    rows = table()
    columns = [name for name in rows[0] if name != "note"]
    grid = Table(*columns, title="Published systems (schedules: values, and the epoch of the last)", box=None)
    for row in rows:
        grid.add_row(*(row[name] for name in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(grid)
    for row in rows:
        if row["note"]:
            console.print(f"  {row['name']}: {row['note']}", highlight=False)
    return 0
