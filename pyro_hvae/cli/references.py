"""``pyro-hvae references``: trained pairs that ship, and ``pyro-hvae pack``: a run of one's own in the same form."""

from __future__ import annotations

import argparse

from pyro_hvae.cli.parsing import at_least


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register both commands."""
    parser = subparsers.add_parser(
        "references",
        help="print the trained pairs that ship",
        description="Print the trained pairs that ship, or the folder of one of them, which every command takes as a RUN.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the folder of this one alone")
    parser.set_defaults(run=run)
    parser = subparsers.add_parser(
        "pack",
        help="pack a finished run into a small folder",
        description="Pack a run's weights (safetensors), configuration, transform, history and a card (README.md) into a "
        "folder that every command takes as a RUN, and that can be uploaded to a model hub. It cannot be resumed.",
    )
    parser.add_argument("source", metavar="RUN", help="run directory")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--precision",
        default="auto",
        help="of the weights: half, single, or auto: half where the bound stays (default)",
    )
    parser.add_argument(
        "--held-out",
        type=at_least(0),
        default=0,
        metavar="N",
        help="held-out patches to pack (0), of photographs you may pass on",
    )
    parser.add_argument("--licence", default="", help="of the weights, for the card: an SPDX name such as CC-BY-4.0")
    parser.add_argument("--note", default="", help="what readers of the card should know of the data")
    parser.set_defaults(run=run_pack)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or a folder."""
    from rich.console import Console
    from rich.table import Table

    from pyro_hvae.errors import unknown
    from pyro_hvae.export.references import references, table

    if arguments.name is not None:
        found = references()
        if arguments.name not in found:
            raise unknown("reference", arguments.name, found)
        print(found[arguments.name])
        return 0
    rows = table()
    shown = Table(*rows[0])
    for row in rows:
        shown.add_row(*row.values())
    Console(width=200).print(shown)
    print("next: python -c 'import pyro_hvae as hvae; print(hvae.load_reference(\"" + rows[0]["name"] + "\"))'")
    return 0


def run_pack(arguments: argparse.Namespace) -> int:
    """Pack, and print what came of it."""
    import json

    from pyro_hvae.export.packing import pack

    folder = pack(
        arguments.source, arguments.out, precision=arguments.precision, held_out=arguments.held_out,
        licence=arguments.licence, note=arguments.note,
    )  # fmt: skip
    packed = json.loads((folder / "config.json").read_bytes())["packed"]
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(
        f"{folder}: {size / 1e6:.1f} MB, {packed['precision']} precision, ELBO of {packed['held_out_patches']} held-out "
        f"patches {packed['held_out_elbo']:.2f} ({packed['held_out_elbo_single']:.2f} before)"
    )
    return 0
