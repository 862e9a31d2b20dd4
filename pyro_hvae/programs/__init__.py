"""What is believed: graphical models as Pyro programs."""

from pyro_hvae.programs.contrast import ContrastGuide, ContrastModel
from pyro_hvae.programs.guides import BottomUpGuide, MeanFieldGuide, TopDownGuide
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.programs.models import GenerativeModel, LinearModel, MarkovModel, SkipModel
from pyro_hvae.programs.pair import GUIDES, HVAE, MODELS, from_config, make_guide
from pyro_hvae.programs.product import LaplaceNormalProduct
from pyro_hvae.programs.program import LayeredProgram, Program

__all__ = [
    "GUIDES", "HVAE", "MODELS", "BottomUpGuide", "ContrastGuide", "ContrastModel", "GenerativeModel", "LadderGuide",
    "LaplaceNormalProduct", "LayeredProgram", "LinearModel", "MarkovModel", "MeanFieldGuide", "Program", "SkipModel",
    "TopDownGuide", "from_config", "make_guide",
]  # fmt: skip
