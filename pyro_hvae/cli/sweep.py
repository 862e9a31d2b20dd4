"""``pyro-hvae sweep``: a grid of training runs, on this machine or a dask cluster, into one dataset."""

from __future__ import annotations

import argparse
import signal
from typing import Any

from pyro_hvae.cli.parsing import add_device, add_images, at_least, cutting, given, json_value, quoted, shown
from pyro_hvae.sweeps.settings import SETTINGS, SettingOptions


def add(subparsers: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "sweep",
        help="train a system at every point of a grid of settings",
        description="Train at every point of a grid. The same command again goes on where it stopped.",
    )
    parser.add_argument("preset", nargs="?", help="see `pyro-hvae presets`; left out where it is an axis")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory of the sweep, a run directory in it each"
    )
    parser.add_argument(
        "--axis",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "VALUE"),
        help="such as --axis dim_z2 5 20 70 140; may be repeated, the grid is the product",
    )
    parser.add_argument(
        "--export",
        type=at_least(0),
        default=0,
        metavar="N",
        help="held-out images in a posterior.nc in every run directory (0)",
    )
    where = parser.add_argument_group("workers")
    where.add_argument(
        "--workers", type=at_least(1), metavar="N", help="processes on this machine (default: one a core)"
    )
    where.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="of torch, a worker (1)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="dask scheduler, such as tcp://host:8786, instead")
    add_device(where)
    add_images(parser.add_argument_group("images, the same for all runs"))

    shared = parser.add_argument_group("settings of all runs; each can be an --axis instead (see docs/sweeps.md)")
    for name in SETTINGS:
        if name != "preset":
            help = shown(SettingOptions, name)
            shared.add_argument(f"--{name.replace('_', '-')}", type=json_value, metavar="VALUE", help=help)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train; 1 where a run did not finish, 128 plus the signal's number after Ctrl-C or SIGTERM."""
    import sys

    from pyro_hvae.sweeps.run import sweep

    settings = given(arguments, SettingOptions)
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        results = sweep(
            settings,
            _axes(arguments.axis),
            _data(arguments),
            out=arguments.out,
            export=arguments.export,
            workers=arguments.workers,
            threads=arguments.threads,
            scheduler=arguments.scheduler,
            device=arguments.device,
        )
    except KeyboardInterrupt:
        print(f"stopped; what is trained stands in {arguments.out}, go on with the same command", file=sys.stderr)
        return 128 + (stopped[0] if stopped else signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    finished = int((results["status"] == "finished").sum())
    print(f"{arguments.out}/sweep.nc: {finished} of {results['status'].size} runs finished")
    if arguments.export:
        out = quoted(arguments.out)  # the pattern is the shell's to expand
        print(f"next: pyro-hvae analyse {out}/*/posterior.nc --out {out}/report")
    return 0 if finished == results["status"].size else 1


def _axes(texts: list[list[str]]) -> dict[str, list[Any]]:
    from pyro_hvae.errors import HVAEError

    axes = {words[0].replace("-", "_"): [json_value(text) for text in words[1:]] for words in texts}
    if len(axes) < len(texts):
        raise HVAEError(f"each axis is given once, got {', '.join(words[0] for words in texts)}")
    return axes


def _data(arguments: argparse.Namespace) -> Any:
    from pyro_hvae.stimuli import PatchData

    options = cutting(arguments)
    return options if arguments.patches is None else PatchData.load(arguments.patches)
