"""What an analysis needs of a file, and which of its numbers are shown at a glance."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from pyro_hvae.analysis.results import entry_name
from pyro_hvae.errors import unknown
from pyro_hvae.storage.physiology_file import physiology_schema
from pyro_hvae.storage.posterior_file import optional_schema, schema, sites

LAYERS = ("z1", "z2")  # whose variables an analysis may name; those of deeper layers it asks for as a Group


@dataclass(frozen=True)
class Variable:
    """One variable of the posterior file; ``a | b`` where either will do.

    Raises HVAEError, with the nearest name, for a group or variable that the schema does not know.
    """

    group: str
    name: str

    def __post_init__(self) -> None:
        known: dict[str, set[str]] = {}
        for table in (schema(LAYERS), optional_schema(LAYERS)):
            for group, variables in table.items():
                known.setdefault(group, set()).update(variables)
        if self.group not in known:
            raise unknown("group of the posterior file", self.group, known)
        if self.name not in known[self.group]:
            raise unknown(f"variable of the group {self.group}", self.name, known[self.group])

    def __or__(self, other: Variable) -> Either:
        return Either((self, other))

    def __str__(self) -> str:
        return f"{self.group}/{self.name}"

    def missing(self, tree: xr.DataTree) -> list[str]:
        """What of it a file lacks, in words."""
        there = self.group in tree.children and self.name in tree[self.group]
        return [] if there else [str(self)]


@dataclass(frozen=True)
class Either:
    """Variables of which a file must have one."""

    variables: tuple[Variable, ...]

    def __or__(self, other: Variable) -> Either:
        return Either((*self.variables, other))

    def missing(self, tree: xr.DataTree) -> list[str]:
        """What of it a file lacks, in words."""
        if any(not variable.missing(tree) for variable in self.variables):
            return []
        return [" or ".join(map(str, self.variables))]


@dataclass(frozen=True)
class Group:
    """All variables that the schema asks of a group for the layers of a file. Raises HVAEError for an unknown group."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in (known := schema(LAYERS)):
            raise unknown("group that every posterior file has", self.name, known)

    def missing(self, tree: xr.DataTree) -> list[str]:
        """What of it a file lacks, in words."""
        there = tree[self.name] if self.name in tree.children else ()
        return [f"{self.name}/{name}" for name in schema(sites(tree) or ["z1"])[self.name] if name not in there]


@dataclass(frozen=True)
class Measured:
    """A group of a physiology file. Raises HVAEError for one that the schema does not know."""

    group: str

    def __post_init__(self) -> None:
        if self.group not in (known := physiology_schema(xr.DataTree())):
            raise unknown("group of the physiology file", self.group, known)

    def missing(self, tree: xr.DataTree) -> list[str]:
        """What of it a file lacks, in words."""
        return [] if self.group in tree.children else [f"{self.group} (it was not measured)"]


Need = Variable | Either | Group | Measured


@dataclass(frozen=True)
class Headline:
    """A quantity that is shown at a glance: all its numbers, or those whose coordinates begin with ``at``."""

    quantity: str
    at: tuple[str, ...] = ()

    def shows(self, name: str) -> bool:
        """Whether it is the number of this name (:func:`~pyro_hvae.analysis.results.entry_name`)."""
        chosen = entry_name(self.quantity, self.at)
        opened = chosen.removesuffix("]") + ", " if self.at else f"{self.quantity}["
        return name == chosen or name.startswith(opened)
