"""The files that reports are made of: their kinds, how they are opened, and what the page calls them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xarray as xr

from pyro_hvae.analysis.reading import image_sets
from pyro_hvae.errors import HVAEError
from pyro_hvae.report.findings import FOUND_FROM, findings
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.registry import ANALYSES, AUDIT_ANALYSES, Analysis
from pyro_hvae.storage import audit_file, physiology_file, posterior_file
from pyro_hvae.storage.stores import schema_of

CHUNK = 4096  # images held in memory at a time


@dataclass(frozen=True)
class Opening:
    """With what the report of a file begins: sentences, and the pictures of some of its analyses."""

    pictures: tuple[str, ...] = ()
    """Names of the analyses, in order; their pictures stand here and not in their sections."""
    found_from: tuple[str, ...] = ()
    """Names of the analyses that the sentences are made of."""
    sentences: Callable[[Mapping[str, xr.Dataset], Mapping[str, str]], list[str]] = lambda results, reasons: []
    """Given results of these by name, and the reasons for those there are none of."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file that can be reported on. Another one is another entry of :data:`KINDS`."""

    name: str
    """As sentences say it."""
    schema: str
    """Root attribute of such files."""
    command: str
    """Makes one."""
    open: Callable[[Path], xr.DataTree]
    """Open lazily and check; raises HVAEError."""
    analyses: Mapping[str, Analysis]
    """All that are run on it, in the order of the report."""
    facts: Callable[[xr.DataTree], dict[str, str]]
    """Rows of the table of provenance: ``kind``, ``images``, ``layers (dimensions)``."""
    lacks: Callable[[xr.DataTree], list[str]]
    """What a complete file would have and this one lacks, as phrases."""
    opening: Opening = field(default_factory=Opening)


def _posterior_facts(tree: xr.DataTree) -> dict[str, str]:
    count = ", ".join(f"{int(mask.sum())} {name}" for name, mask in image_sets(tree).items())
    return _facts("posterior", count, tree, "posterior_moments", posterior_file.sites(tree))


def _audit_facts(tree: xr.DataTree) -> dict[str, str]:
    kind, count = f"audit, reference: {tree.attrs.get('reference', '')}", str(posterior_file.images(tree))
    return _facts(kind, count, tree, "reference", audit_file.audit_sites(tree))


def _physiology_facts(tree: xr.DataTree) -> dict[str, str]:
    units = {site: tree["blank"].sizes[f"{site}_unit"] for site in physiology_file.physiology_sites(tree)}
    measured = ", ".join(name for name in tree.children if name not in ("blank", "preferred"))
    kind = f"physiology, response: {str(tree.attrs['response']).replace('_', ' ')}"
    layers = ", ".join(f"{site} ({n} measured)" for site, n in units.items())
    return {"kind": kind, "images": measured, "layers (dimensions)": layers}


def _facts(kind: str, images: str, tree: xr.DataTree, group: str, layers: Sequence[str]) -> dict[str, str]:
    dims = [f"{name} ({tree[group][name + '_mean'].sizes[name + '_dim']})" for name in layers]
    return {"kind": kind, "images": images or "none", "layers (dimensions)": ", ".join(dims) or "none"}


POSTERIOR = FileKind(
    name="posterior file",
    schema=posterior_file.SCHEMA,
    command="pyro-hvae export RUN --out FILE",
    open=lambda path: posterior_file.open_posterior(path, chunks=CHUNK, partial=True),
    analyses=ANALYSES,
    facts=_posterior_facts,
    lacks=posterior_file.missing,
    opening=Opening(
        pictures=("projective_fields", "modulation_fields", "texture_decoding", "trust"),
        found_from=FOUND_FROM,
        sentences=findings,
    ),
)
AUDIT = FileKind(
    name="audit",
    schema=audit_file.SCHEMA,
    command=audit_file.COMMAND,
    open=audit_file.open_audit,
    analyses=AUDIT_ANALYSES,
    facts=_audit_facts,
    lacks=lambda tree: [],  # an audit that lacks anything is not opened
)
PHYSIOLOGY = FileKind(
    name="physiology file",
    schema=physiology_file.SCHEMA,
    command=physiology_file.COMMAND,
    open=physiology_file.open_physiology,
    analyses=PHYSIOLOGY_ANALYSES,
    facts=_physiology_facts,
    lacks=lambda tree: [],  # which stimuli are shown is a choice
    opening=Opening(pictures=("grating_tuning", "surround_suppression", "v1_scorecard")),
)
#: In the order of the report.
KINDS = (POSTERIOR, AUDIT, PHYSIOLOGY)


@dataclass(frozen=True)
class ReportedFile:
    """A file that is open, and what kind of file it is."""

    path: Path
    label: str
    kind: FileKind
    tree: xr.DataTree

    @property
    def heading(self) -> str:
        """Its label, preset and guide."""
        names = [str(self.tree.attrs.get(name, "")) for name in ("preset", "guide")]
        about = ", ".join(name for name in names if name)
        return f"{self.label} ({about})" if about else self.label


def open_file(path: str | os.PathLike[str], label: str = "") -> ReportedFile:
    """Open a file of any kind that can be reported on.

    Raises
    ------
    HVAEError
        Where there is no such file, it cannot be read, is of no kind of :data:`KINDS`, or breaks the schema of its kind.
    """
    path = Path(path)
    *others, last = (kind.name for kind in KINDS)
    names, commands = f"{', '.join(others)} or {last}", "` or `".join(kind.command for kind in KINDS)
    schema = schema_of(path, names, commands)
    for kind in KINDS:
        if kind.schema == schema:
            return ReportedFile(path, label or path.stem, kind, kind.open(path))
    raise HVAEError(f"{path} is no {names}: its attribute schema is {schema!r}; make one with `{commands}`")


def analyses_by_name() -> dict[str, Analysis]:
    """All analyses of all kinds of files."""
    return {name: analysis for kind in KINDS for name, analysis in kind.analyses.items()}


def file_labels(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Short distinct names for files, fit for file names: the stem, else the directory, else both, else numbered."""
    resolved = [Path(path).absolute() for path in paths]
    for name in (lambda p: p.stem, lambda p: p.parent.name, lambda p: f"{p.parent.name}-{p.stem}"):
        labels = [re.sub(r"[^\w.-]+", "_", name(path)) for path in resolved]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}-{label}" for index, label in enumerate(labels, 1)]
