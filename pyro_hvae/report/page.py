"""What the report says, in what order: tables of numbers and the page."""

from __future__ import annotations

import base64
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
import xarray as xr

from pyro_hvae.analysis.reading import image_sets
from pyro_hvae.report.registry import REPORTED, Analysis
from pyro_hvae.report.template import PAGE
from pyro_hvae.storage.audit_file import SCHEMA as AUDIT
from pyro_hvae.storage.audit_file import audit_sites
from pyro_hvae.storage.posterior_file import ROOT_ATTRIBUTES, images, missing, sites


@dataclass(frozen=True)
class ReportedFile:
    """A posterior file, or an audit, that is open."""

    path: Path
    label: str
    tree: xr.DataTree

    @property
    def is_audit(self) -> bool:
        return self.tree.attrs.get("schema") == AUDIT

    @property
    def heading(self) -> str:
        """Its label, preset and guide."""
        names = [str(self.tree.attrs.get(name, "")) for name in ("preset", "guide")]
        about = ", ".join(name for name in names if name)
        return f"{self.label} ({about})" if about else self.label


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
        if not file.is_audit and (lacking := missing(file.tree)):
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
        glance=[_glance(outcomes, audits) for audits in (False, True) if any(f.is_audit == audits for f in files)],
        messages=messages,
        compared=[
            {"title": title, "png": base64.b64encode(image).decode(), "caption": caption}
            for title, (image, caption) in compared.items()
        ],
        sections=sections,
        provenance=[(name, [fact[name] for fact in facts]) for name in facts[0]],
        configurations=[(file.heading, _pretty(file.tree.attrs.get("configuration", ""))) for file in files],
    )


def comparison(results: Sequence[dict[str, Any]], headlines: bool = True) -> list[dict[str, Any]]:
    """Rows of a table with a column a file from the objects of ``results.json``.

    Each row holds ``title``, ``unit`` and ``cells``: for each file, in the order in which they appear, ``None`` or a dict of
    ``text`` (value with its uncertainty) and ``n``. With ``headlines`` only the main numbers of each analysis.
    """
    files = list(dict.fromkeys(entry["file"] for entry in results))
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in results:
        if "message" in entry or (headlines and not entry["name"].startswith(REPORTED[entry["analysis"]].headlines)):
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


def _glance(outcomes: Mapping[str, Sequence[Outcome]], audits: bool) -> dict[str, Any]:
    """The main numbers of all posterior files, or of all audits."""
    parts = [outcome for found in outcomes.values() for outcome in found if outcome.file.is_audit == audits]
    headings = list(dict.fromkeys(outcome.file.heading for outcome in parts))
    return {"headings": headings, "rows": comparison(_entries(parts))}


def _section(name: str, parts: Sequence[Outcome]) -> dict[str, Any]:
    title = REPORTED[name].title
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
        "name": name, "title": title, "about": _about(REPORTED[name]), "messages": messages, "figures": figures,
        "headings": [outcome.file.heading for outcome in parts], "rows": comparison(_entries(parts), headlines=False),
    }  # fmt: skip


def _entries(parts: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [entry | {"file": str(outcome.file.path)} for outcome in parts for entry in outcome.entries]


def _about(analysis: Analysis) -> markupsafe.Markup:
    """First paragraphs of the function's docstring, up to its parameters, as the section's introduction."""
    text = (inspect.getdoc(analysis.function) or "").split("\n\nReturns")[0].split("\n\nParameters")[0]
    return markupsafe.Markup(re.sub(r"``(.+?)``", r"<code>\1</code>", str(markupsafe.escape(text))))


def _facts(file: ReportedFile) -> dict[str, str]:
    tree = file.tree
    if file.is_audit:
        kind, count = f"audit, reference: {tree.attrs.get('reference', '')}", str(images(tree))
        names, group = audit_sites(tree), "reference"
    else:
        kind, count = "posterior", ", ".join(f"{int(mask.sum())} {name}" for name, mask in image_sets(tree).items())
        names, group = sites(tree), "posterior_moments"
    dims = [f"{name} ({tree[group][name + '_mean'].sizes[name + '_dim']})" for name in names]
    facts = {
        "file": str(file.path),
        "kind": kind,
        "images": count or "none",
        "layers (dimensions)": ", ".join(dims) or "none",
    }
    shown = [name for name in ROOT_ATTRIBUTES if name != "configuration"]
    return facts | {name.replace("_", " "): str(tree.attrs.get(name, "")) for name in shown}


def _pretty(configuration: str) -> str:
    try:
        return json.dumps(json.loads(configuration), indent=2, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(configuration)
