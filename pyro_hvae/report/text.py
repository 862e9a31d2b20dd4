"""Numbers as text: to the digits of their uncertainty, with what they count."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.analysis.results import collect


def numbers(dataset: xr.Dataset) -> str:
    """Every quantity of a result with its uncertainty, unit and count, a line each, and the notes a reader must see."""
    lines = []
    for entry in collect(dataset):
        unit = "" if entry["unit"] == "1" else f" {entry['unit']}"
        lines.append(f"  {entry['title']:<64} {formatted(entry)}{unit}  (n = {entry['n']})")
    lines += [f"  note: {note}" for note in dataset.attrs["notes"].splitlines() if note]
    return "\n".join(lines)


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
