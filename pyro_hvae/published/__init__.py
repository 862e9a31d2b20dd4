"""Published systems by name."""

from pyro_hvae.published.presets import PRESETS, Preset, Training, build, preset

__all__ = ["PRESETS", "Preset", "Training", "build", "preset"]
