"""What the commands share: parsers whose errors are those of the package, options written once, the opening of a run."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from pyro_hvae.arguments import whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.published.options import Compile, Options, metadata

if TYPE_CHECKING:
    import torch

    from pyro_hvae.programs import HVAE
    from pyro_hvae.training.run_directory import RunDirectory


class Parser(argparse.ArgumentParser):
    """A parser whose errors are :class:`HVAEError`, so that every error of a command is told in one place."""

    def error(self, message: str) -> NoReturn:
        raise HVAEError(f"{message}; `{self.prog} --help` lists what there is")


def at_least(least: int) -> Callable[[str], int]:
    """The ``type`` of an option that is a whole number of at least ``least``."""

    def number(text: str) -> int:
        try:
            return whole_number("it", int(text), least)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}") from None

    return number


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as a shell takes it, for commands that are printed to be pasted."""
    return shlex.quote(str(path))


# -- options of dataclasses


def add_options(parser: argparse._ActionsContainer, options: type[Options], *, but: Iterable[str] = ()) -> None:
    """Add an option of the command line for every field of a dataclass, with its help and its default.

    :param but: fields that the command has in a form of its own.
    """
    hints = typing.get_type_hints(options)
    for name, about in metadata(options).items():
        if name in but:
            continue
        flag, help = f"--{name.replace('_', '-')}", shown(options, name)
        kinds = typing.get_args(hints[name]) or (hints[name],)
        if hints[name] is bool:
            parser.add_argument(flag, action="store_true", default=None, help=help)
        elif name == "compile":
            parser.add_argument(flag, type=compile_mode, metavar="WHEN", help=help)
        elif int in kinds:
            parser.add_argument(flag, type=at_least(about["least"]), metavar="N", help=help)
        elif float in kinds and str not in kinds:
            parser.add_argument(flag, type=float, metavar="NUMBER", help=help)
        else:
            parser.add_argument(flag, metavar="SCHEDULE" if float in kinds else "NAME", help=help)


def shown(options: type[Options], name: str) -> str:
    """Help of an option, with its default where that is one."""
    default = getattr(options, name, None)
    help = metadata(options)[name]["help"].replace("%", "%%")
    return help if default in (None, False, "") else f"{help} ({default})"


def given(arguments: argparse.Namespace, options: type[Options]) -> dict[str, Any]:
    """What was given of the options that :func:`add_options` has added."""
    found = {name: getattr(arguments, name, None) for name in metadata(options)}
    return {name: value for name, value in found.items() if value is not None}


def compile_mode(text: str) -> Compile:
    """Whether to compile: ``auto``, ``true`` or ``always``, ``false`` or ``never``."""
    modes: dict[str, Compile] = {"auto": "auto", "true": True, "always": True, "false": False, "never": False}
    if text.lower() not in modes:
        raise argparse.ArgumentTypeError(f"must be true, false or auto, got {text!r}")
    return modes[text.lower()]


def json_value(text: str) -> Any:
    """A number or truth value where the text is one."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text


# -- options of several commands


def add_device(parser: argparse._ActionsContainer) -> None:
    """``--device``."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")


def add_seed(parser: argparse._ActionsContainer) -> None:
    """``--seed``, 0 by default."""
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of all random draws (0)")


def add_run(parser: argparse._ActionsContainer) -> None:
    """A trained run as the first argument; :func:`open_run` opens it."""
    parser.add_argument("source", metavar="RUN", help="run directory, or one of its checkpoints")


def add_out(parser: argparse._ActionsContainer, help: str, *, required: bool = True) -> None:
    """``--out FILE`` and ``--overwrite``."""
    parser.add_argument("--out", required=required, metavar="FILE", help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")


CUTTING = {"images": "source", "train_patches": "train", "test_patches": "test", "contrast": "contrast"}
"""Options of how patches are cut, and the arguments of :func:`~pyro_hvae.stimuli.natural_patches` that they are."""


def add_images(parser: argparse._ActionsContainer) -> None:
    """Where training patches come from; :func:`cutting` reads it."""
    parser.add_argument(
        "--images", metavar="SOURCE", help="embedded (default), a folder, or an image, array or pickle file"
    )
    parser.add_argument("--patches", metavar="FILE", help="patches saved before (PatchData.save), instead of --images")
    parser.add_argument("--train-patches", type=at_least(1), metavar="N", help="patches to train on")
    parser.add_argument("--test-patches", type=at_least(1), metavar="N", help="patches held out")
    parser.add_argument("--contrast", help="none (default), or unit_norm: each patch divided by its norm")


def cutting(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said of how to cut patches, as arguments of :func:`~pyro_hvae.stimuli.natural_patches`.

    :raises HVAEError: where ``--patches`` are given too, which are cut already.
    """
    said = {option: value for option in CUTTING if (value := getattr(arguments, option)) is not None}
    if arguments.patches is not None and said:
        options = ", ".join(f"--{option.replace('_', '-')}" for option in said)
        raise HVAEError(f"--patches are cut already; {options} cannot be applied to them")
    return {CUTTING[option]: value for option, value in said.items()}


def open_directory(source: str | os.PathLike[str]) -> RunDirectory:
    """The run directory that is named, or that a checkpoint lies in."""
    from pathlib import Path

    from pyro_hvae.training.run_directory import RunDirectory

    path = Path(source)
    return RunDirectory.open(path.parent.parent if path.is_file() else path)


def open_run(arguments: argparse.Namespace) -> tuple[HVAE, RunDirectory, torch.device]:
    """The trained pair that :func:`add_run` asked for, on its device, and its run directory."""
    from pyro_hvae.training.fit import torch_device
    from pyro_hvae.training.run_directory import load

    directory, device = open_directory(arguments.source), torch_device(arguments.device)
    return load(arguments.source).to(device), directory, device
