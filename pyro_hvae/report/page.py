"""What the report says, in what order: tables of numbers and the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain, groupby
from typing import Any

import jinja2
import xarray as xr

from pyro_hvae.report.files import KINDS, FileKind, ReportedFile, analyses_by_name
from pyro_hvae.report.template import PAGE
from pyro_hvae.report.text import formatted
from pyro_hvae.storage.posterior_file import ROOT_ATTRIBUTES


@dataclass
class Outcome:
    """What one analysis gave on one file: numbers and a picture, or the reason why not."""

    file: ReportedFile
    entries: list[dict[str, Any]] = field(default_factory=list)
    png: bytes = b""
    caption: str = ""
    messages: list[tuple[str, str]] = field(default_factory=list)  # (kind, text); kind is note, absent or failed
    dataset: xr.Dataset | None = None  # kept where a comparison of files, or a sentence, is made of it


def sentences(file: ReportedFile, outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """What the report says of a file before anything else."""
    opening = file.kind.opening
    own = {name: outcome for name in opening.found_from for outcome in outcomes.get(name, ()) if outcome.file is file}
    results = {name: outcome.dataset for name, outcome in own.items() if outcome.dataset is not None}
    reasons = {name: outcome.messages[-1][1] for name, outcome in own.items() if name not in results}
    return opening.sentences(results, reasons)


def page(
    files: Sequence[ReportedFile],
    found: Mapping[str, Sequence[str]],
    outcomes: Mapping[str, Sequence[Outcome]],
    compared: Mapping[str, tuple[bytes, str]],
) -> str:
    """The report as HTML: ``found`` (sentences) by label, ``outcomes`` by the name of the analysis, ``compared`` (PNG and
    caption) by title."""
    messages = []
    for file in files:
        if lacking := file.kind.lacks(file.tree):
            about = {"title": "Incomplete file", "heading": file.heading, "kind": "absent"}
            messages.append(about | {"text": "; ".join(lacking)})
    opening = {name: outcomes[name] for kind in KINDS for name in kind.opening.pictures if name in outcomes}
    sections = [_section(name, parts, drawn=name not in opening) for name, parts in outcomes.items()]
    messages += [each for section in sections for each in section["messages"] if each["kind"] != "note"]
    facts = [_facts(file) for file in files]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(
        title=f"Posterior report: {files[0].heading}" if len(files) == 1 else f"Comparison of {len(files)} files",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("pyro-hvae"),
        headings=[file.heading for file in files],
        found=[(file.heading, found[file.label]) for file in files if found[file.label]],
        opening=[
            {"name": name, "title": analyses_by_name()[name].title, "figures": figures}
            for name, parts in opening.items()
            if (figures := _figures(parts))
        ],
        glance=[_glance(outcomes, kind) for kind in KINDS],
        messages=messages,
        compared=[
            {"title": title, "png": base64.b64encode(image).decode(), "caption": caption}
            for title, (image, caption) in compared.items()
        ],
        sections=sections,
        provenance=[(name, [fact.get(name, "") for fact in facts]) for name in dict.fromkeys(chain(*facts))],
        configurations=[(file.heading, _pretty(file.tree.attrs.get("configuration", ""))) for file in files],
    )


def comparison(results: Sequence[dict[str, Any]], headlines: bool = True) -> list[dict[str, Any]]:
    """Rows of a table with a column a file from the ``results`` of ``results.json``.

    Each row holds ``analysis``, ``title``, ``unit`` and ``cells``: for each file, in the order in which they appear, ``None``
    or a dict of ``text`` (value with its uncertainty) and ``n``. With ``headlines`` only the main numbers of each analysis.
    """
    files = list(dict.fromkeys(entry["file"] for entry in results))
    analyses = analyses_by_name()
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in results:
        if "message" in entry:
            continue
        if headlines and not any(each.shows(entry["name"]) for each in analyses[entry["analysis"]].headlines):
            continue
        key = (entry["analysis"], entry["name"])
        about = {name: entry[name] for name in ("analysis", "title", "unit")}
        row = rows.setdefault(key, about | {"cells": [None] * len(files)})
        row["cells"][files.index(entry["file"])] = {"text": formatted(entry), "n": entry["n"]}
    return list(rows.values())


def _glance(outcomes: Mapping[str, Sequence[Outcome]], kind: FileKind) -> dict[str, Any]:
    """The main numbers of all files of a kind, by analysis; no groups where there are none."""
    parts = [outcome for found in outcomes.values() for outcome in found if outcome.file.kind is kind]
    headings = list(dict.fromkeys(outcome.file.heading for outcome in parts))
    groups = groupby(comparison(_entries(parts)), key=lambda row: row["analysis"])
    return {"headings": headings, "groups": [(kind.analyses[name].title, list(rows)) for name, rows in groups]}


def _section(name: str, parts: Sequence[Outcome], drawn: bool) -> dict[str, Any]:
    """One analysis; with ``drawn`` its pictures, which else stand in the opening."""
    analysis = analyses_by_name()[name]
    title = analysis.title
    messages = [
        {"title": title, "heading": outcome.file.heading, "kind": kind, "text": text}
        for outcome in parts
        for kind, text in outcome.messages
    ]
    rows = comparison(_entries(parts), headlines=False)
    return {
        "name": name, "title": title, "about": analysis.about, "messages": messages,
        "figures": _figures(parts) if drawn else [], "above": not drawn and any(outcome.png for outcome in parts),
        "headings": [outcome.file.heading for outcome in parts], "groups": [("", rows)] if rows else [],
    }  # fmt: skip


def _figures(parts: Sequence[Outcome]) -> list[dict[str, str]]:
    return [
        {"heading": outcome.file.heading, "png": base64.b64encode(outcome.png).decode(), "caption": outcome.caption}
        for outcome in parts
        if outcome.png
    ]


def _entries(parts: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [entry | {"file": outcome.file.label} for outcome in parts for entry in outcome.entries]


def _facts(file: ReportedFile) -> dict[str, str]:
    shown = [name for name in ROOT_ATTRIBUTES if name != "configuration"]
    attributes = {name.replace("_", " "): str(file.tree.attrs.get(name, "")) for name in shown}
    return {"file": file.path.name} | file.kind.facts(file.tree) | attributes


def _pretty(configuration: str) -> str:
    try:
        return json.dumps(json.loads(configuration), indent=2, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(configuration)
