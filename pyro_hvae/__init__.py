"""pyro_hvae: hierarchical variational autoencoders of early visual cortex as Pyro model/guide pairs.

    import pyro_hvae as hvae
    vae = hvae.build("TDVAE20")
    data = hvae.stimuli.natural_patches(size=20)
    run = hvae.fit(vae, data, steps=5000, out="runs/first")
    other = vae.with_guide("bottom_up")
    tree = hvae.export_posterior(vae, data, path="runs/first/posterior.nc")

Names are loaded when first used, so that ``pyro_hvae.analysis`` and ``pyro_hvae.files`` need neither torch nor pyro.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

_HOMES = {
    "pyro_hvae.programs": (
        "HVAE", "PRESETS", "BottomUpGuide", "GenerativeModel", "LinearModel", "MarkovModel", "MeanFieldGuide", "Program",
        "SkipModel", "TopDownGuide", "build", "start_from_energies",
        "start_in_linear_regime",
    ),
    "pyro_hvae.inference.objectives": ("ELBO", "ImportanceWeightedELBO", "RenyiELBO"),
    "pyro_hvae.inference.schedules": ("Schedule",),
    "pyro_hvae.inference.fit": ("fit",),
    "pyro_hvae.inference.ensemble": ("fit_ensemble",),
    "pyro_hvae.inference.loop": ("Run",),
    "pyro_hvae.sweeps.run": ("sweep",),
    "pyro_hvae.inference.runs": ("load",),
    "pyro_hvae.inference.evidence": ("bdmc", "evidence_ais", "evidence_importance_sampling"),
    "pyro_hvae.inference.reference": ("nuts", "reference_posterior"),
    "pyro_hvae.inference.gibbs": ("gibbs",),
    "pyro_hvae.inference.audit": ("audit",),
    "pyro_hvae.inference.posterior": ("export_posterior",),
    "pyro_hvae.files": ("open_posterior",),
    "pyro_hvae.errors": ("HVAEError",),
}  # fmt: skip
_SUBPACKAGES = ("analysis", "files", "inference", "programs", "stimuli")
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, *_SUBPACKAGES])
__version__ = version("pyro-hvae")


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
