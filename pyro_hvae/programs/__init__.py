"""What is believed: graphical models as Pyro programs."""

from pyro_hvae.programs.energies import start_from_energies
from pyro_hvae.programs.guides import BottomUpGuide, MeanFieldGuide, TopDownGuide
from pyro_hvae.programs.hvae import GUIDES, HVAE, MODELS, from_config, make_guide
from pyro_hvae.programs.models import GenerativeModel, LinearModel, MarkovModel, SkipModel
from pyro_hvae.programs.presets import PRESETS, Preset, Training, build, preset
from pyro_hvae.programs.program import LayeredProgram, Program
from pyro_hvae.programs.start import start_in_linear_regime

__all__ = [
    "GUIDES", "HVAE", "MODELS", "PRESETS", "BottomUpGuide", "GenerativeModel", "LayeredProgram", "LinearModel",
    "MarkovModel", "MeanFieldGuide", "Preset", "Program", "SkipModel", "TopDownGuide", "Training", "build",
    "from_config", "make_guide", "preset", "start_from_energies", "start_in_linear_regime",
]  # fmt: skip
