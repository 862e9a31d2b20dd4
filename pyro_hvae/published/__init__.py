"""Published systems by name, and how they are trained.

:func:`build` is loaded when first used, so that the command line can read the rest without torch.
"""

from __future__ import annotations

from typing import Any

from pyro_hvae.published.options import RECIPES, PairOptions, Training
from pyro_hvae.published.presets import PRESETS, Preset, PublishedTraining, preset
from pyro_hvae.published.recipes import Recipe, recipe

__all__ = [
    "PRESETS", "RECIPES", "PairOptions", "Preset", "PublishedTraining", "Recipe", "Training", "build", "preset", "recipe",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "build":
        from pyro_hvae.published.building import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
