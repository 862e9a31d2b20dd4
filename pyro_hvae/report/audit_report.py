"""An audit as text and picture, as `pyro-hvae audit` hands it on."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from pyro_hvae.analysis.guide_audit import guide_audit, plot_guide_audit
from pyro_hvae.report.text import numbers


def audit_report(tree: xr.DataTree, picture: Path, *, overwrite: bool = True) -> str:
    """Write the figure of an audit to ``picture`` (PNG) and return its numbers, notes and caption as lines of text.

    With ``overwrite`` an earlier figure is replaced, and nothing else."""
    result = guide_audit(tree)
    drawn = plot_guide_audit(result)
    drawn.save(picture, overwrite=overwrite)
    return f"{numbers(result)}\n  {drawn.caption}\n  {picture}"
