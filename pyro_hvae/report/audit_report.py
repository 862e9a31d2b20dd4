"""An audit as text and picture; shared by `pyro-hvae audit` and `analyses/guide_audit.py`."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from pyro_hvae.analysis.guide_audit import guide_audit, plot_guide_audit
from pyro_hvae.analysis.results import collect
from pyro_hvae.report.page import formatted
from pyro_hvae.report.report import png, write_figure


def audit_report(tree: xr.DataTree, picture: Path, *, overwrite: bool = True) -> str:
    """Write the figure of an audit to ``picture`` (PNG) and return its numbers, notes and caption as lines of text.

    With ``overwrite`` an earlier figure is replaced, and nothing else."""
    result = guide_audit(tree)
    drawn = plot_guide_audit(result)
    write_figure(picture, png(drawn), overwrite=overwrite)
    lines = [f"  {e['title']:<64} {formatted(e)} {e['unit']}  (n = {e['n']})" for e in collect(result)]
    lines += [f"  note: {note}" for note in result.attrs["notes"].splitlines() if note]
    return "\n".join([*lines, f"  {drawn.caption}", f"  {picture}"])
