"""``pyro-hvae presets``: the table of published systems."""

from __future__ import annotations

import argparse
from typing import Any


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser("presets", help="print the published systems and how they are trained")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table as published, the notes below it, and what --recipe fast does instead."""
    from rich.console import Console

    from pyro_hvae.published import presets, recipes

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    rows = presets.table()
    console.print(_table("Published systems (schedules: values, and the epoch of the last)", rows))
    for row in rows:
        if row["note"]:
            console.print(f"  {row['name']}: {row['note']}", highlight=False)
    console.print()
    console.print(
        _table(
            "With --recipe fast, under the published and the ladder guide (schedules in shares of the run)",
            recipes.table(),
        )
    )
    return 0


def _table(title: str, rows: list[dict[str, str]]) -> Any:
    from rich.table import Table

    columns = [name for name in rows[0] if name != "note"]
    grid = Table(*columns, title=title, box=None)
    for row in rows:
        grid.add_row(*(row[name] for name in columns))
    return grid
