"""Published systems by name, and how they are trained."""

from pyro_hvae.published.build import build
from pyro_hvae.published.presets import PRESETS, Preset, Training, preset
from pyro_hvae.published.recipes import RECIPES, Recipe, recipe

__all__ = ["PRESETS", "RECIPES", "Preset", "Recipe", "Training", "build", "preset", "recipe"]
