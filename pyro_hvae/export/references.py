"""Trained pairs that ship with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pyro_hvae
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs import HVAE
from pyro_hvae.training.run_directory import load

#: In a wheel beside the package's modules, in a clone in ``data/``.
_HOMES = (Path(pyro_hvae.__file__).parent / "reference", Path(pyro_hvae.__file__).parents[1] / "data" / "reference")


def references() -> dict[str, Path]:
    """Folders of the trained pairs that ship, by name; each a run packed by :func:`~pyro_hvae.export.packing.pack`."""
    for home in _HOMES:
        found = {file.parent.name: file.parent for file in sorted(home.glob("*/config.json"))}
        if found:
            return found
    raise HVAEError(
        f"no trained pairs are installed: neither {_HOMES[0]} nor {_HOMES[1]} holds any; install the wheel or clone the whole "
        "repository"
    )


def load_reference(name: str) -> HVAE:
    """A trained pair that ships, without network: ``load_reference("TDVAE20")``.

    :raises HVAEError: for an unknown name, naming the nearest.
    """
    found = references()
    if name not in found:
        raise unknown("reference", name, found, hint="See `pyro-hvae references`.")
    return load(found[name])


def table() -> list[dict[str, str]]:
    """One row a reference, as printed by ``pyro-hvae references``."""
    rows = []
    for name, folder in references().items():
        config = json.loads((folder / "config.json").read_bytes())
        packed = config["packed"]
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        rows.append(
            {
                "name": name,
                "preset": str(config["vae"]["preset"]),
                "guide": config["vae"]["guide"]["class"],
                "steps": f"{config['fit']['steps']:,}",
                "held-out ELBO": f"{packed['held_out_elbo']:.1f}",
                "MB": f"{size / 1e6:.1f}",
                "folder": str(folder),
            }
        )
    return rows
