"""A page to look at while a run goes on: the terms of the bound so far, and the fields of z1 as they are."""

from __future__ import annotations

import base64
import html
import io
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import GenerativeModel
from pyro_hvae.storage.writing import write_atomically
from pyro_hvae.training.callbacks import Callback, Row, TrainingState

MARK = "<!-- pyro_hvae.watch -->"
FIELDS = 64  # the strongest ones
#: Okabe and Ito's, told apart by the colour-blind.
COLOURS = {
    "elbo": "#000000",
    "reconstruction": "#0072b2",
    "kl_z1": "#e69f00",
    "kl_z2": "#009e73",
    "test_elbo": "#d55e00",
}


class WatchPage(Callback):
    """One HTML file, which a browser loads again by itself every few seconds; nothing is served and nothing fetched.

    It shows the terms of the bound (nats an image, over steps), held-out evaluations as dots, and the 64 strongest fields of
    z1 (columns of A), each on its own scale. A model without A has terms alone.

    :param file: an ``.html`` file.
    :param seconds: at least this long between two pictures; the last is always drawn.
    :raises HVAEError: where the file is there and is no such page.
    """

    @checked
    def __init__(self, file: str | os.PathLike[str], seconds: float = 10.0):
        self.file, self.seconds, self._drawn = Path(file), seconds, -math.inf
        if not seconds >= 0:
            raise HVAEError(f"seconds between two pictures must be at least 0, got {seconds}")
        if self.file.suffix != ".html":
            raise HVAEError(f"the page is an .html file, got {self.file}")
        if self.file.exists() and MARK not in self.file.read_text(encoding="utf-8", errors="replace"):
            raise HVAEError(f"{self.file} is there and is no page of a run; give another name")

    def on_log(self, state: TrainingState, row: Row) -> None:
        """A new picture, if it is time."""
        if state.step >= state.steps or time.monotonic() - self._drawn >= self.seconds:
            self._draw(state)

    def on_evaluate(self, state: TrainingState, row: Row) -> None:
        """As :meth:`on_log`."""
        self.on_log(state, row)

    def _draw(self, state: TrainingState) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = page(state, self.seconds)
        write_atomically(self.file, lambda partial: partial.write_text(text, encoding="utf-8"))
        self._drawn = time.monotonic()


def page(state: TrainingState, seconds: float = 10.0) -> str:
    """The page as text."""
    name = html.escape(str(state.vae.preset or type(state.vae.model).__name__))
    done = state.step >= state.steps
    reload = "" if done else f'<meta http-equiv="refresh" content="{max(1, round(seconds))}">'
    latest = state.rows[-1] if state.rows else {}
    terms = ", ".join(
        f"{html.escape(n)} {latest[n]:.1f}" for n in latest if n == "elbo" or n.startswith(("kl_", "recon"))
    )
    model = state.vae.model
    fields = ""
    if isinstance(model, GenerativeModel):
        shown, side = strongest_fields(model.A.detach().float().cpu().numpy())
        if side:
            fields = f"<h2>Fields of z1, the {len(shown)} strongest</h2>"
            fields += f'<img alt="fields of z1" width="512" src="{mosaic(shown, side)}">'
    return f"""<!doctype html>
{MARK}
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{reload}
<title>{name}, step {state.step}</title>
<style>body{{font:15px system-ui,sans-serif;max-width:45rem;margin:2rem auto;padding:0 1rem}}
img,svg{{max-width:100%;height:auto}} img{{image-rendering:pixelated}}</style></head><body>
<h1>{name}: step {state.step} of {state.steps}{", done" if done else ""}</h1><p>{terms} (nats an image)</p>
{curves(state.rows, state.evaluations)}{fields}</body></html>
"""


def strongest_fields(A: np.ndarray) -> tuple[np.ndarray, int]:
    """Columns of ``A (pixel, unit)`` with the largest norm, strongest first, and their side; 0 where they are no squares."""
    side = math.isqrt(A.shape[0])
    order = np.argsort(-np.linalg.norm(A, axis=0), kind="stable")[:FIELDS]
    return A.T[order], side if side * side == A.shape[0] else 0


def mosaic(fields: np.ndarray, side: int) -> str:
    """Fields ``(field, pixel)`` in rows of eight as a ``data:`` URL of a PNG, zero at mid-grey."""
    rows = -(-len(fields) // 8)
    canvas = np.full((rows * (side + 1) + 1, 8 * (side + 1) + 1), 255, np.uint8)
    for n, field in enumerate(fields):
        top, left = 1 + n // 8 * (side + 1), 1 + n % 8 * (side + 1)
        scaled = field / max(float(np.abs(field).max()), 1e-12)
        canvas[top : top + side, left : left + side] = np.round(127.5 * (1 + scaled.reshape(side, side)))
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def curves(rows: Sequence[Row], evaluations: Sequence[Row]) -> str:
    """The terms over steps as an SVG of 640 by 300, with the range of its axes in words."""
    names = [n for n in (rows[-1] if rows else {}) if n in ("elbo", "reconstruction") or n.startswith("kl_")]
    lines = {n: [(r["step"], r[n]) for r in rows if n in r] for n in names}
    dots = [(e["evaluation"], e["test_elbo"]) for e in evaluations]
    points = [p for line in (*lines.values(), dots) for p in line if math.isfinite(p[1])]
    if not points:
        return "<p>No step was logged yet.</p>"
    # The first steps of a run are off by orders of magnitude: the axis leaves out the lowest twentieth of all values.
    values = sorted(v for _, v in points)
    low, high = values[len(values) // 20], values[-1]
    last = max(s for s, _ in points)

    def at(point: tuple[float, float]) -> str:
        share = (min(max(point[1], low), high) - low) / ((high - low) or 1)
        return f"{40 + 580 * point[0] / last:.1f},{270 - 250 * share:.1f}"

    drawn = [
        f'<polyline fill="none" stroke="{COLOURS.get(n, "#56b4e9")}" stroke-width="1.5" points="{" ".join(map(at, line))}"/>'
        for n, line in lines.items()
    ]
    drawn += ['<circle r="3" fill="{}" cx="{}" cy="{}"/>'.format(COLOURS["test_elbo"], *at(p).split(",")) for p in dots]
    legend = " ".join(
        f'<span style="color:{COLOURS.get(n, "#56b4e9")}">■ {html.escape(n)}</span>'
        for n in (*lines, *(["test_elbo"] if dots else []))
    )
    return (
        f'<p>{legend}</p><svg viewBox="0 0 640 300" width="640" role="img" aria-label="terms of the bound over steps">'
        f'<rect x="40" y="20" width="580" height="250" fill="none" stroke="#999"/>{"".join(drawn)}'
        f'<text x="44" y="16" font-size="12">{high:.1f}</text><text x="44" y="284" font-size="12">{low:.1f} nats an image, '
        f"step 0 to {last:.0f}</text></svg>"
    )
