"""The command line of the scripts in ``analyses/``: files in, a figure of each out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pyro_hvae.errors import HVAEError
from pyro_hvae.report.files import file_labels
from pyro_hvae.storage.writing import check_directory


def each_file(
    figure: Callable[[Path, Path], None], name: str, description: str | None, arguments: Sequence[str] | None = None
) -> int:
    """Run ``figure(path, target)`` on every file of the command line; ``target`` is ``DIR/name-LABEL.png``.

    A file on which ``figure`` raises HVAEError is named in a line on standard error, and the others are done.

    Returns
    -------
    Exit status: 0, or 1 where a file failed.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="file to read")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("figures"), help="where figures go (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        check_directory(options.out)
        options.out.mkdir(parents=True, exist_ok=True)
    except (HVAEError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    status = 0
    for path, label in zip(options.files, file_labels(options.files), strict=True):
        target = options.out / f"{name}-{label}.png"
        try:
            print(path)
            figure(path, target)
            print(f"  {target}")
        except HVAEError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
    return status
