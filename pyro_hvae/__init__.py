"""pyro_hvae: hierarchical variational autoencoders of early visual cortex as Pyro model/guide pairs.

    import pyro_hvae as hvae
    vae = hvae.build("TDVAE20")
    data = hvae.stimuli.natural_patches(size=20)
    run = hvae.fit(vae, data, steps=5000, out="runs/first")
    other = vae.with_guide("bottom_up")
    tree = hvae.export_posterior(vae, data, path="runs/first/posterior.nc")

Names are loaded when first used, so that ``pyro_hvae.analysis`` and ``pyro_hvae.storage`` need neither torch nor pyro.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

_HOMES = {
    "pyro_hvae.programs": (
        "HVAE", "BottomUpGuide", "ContrastGuide", "ContrastModel", "GenerativeModel", "LadderGuide", "LaplaceNormalProduct",
        "LinearModel", "MarkovModel", "MeanFieldGuide", "Program", "SkipModel", "TopDownGuide",
    ),
    "pyro_hvae.published": ("PRESETS", "build"),
    "pyro_hvae.starts": ("start_from_energies", "start_from_ica", "start_in_linear_regime"),
    "pyro_hvae.bounds.objectives": ("ELBO", "ImportanceWeightedELBO", "RenyiELBO"),
    "pyro_hvae.published.schedules": ("Schedule",),
    "pyro_hvae.training.fit": ("fit",),
    "pyro_hvae.training.ensemble": ("fit_ensemble",),
    "pyro_hvae.training.callbacks": ("Callback", "EarlyStopping", "TrainingState"),
    "pyro_hvae.training.loggers": ("CSVLog", "TensorBoardLog"),
    "pyro_hvae.training.watch": ("WatchPage",),
    "pyro_hvae.training.training_loop": ("Run",),
    "pyro_hvae.training.run_directory": ("load",),
    "pyro_hvae.sweeps.run": ("sweep",),
    "pyro_hvae.sampling.evidence": ("bdmc", "evidence_ais", "evidence_importance_sampling"),
    "pyro_hvae.sampling.reference": ("nuts", "reference_posterior"),
    "pyro_hvae.sampling.gibbs": ("gibbs",),
    "pyro_hvae.export.audit": ("audit",),
    "pyro_hvae.export.posterior": ("export_posterior",),
    "pyro_hvae.export.from_pyro": ("from_pyro",),
    "pyro_hvae.physiology.measure": ("measure_physiology",),
    "pyro_hvae.export.packing": ("pack",),
    "pyro_hvae.export.references": ("load_reference", "references"),
    "pyro_hvae.densities.yardsticks": ("yardsticks",),
    "pyro_hvae.storage.posterior_file": ("open_posterior",),
    "pyro_hvae.storage.physiology_file": ("open_physiology",),
    "pyro_hvae.errors": ("HVAEError",),
}  # fmt: skip
_SUBPACKAGES = ("analysis", "physiology", "programs", "report", "stimuli", "storage")
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
