"""All analyses that apply to one or several posterior files: a self-contained page, the numbers, the figures."""

from __future__ import annotations

import base64
import inspect
import io
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.common import collect, image_sets, number
from pyro_hvae.analysis.registry import ANALYSES, COMPARISONS, Analysis, Comparison
from pyro_hvae.analysis.template import PAGE
from pyro_hvae.errors import HVAEError
from pyro_hvae.files import ROOT_ATTRIBUTES, missing, open_posterior, sites

CHUNK = 4096  # images held in memory at a time
log = logging.getLogger(__name__)


@dataclass
class _Outcome:
    """What one analysis gave on one file: numbers and a picture, or the reason why not."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    png: bytes = b""
    caption: str = ""
    messages: list[tuple[str, str]] = field(default_factory=list)  # (kind, text); kind is note, absent or failed
    dataset: xr.Dataset | None = None  # kept where a comparison of files needs it


def analyse(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    overwrite: bool = False,
) -> Path:
    """Run every analysis that applies on every posterior file and write the report.

    Figures of several files together (a sweep of z2, numbers of particles) are made where the files are of that kind.
    Writes ``report.html`` (self-contained), ``results.json`` and ``figures/*.png`` into ``out`` and returns the path of the
    report. Several files are set side by side. An analysis that does not apply to a file, or fails on it, is reported
    with its reason; the rest goes on.

    ``results.json`` is a list with an object for every number: ``analysis``, ``name``, ``title``, ``value``, ``se`` or
    ``interval`` (95%), ``n``, ``unit``, ``file`` and ``attributes`` (those of the file). An analysis without a result has
    one object, with value null and a ``message``.

    Raises
    ------
    HVAEError
        Where a file cannot be opened as a posterior file, none is given, or ``out`` holds a report and ``overwrite`` is off.
    """
    files = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    if len(set(files)) < len(files):
        raise HVAEError(f"a posterior file is given twice: {', '.join(map(str, files))}")
    if not files:
        raise HVAEError("analyse needs at least one posterior file; make one with `pyro-hvae export RUN --out FILE`")
    out = Path(out)
    targets = [out / "report.html", out / "results.json", out / "figures"]
    if not overwrite and (there := [str(target) for target in targets if target.exists()]):
        raise HVAEError(f"{', '.join(there)} exists; choose another directory or pass overwrite=True (--overwrite)")
    labels = file_labels(files)
    with ExitStack() as stack:
        trees = [stack.enter_context(open_posterior(path, chunks=CHUNK, partial=True)) for path in files]
        outcomes = {
            name: [_attempt(analysis, tree, path) for tree, path in zip(trees, files, strict=True)]
            for name, analysis in ANALYSES.items()
        }
        results = [
            entry | {"file": str(path), "attributes": _plain(tree.attrs)}
            for parts in outcomes.values()
            for outcome, tree, path in zip(parts, trees, files, strict=True)
            for entry in outcome.entries
        ]
        compared = {
            comparison.title: picture
            for comparison in COMPARISONS.values()
            if (picture := _across(comparison, outcomes))
        }
        page = _page(trees, files, labels, outcomes, results, compared)
    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for stale in figures.glob("*.png"):
        stale.unlink()
    for name, parts in outcomes.items():
        for label, outcome in zip(labels, parts, strict=True):
            if outcome.png:
                (figures / f"{name}-{label}.png").write_bytes(outcome.png)
    for comparison in COMPARISONS.values():
        if comparison.title in compared:
            (figures / f"{comparison.name}.png").write_bytes(compared[comparison.title][0])
    _write(out / "results.json", json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    _write(out / "report.html", page)
    return out / "report.html"


def comparison(results: Sequence[dict[str, Any]], headlines: bool = True) -> list[dict[str, Any]]:
    """Rows of a table with a column a file from the objects of ``results.json``.

    Each row holds ``title``, ``unit`` and ``cells``: for each file, in the order in which they appear, ``None`` or a dict of
    ``text`` (value with its uncertainty) and ``n``. With ``headlines`` only the main numbers of each analysis.
    """
    files = list(dict.fromkeys(entry["file"] for entry in results))
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in results:
        if "message" in entry or (headlines and not entry["name"].startswith(ANALYSES[entry["analysis"]].headlines)):
            continue
        key = (entry["analysis"], entry["name"])
        row = rows.setdefault(key, {"title": entry["title"], "unit": entry["unit"], "cells": [None] * len(files)})
        row["cells"][files.index(entry["file"])] = {"text": formatted(entry), "n": entry["n"]}
    return list(rows.values())


def formatted(entry: dict[str, Any]) -> str:
    """Value and uncertainty of one object of ``results.json``, to two digits of the uncertainty: ``0.52 ± 0.01``."""
    value = entry["value"]
    if value is None:
        return "not available"
    se, bounds = entry.get("se"), entry.get("interval") or [None, None]
    known = None not in bounds
    width = se if se is not None else (bounds[1] - bounds[0]) / 2 if known else None
    whole = all(isinstance(number, int) for number in (value, *bounds, se) if number is not None)
    digits = (
        0 if whole else max(0, 1 - int(np.floor(np.log10(width)))) if width else 0 if float(value).is_integer() else 3
    )

    def show(number: float) -> str:
        return f"{number:.{min(digits, 8)}f}".replace("-", "\u2212")

    if se is not None:
        return f"{show(value)} ± {show(se)}"
    return f"{show(value)} [{show(bounds[0])}, {show(bounds[1])}]" if known else f"{show(value)} (no interval)"


def file_labels(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Short distinct names for files, fit for file names: the stem, else the directory, else both, else numbered."""
    resolved = [Path(path).absolute() for path in paths]
    for name in (lambda p: p.stem, lambda p: p.parent.name, lambda p: f"{p.parent.name}-{p.stem}"):
        labels = [re.sub(r"[^\w.-]+", "_", name(path)) for path in resolved]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}-{label}" for index, label in enumerate(labels, 1)]


def png(picture: style.Picture) -> bytes:
    """The figure as PNG, with its caption as the description."""
    buffer = io.BytesIO()
    picture.figure.savefig(buffer, format="png", dpi=style.DPI, metadata={"Description": picture.caption})
    return buffer.getvalue()


def _attempt(analysis: Analysis, tree: xr.DataTree, path: Path) -> _Outcome:
    """One analysis on one file. Whatever goes wrong becomes a message: the rest of the report must go on."""
    log.info("%s: %s", path, analysis.name)
    outcome = _Outcome()
    try:
        dataset = analysis.run(tree)
        outcome.entries = collect(dataset)
        outcome.messages = [("note", note) for note in dataset.attrs["notes"].splitlines() if note]
        picture = analysis.picture(dataset)
        outcome.png, outcome.caption = png(picture), picture.caption
    except HVAEError as error:
        outcome.messages.append(("absent", str(error)))
    except Exception as error:
        log.exception("%s: %s failed", path, analysis.name)
        outcome.messages.append(("failed", f"failed with {type(error).__name__}: {error}"))
    if not outcome.entries:
        text = outcome.messages[-1][1]
        empty = {"name": analysis.name, "title": analysis.title, "value": None, "interval": None, "n": 0, "unit": ""}
        outcome.entries = [{"analysis": analysis.name} | empty | {"message": text}]
    if analysis.name in {comparison.of for comparison in COMPARISONS.values()} and outcome.png:
        outcome.dataset = dataset
    return outcome


def _across(comparison: Comparison, outcomes: Mapping[str, Sequence[_Outcome]]) -> tuple[bytes, str] | None:
    """PNG and caption of a figure of several files; None where they are not of the kind it compares."""
    found = [outcome.dataset for outcome in outcomes[comparison.of] if outcome.dataset is not None]
    if len(found) < 2:
        return None
    try:
        picture = comparison.plot(comparison.function(found))
        return png(picture), picture.caption
    except HVAEError as error:
        log.info("%s: %s", comparison.name, error)
    except Exception:
        log.exception("%s failed", comparison.name)
    return None


def _page(
    trees: Sequence[xr.DataTree],
    files: Sequence[Path],
    labels: Sequence[str],
    outcomes: dict[str, list[_Outcome]],
    results: list[dict[str, Any]],
    compared: Mapping[str, tuple[bytes, str]],
) -> str:
    headings = [_heading(tree, label) for tree, label in zip(trees, labels, strict=True)]
    sections, messages = [], []
    for tree, heading in zip(trees, headings, strict=True):
        if lacking := missing(tree):
            text = "; ".join(lacking)
            messages.append({"title": "Incomplete file", "heading": heading, "kind": "absent", "text": text})
    for name, parts in outcomes.items():
        said = [
            {"title": ANALYSES[name].title, "heading": heading, "kind": kind, "text": text}
            for heading, outcome in zip(headings, parts, strict=True)
            for kind, text in outcome.messages
        ]
        messages += [message for message in said if message["kind"] != "note"]
        figures = [
            {"heading": heading, "png": base64.b64encode(outcome.png).decode(), "caption": outcome.caption}
            for heading, outcome in zip(headings, parts, strict=True)
            if outcome.png
        ]
        rows = comparison([entry for entry in results if entry["analysis"] == name], headlines=False)
        section = {"name": name, "title": ANALYSES[name].title, "about": _about(ANALYSES[name])}
        sections.append(section | {"rows": rows, "messages": said, "figures": figures})
    described = [
        {"heading": heading, "configuration": _pretty(tree.attrs.get("configuration", ""))}
        for heading, tree in zip(headings, trees, strict=True)
    ]
    facts = [_facts(tree, path) for tree, path in zip(trees, files, strict=True)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(
        title="Posterior report: " + headings[0] if len(files) == 1 else f"Comparison of {len(files)} posteriors",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("pyro-hvae"),
        files=described,
        glance=comparison(results),
        messages=messages,
        compared=[
            {"title": title, "png": base64.b64encode(image).decode(), "caption": caption}
            for title, (image, caption) in compared.items()
        ],
        sections=sections,
        provenance=[(name, [fact[name] for fact in facts]) for name in facts[0]],
    )


def _heading(tree: xr.DataTree, label: str) -> str:
    names = [str(tree.attrs.get(name, "")) for name in ("preset", "guide")]
    about = ", ".join(name for name in names if name)
    return f"{label} ({about})" if about else label


def _about(analysis: Analysis) -> markupsafe.Markup:
    """First paragraphs of the function's docstring, up to its parameters, as the section's introduction."""
    text = (inspect.getdoc(analysis.function) or "").split("\n\nReturns")[0].split("\n\nParameters")[0]
    return markupsafe.Markup(re.sub(r"``(.+?)``", r"<code>\1</code>", str(markupsafe.escape(text))))


def _facts(tree: xr.DataTree, path: Path) -> dict[str, str]:
    dims = [f"{name} ({tree['posterior_moments'][name + '_mean'].sizes[name + '_dim']})" for name in sites(tree)]
    sets = [f"{int(mask.sum())} {name}" for name, mask in image_sets(tree).items()]
    facts = {"file": str(path), "images": ", ".join(sets) or "none", "layers (dimensions)": ", ".join(dims) or "none"}
    shown = [name for name in ROOT_ATTRIBUTES if name != "configuration"]
    return facts | {name.replace("_", " "): str(tree.attrs.get(name, "")) for name in shown}


def _pretty(configuration: str) -> str:
    try:
        return json.dumps(json.loads(configuration), indent=2, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(configuration)


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as strict JSON: numbers that are not finite become None, anything else unknown a string."""
    values = {str(name): value.item() if isinstance(value, np.generic) else value for name, value in attrs.items()}
    return {
        name: number(value) if isinstance(value, int | float) else value if isinstance(value, str) else str(value)
        for name, value in values.items()
    }


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
