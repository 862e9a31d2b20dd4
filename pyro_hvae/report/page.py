"""What the report says, in what order: tables of numbers and the page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
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
    dataset: xr.Dataset | None = None  # kept where a comparison of files needs it


def page(
    files: Sequence[ReportedFile], outcomes: Mapping[str, Sequence[Outcome]], compared: Mapping[str, tuple[bytes, str]]
) -> str:
    """The report as HTML: ``outcomes`` by the name of the analysis, ``compared`` (PNG and caption) by title."""
    messages = []
    for file in files:
        if lacking := file.kind.lacks(file.tree):
            about = {"title": "Incomplete file", "heading": file.heading, "kind": "absent"}
            messages.append(about | {"text": "; ".join(lacking)})
    sections = [_section(name, parts) for name, parts in outcomes.items()]
    messages += [each for section in sections for each in section["messages"] if each["kind"] != "note"]
    facts = [_facts(file) for file in files]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(
        title=f"Posterior report: {files[0].heading}" if len(files) == 1 else f"Comparison of {len(files)} files",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("pyro-hvae"),
        headings=[file.heading for file in files],
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
    """Rows of a table with a column a file from the objects of ``results.json``.

    Each row holds ``title``, ``unit`` and ``cells``: for each file, in the order in which they appear, ``None`` or a dict of
    ``text`` (value with its uncertainty) and ``n``. With ``headlines`` only the main numbers of each analysis.
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
        row = rows.setdefault(key, {"title": entry["title"], "unit": entry["unit"], "cells": [None] * len(files)})
        row["cells"][files.index(entry["file"])] = {"text": formatted(entry), "n": entry["n"]}
    return list(rows.values())


def _glance(outcomes: Mapping[str, Sequence[Outcome]], kind: FileKind) -> dict[str, Any]:
    """The main numbers of all files of a kind; no rows where there are none."""
    parts = [outcome for found in outcomes.values() for outcome in found if outcome.file.kind is kind]
    headings = list(dict.fromkeys(outcome.file.heading for outcome in parts))
    return {"headings": headings, "rows": comparison(_entries(parts))}


def _section(name: str, parts: Sequence[Outcome]) -> dict[str, Any]:
    analysis = analyses_by_name()[name]
    title = analysis.title
    messages = [
        {"title": title, "heading": outcome.file.heading, "kind": kind, "text": text}
        for outcome in parts
        for kind, text in outcome.messages
    ]
    figures = [
        {"heading": outcome.file.heading, "png": base64.b64encode(outcome.png).decode(), "caption": outcome.caption}
        for outcome in parts
        if outcome.png
    ]
    return {
        "name": name, "title": title, "about": analysis.about, "messages": messages, "figures": figures,
        "headings": [outcome.file.heading for outcome in parts], "rows": comparison(_entries(parts), headlines=False),
    }  # fmt: skip


def _entries(parts: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [entry | {"file": str(outcome.file.path)} for outcome in parts for entry in outcome.entries]


def _facts(file: ReportedFile) -> dict[str, str]:
    shown = [name for name in ROOT_ATTRIBUTES if name != "configuration"]
    attributes = {name.replace("_", " "): str(file.tree.attrs.get(name, "")) for name in shown}
    return {"file": str(file.path)} | file.kind.facts(file.tree) | attributes


def _pretty(configuration: str) -> str:
    try:
        return json.dumps(json.loads(configuration), indent=2, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(configuration)
