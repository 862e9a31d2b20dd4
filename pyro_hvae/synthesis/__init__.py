"""Texture synthesis: images with the statistics of an example. This is where stimuli need torch.

Portilla & Simoncelli (IJCV 40, 49–71, 2000) with plenoptic's model, loss and optimiser, as used by Csikor et al. 2022
(arXiv 2206.00436); and one layer of random filters (Ustyuzhaninov 2022, doctoral thesis, Tübingen; [U22]).
"""

from pyro_hvae.synthesis.families import METHODS, synthesise, synthesised_textures
from pyro_hvae.synthesis.portilla_simoncelli import portilla_simoncelli, portilla_simoncelli_loss
from pyro_hvae.synthesis.random_features import random_features, random_linear
from pyro_hvae.synthesis.result import Synthesis

__all__ = [
    "METHODS",
    "Synthesis",
    "portilla_simoncelli",
    "portilla_simoncelli_loss",
    "random_features",
    "random_linear",
    "synthesise",
    "synthesised_textures",
]
