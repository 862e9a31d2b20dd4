"""What the commands share: parsers whose errors are those of the package, numbers within limits, paths for the shell."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable
from typing import NoReturn

from pyro_hvae.arguments import whole_number
from pyro_hvae.errors import HVAEError


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
