"""What the scripts in ``analyses/`` share: arguments, running one analysis on each file, saving, printing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyro_hvae.analysis.results import collect
from pyro_hvae.errors import HVAEError
from pyro_hvae.report import page, report
from pyro_hvae.report.registry import find
from pyro_hvae.storage.posterior_file import open_posterior
from pyro_hvae.storage.writing import check_directory


def main(name: str, description: str | None, arguments: Sequence[str] | None = None) -> int:
    """Run the analysis ``name`` on every posterior file given; save a figure each and print the numbers.

    Returns the exit status: 0, or 1 where the analysis failed on a file (the message goes to standard error).
    """
    analysis = find(name)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("files", metavar="FILE", nargs="+", help="posterior file (.nc or .zarr)")
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
    labels = report.file_labels(options.files)
    for path, label in zip(options.files, labels, strict=True):
        try:
            with open_posterior(path, chunks=report.CHUNK, partial=True) as tree:
                dataset = analysis.run(tree)
        except HVAEError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
            continue
        picture = analysis.plot(dataset)
        target = options.out / f"{name}-{label}.png"
        report.write_figure(target, report.png(picture), overwrite=True)
        print(f"{path}  ({analysis.title})")
        for entry in collect(dataset):
            print(f"  {entry['title']:<58} {page.formatted(entry)}  (n = {entry['n']})")
        for note in filter(None, dataset.attrs["notes"].splitlines()):
            print(f"  note: {note}")
        print(f"  {picture.caption}\n  {target}")
    return status
