"""What a run records of itself in ``config.json``: its parts, and what must stay the same when it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_hvae.errors import HVAEError

RECORDED = ("vae", "objective", "fit", "data")


def fingerprint(config: Mapping[str, Any]) -> str:
    """See :attr:`RunDirectory.fingerprint`."""
    return _digest_of(comparable(config))


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in a run that goes on. Of the data that is their digest, not where they were read from."""
    recorded = {key: config[key] for key in RECORDED}
    recorded["fit"] = {k: v for k, v in config["fit"].items() if k != "steps"}
    recorded["data"] = {k: v for k, v in config["data"].items() if k != "provenance"}
    return recorded


def earlier_fingerprint(config: Mapping[str, Any]) -> str:
    """The digest in checkpoints of runs that were begun when the provenance of the data was part of it."""
    return _digest_of(comparable(config) | {"data": config["data"]})


def _digest_of(recorded: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(recorded, sort_keys=True).encode(), digest_size=16).hexdigest()


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two configurations differ, as ``field: ours, theirs``."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} given, {b!r} in the run")
    return found


#: Kinds of the parts of ``config.json`` that every run has, and of what some have.
_PARTS: dict[tuple[str, ...], type] = {
    ("vae",): dict,
    ("vae", "model"): dict,
    ("vae", "guide"): dict,
    ("objective",): dict,
    ("fit",): dict,
    ("data",): dict,
    ("data", "provenance"): dict,
}
_SOMETIMES: dict[str, type] = {"starts": list, "compile": bool, "packed": dict, "transform": bool}


def check_record(config: Any, file: Path, mend: str) -> None:
    """Refuse a ``config.json`` that lacks a part, or has one of another kind."""
    if not isinstance(config, dict):
        raise HVAEError(f"{file} holds a {type(config).__name__} instead of the record of a run; {mend}")
    for names, kind in _PARTS.items():
        part: Any = config
        for name in names:
            part = part.get(name)
        if not isinstance(part, kind):
            raise HVAEError(f"{file} is damaged: {'.'.join(names)} is {part!r:.60}, not a {kind.__name__}; {mend}")
    for name, kind in _SOMETIMES.items():
        if name in config and not isinstance(config[name], kind):
            raise HVAEError(f"{file} is damaged: {name} is {config[name]!r:.60}, not a {kind.__name__}; {mend}")


def numbers(value: Any) -> list[int]:
    """Every whole number in a part of a configuration."""
    if isinstance(value, Mapping):
        return [n for each in value.values() for n in numbers(each)]
    if isinstance(value, list):
        return [n for each in value for n in numbers(each)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []
