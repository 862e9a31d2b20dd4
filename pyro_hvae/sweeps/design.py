"""What a sweep is, as data: the settings of one run, the axes along which they vary, the directory that keeps both."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyro_hvae.bounds.objectives import Bound
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs import HVAE
from pyro_hvae.published import PairOptions, Recipe, build, preset, recipe
from pyro_hvae.starts import FROM_IMAGES, check_starts
from pyro_hvae.stimuli import PatchData, natural_patches
from pyro_hvae.stimuli.patches import side_of
from pyro_hvae.storage.guards import read_json
from pyro_hvae.storage.provenance import git_revision, versions
from pyro_hvae.storage.writing import check_directory, write_atomically
from pyro_hvae.sweeps.settings import SettingOptions
from pyro_hvae.training.config import chosen_objective
from pyro_hvae.training.recorded import differences
from pyro_hvae.training.run_directory import digest

SCHEMA, SCHEMA_VERSION = "pyro_hvae.sweep", 1


@dataclass(frozen=True, kw_only=True)
class Settings(SettingOptions):
    """Everything that decides one run of a sweep beside the data, as JSON values; each can be an axis.

    What each is says :data:`~pyro_hvae.sweeps.settings.SETTINGS`. None stands for what the preset publishes, as in
    :func:`~pyro_hvae.build` and :func:`~pyro_hvae.fit`.

    :raises HVAEError: for a value of another type, and for names that do not exist.
    """

    def __post_init__(self) -> None:
        if not self.preset:
            raise HVAEError("a sweep needs a preset, among the settings or as an axis; `pyro-hvae presets` lists them")
        try:
            super().__post_init__()
        except HVAEError as error:
            raise HVAEError(f"setting {error}") from error
        preset(self.preset)
        if self.start is not None:
            check_starts(self.start)
        self.training()
        self.make_objective()

    @property
    def size(self) -> int:
        """Pixels of an image."""
        return preset(self.preset).pixels if self.pixels is None else self.pixels

    def build(self, data: PatchData | None = None, *, resumed: bool = False) -> HVAE:
        """The pair, freshly initialised.

        :param data: training patches, for starts that are estimated from them.
        :param resumed: leave such starts out: a checkpoint is about to be loaded.
        """
        options = {f.name: getattr(self, f.name) for f in fields(PairOptions)}
        if resumed and any(name in FROM_IMAGES for name in self.starts()):
            options["start"] = "default"
        return build(self.preset, data=data, seed=self.seed, **options)

    def starts(self) -> tuple[str, ...]:
        """Names of the starts that :meth:`build` applies."""
        return self._recipe().start if self.start is None else check_starts(self.start)

    def _recipe(self) -> Recipe:
        return recipe(self.recipe, self.preset, self.guide or preset(self.preset).guide)

    def make_objective(self) -> Bound:
        """The objective; what is not given is the recipe's."""
        return chosen_objective(self._recipe().training, self)


@dataclass(frozen=True)
class Design:
    """Settings that all runs share, and the values of each axis. JSON values throughout."""

    settings: dict[str, Any]
    axes: dict[str, list[Any]]

    @classmethod
    def of(cls, settings: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> Design:
        """Check everything that can be checked without building a pair.

        :raises HVAEError: for unknown settings and axes, axes without values or with one value twice, and whatever
            :class:`Settings` refuses at any point of the grid.
        """
        known = [f.name for f in fields(Settings)]
        for kind, given in (("setting", settings), ("axis", axes)):
            for name in given:
                if name not in known:
                    raise unknown(kind, name, known)
        if both := sorted(settings.keys() & axes.keys()):
            raise HVAEError(f"{', '.join(both)} cannot be a setting of all runs and an axis; give it once")
        if not axes:
            raise HVAEError("a sweep needs at least one axis, such as {'dim_z2': [5, 20, 70]}")
        listed: dict[str, list[Any]] = {}
        for name, values in axes.items():
            if isinstance(values, str) or not hasattr(values, "__iter__"):
                raise HVAEError(f"axis {name} is a sequence of values, got {values!r}; one value is a setting")
            listed[name] = [_plain(value) for value in values]
            if not listed[name] or len(set(map(_written, listed[name]))) < len(listed[name]):
                raise HVAEError(f"axis {name} needs values, each of them once; got {listed[name]}")
        design = cls({name: _plain(value) for name, value in settings.items()}, listed)
        sizes = {member.size for member in design.members().values()}
        if len(sizes) > 1:
            raise HVAEError(f"the runs of a sweep share their patches, but these are of {sorted(sizes)} pixels")
        return design

    def points(self) -> list[dict[str, Any]]:
        """The points of the grid, the last axis fastest."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]

    def members(self) -> dict[str, Settings]:
        """The settings of every run by the name of its directory, in the order of :meth:`points`."""
        return {directory_name(point): Settings(**self.settings, **point) for point in self.points()}

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return next(iter(self.members().values())).size

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"settings": self.settings, "axes": self.axes}


def directory_name(point: Mapping[str, Any]) -> str:
    """``dim_z2=20,seed=0``: readable, and the same in every session."""
    return ",".join(f"{name}={_written(value)}" for name, value in point.items())


def _written(value: Any) -> str:
    return re.sub(r"[^\w.+-]", "_", str(value).replace(":", "-").replace(" ", ""))


def _plain(value: Any) -> Any:
    """numpy scalars as Python's."""
    return value.item() if hasattr(value, "item") else value


class SweepDirectory:
    """A sweep on disk: ``sweep.json`` (design), ``patches.nc`` (images of all runs), ``sweep.nc`` (results), and one run
    directory a member."""

    def __init__(self, path: Path, design: Design):
        self.path, self.design = path, design

    @property
    def patches(self) -> Path:
        """The patches that every run is trained on."""
        return self.path / "patches.nc"

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], design: Design, data: PatchData | str | os.PathLike[str] | Mapping[str, Any]
    ) -> SweepDirectory:
        """Begin a sweep, or go on with the one in ``path`` if it is of the same design and data.

        :raises HVAEError: for another design, naming the differences; a directory that holds something else; patches of
            another size.
        """
        path = Path(path)
        check_directory(path)
        patches, source = _read(data)
        if patches is not None and (found := patches.train.sizes["pixel"]) != design.pixels:
            raise HVAEError(f"the patches have {found} pixels and the models of the sweep {design.pixels}; cut patches of "
                            "their size, or set pixels")  # fmt: skip
        described = json.loads(json.dumps({**design.to_dict(), "data": source}))
        file = path / "sweep.json"
        if file.is_file():
            _compare(file, described)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise HVAEError(f"{path} exists and is no sweep (it has no sweep.json); choose another directory")
        directory = cls(path, design)
        if not directory.patches.is_file() and patches is None:
            patches = natural_patches(side_of(design.pixels, "the sweep"), **source)
        if not file.is_file():
            path.mkdir(parents=True, exist_ok=True)
            full = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **described, "versions": versions(),
                    "git_revision": git_revision(), "created": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
            write_atomically(file, lambda partial: partial.write_text(json.dumps(full, indent=1), encoding="utf-8"))
        if not directory.patches.is_file():
            assert patches is not None
            patches.save(directory.patches)
        return directory


def _read(data: PatchData | str | os.PathLike[str] | Mapping[str, Any]) -> tuple[PatchData | None, dict[str, Any]]:
    """Patches that are at hand already, and what is written down of them; or how to cut them."""
    if isinstance(data, Mapping):
        known = set(inspect.signature(natural_patches).parameters) - {"size"}
        for name in data:
            if name not in known:
                raise unknown("option of natural_patches", name, known)
        return None, {name: str(value) if isinstance(value, os.PathLike) else value for name, value in data.items()}
    if not isinstance(data, PatchData):
        if Path(data).suffix != ".nc":
            return None, {"source": str(data)}
        data = PatchData.load(data)
    sets = {name: digest(dataset["x"].values) for name, dataset in (("train", data.train), ("test", data.test))}
    return data, {**sets, "provenance": data.provenance}


def _compare(file: Path, described: Mapping[str, Any]) -> None:
    mend = "delete it to begin the sweep again (finished runs are kept), or choose another directory"
    recorded = read_json(file, mend)
    if not isinstance(recorded, dict):
        raise HVAEError(f"{file} holds no design of a sweep; {mend}")
    if recorded.get("schema") != SCHEMA or recorded.get("schema_version") != SCHEMA_VERSION:
        raise HVAEError(f"{file} has schema {recorded.get('schema')} version {recorded.get('schema_version')}, expected "
                        f"{SCHEMA} version {SCHEMA_VERSION}")  # fmt: skip
    if found := differences(described, {key: recorded.get(key) for key in described}):
        found = [line.replace(" in the run", " in the directory") for line in found[:5]]
        raise HVAEError(
            f"{file.parent} holds a sweep of another design ({'; '.join(found)}); give its settings, or another directory"
        )
