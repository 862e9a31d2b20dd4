"""All analyses that apply to one or several posterior files: a self-contained page, the numbers, the figures."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pyro_hvae.analysis.results import collect, number
from pyro_hvae.errors import HVAEError
from pyro_hvae.report.files import KINDS, ReportedFile, file_labels, open_file
from pyro_hvae.report.page import Outcome, page, sentences
from pyro_hvae.report.registry import COMPARISONS, Analysis, Comparison
from pyro_hvae.storage.writing import (
    FIGURE,
    REPORT,
    RESULTS,
    check_directory,
    check_target,
    kind_of,
    replacing,
    write_figure,
)

log = logging.getLogger(__name__)

RESULTS_VERSION = (
    "2"  # of results.json; 1, which said so nowhere, was a list that repeated a file's attributes with each number
)


def analyse(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    overwrite: bool = False,
) -> Path:
    """Run every analysis that applies on every file and write the report; each kind of file, posterior files and audits
    (`pyro-hvae audit`), has analyses of its own.

    Figures of several files together (a sweep of z2, numbers of particles) are made where the files are of that kind.
    Writes ``report.html`` (self-contained), ``results.json`` and ``figures/*.png`` into ``out`` and returns the path of the
    report. Several files are set side by side. An analysis that does not apply to a file, or fails on it, is reported
    with its reason; the rest goes on.

    The page opens with three sentences on each posterior file and their pictures; what follows is grouped by analysis.
    ``results.json`` holds ``files`` (path, attributes and findings of each, by label) and ``results``: an object for every
    number with ``file`` (its label), ``analysis``, ``name``, ``title``, ``value``, ``se`` or ``interval`` (95%), ``n`` and
    ``unit``. An analysis without a result has one object, with value null and a ``message``
    (``docs/results-schema.json``).

    Raises
    ------
    HVAEError
        Where a file cannot be opened as a posterior file or an audit, none is given, or ``out`` holds a report and
        ``overwrite`` is off.
    """
    files = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    if len(set(files)) < len(files):
        raise HVAEError(f"a posterior file is given twice: {', '.join(map(str, files))}")
    if not files:
        raise HVAEError("analyse needs at least one posterior file; make one with `pyro-hvae export RUN --out FILE`")
    out = Path(out)
    _check_out(out, overwrite)
    with ExitStack() as stack:
        opened = []
        for path, label in zip(files, file_labels(files), strict=True):
            opened.append(open_file(path, label))
            stack.enter_context(opened[-1].tree)
        outcomes: dict[str, list[Outcome]] = {}
        for kind in KINDS:
            if of_kind := [file for file in opened if file.kind is kind]:
                outcomes |= {name: [_attempt(each, file) for file in of_kind] for name, each in kind.analyses.items()}
        found = {file.label: sentences(file, outcomes) for file in opened}
        results = {
            "schema": RESULTS,
            "schema_version": RESULTS_VERSION,
            "files": {
                file.label: {
                    "path": str(file.path), "kind": file.kind.name, "findings": found[file.label],
                    "attributes": _plain({name: value for name, value in file.tree.attrs.items() if name != "file"}),
                }
                for file in opened
            },
            "results": [
                {"file": outcome.file.label} | entry
                for parts in outcomes.values()
                for outcome in parts
                for entry in outcome.entries
            ],
        }  # fmt: skip
        compared = {
            comparison.name: picture
            for comparison in COMPARISONS.values()
            if (picture := _compare(comparison, _compared(comparison, opened, outcomes)))
        }
        text = page(opened, found, outcomes, {COMPARISONS[name].title: picture for name, picture in compared.items()})
    pictures = {
        f"{name}-{outcome.file.label}": outcome.png
        for name, parts in outcomes.items()
        for outcome in parts
        if outcome.png
    }
    pictures |= {name: image for name, (image, _) in compared.items()}
    numbers = json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    figures = out / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
        for stale in figures.glob("*.png"):
            if kind_of(stale) == FIGURE:
                stale.unlink()
    except OSError as error:
        raise HVAEError(f"{figures} cannot be written ({error}); choose another directory") from error
    for name, image in pictures.items():
        write_figure(figures / f"{name}.png", image, overwrite=overwrite)
    with replacing(out / "results.json", overwrite=overwrite, schema=RESULTS) as partial:
        partial.write_text(numbers, encoding="utf-8")
    with replacing(out / "report.html", overwrite=overwrite, schema=REPORT) as partial:
        partial.write_text(text, encoding="utf-8")
    return out / "report.html"


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse a directory that cannot be written, or holds a report that is not to be overwritten."""
    check_directory(out)
    targets = [out / "report.html", out / "results.json", out / "figures"]
    if not overwrite and (there := [str(target) for target in targets if target.exists()]):
        raise HVAEError(f"{', '.join(there)} exists; choose another directory or pass overwrite=True (--overwrite)")
    if out.is_dir():
        check_target(out / "report.html", overwrite=overwrite, schema=REPORT)
        check_target(out / "results.json", overwrite=overwrite, schema=RESULTS)
        check_directory(out / "figures")


def _attempt(analysis: Analysis, file: ReportedFile) -> Outcome:
    """One analysis on one file. Whatever goes wrong becomes a message: the rest of the report must go on."""
    log.info("%s: %s", file.path, analysis.name)
    outcome = Outcome(file)
    try:
        dataset = analysis.run(file.tree)
        if analysis.name in {comparison.of.name for comparison in COMPARISONS.values() if comparison.of} | {
            *file.kind.opening.found_from
        }:
            outcome.dataset = dataset
        outcome.entries = collect(dataset)
        outcome.messages = [("note", note) for note in dataset.attrs["notes"].splitlines() if note]
        picture = analysis.plot(dataset)
        outcome.png, outcome.caption = picture.png(), picture.caption
    except HVAEError as error:
        outcome.messages.append(("absent", str(error)))
    except Exception as error:
        log.exception("%s: %s failed", file.path, analysis.name)
        outcome.messages.append(("failed", f"failed with {type(error).__name__}: {error}"))
    if not outcome.entries:
        text = outcome.messages[-1][1]
        empty = {"name": analysis.name, "title": analysis.title, "value": None, "interval": None, "n": 0, "unit": ""}
        outcome.entries = [{"analysis": analysis.name} | empty | {"message": text}]
    return outcome


def _compared(
    comparison: Comparison, files: Sequence[ReportedFile], outcomes: Mapping[str, Sequence[Outcome]]
) -> list[Any]:
    """What a comparison is made of: results of its analysis, or files of the kind that analyses of posterior files take."""
    if comparison.of is None:
        return [file.tree for file in files if file.kind is KINDS[0]]
    found = outcomes.get(comparison.of.name, [])
    return [outcome.dataset for outcome in found if outcome.dataset is not None and outcome.png]


def _compare(comparison: Comparison, found: Sequence[Any]) -> tuple[bytes, str] | None:
    """PNG and caption of a figure of several files; None where they are not of the kind it compares."""
    if len(found) < 2:
        return None
    try:
        picture = comparison.plot(comparison.function(found))
        return picture.png(), picture.caption
    except HVAEError as error:
        log.info("%s: %s", comparison.name, error)
    except Exception:
        log.exception("%s failed", comparison.name)
    return None


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as strict JSON: numbers that are not finite become None, anything else unknown a string."""
    values = {str(name): value.item() if isinstance(value, np.generic) else value for name, value in attrs.items()}
    return {
        name: number(value) if isinstance(value, int | float) else value if isinstance(value, str) else str(value)
        for name, value in values.items()
    }
