"""What is shown: natural image and texture patches with their preprocessing. Needs neither torch nor pyro."""

from pyro_hvae.stimuli.intensity import IntensityMap
from pyro_hvae.stimuli.natural import natural_patches
from pyro_hvae.stimuli.patches import PatchData, concatenate, patch_dataset
from pyro_hvae.stimuli.pickles import RefusedPickle, read_pickle
from pyro_hvae.stimuli.published import published_patches
from pyro_hvae.stimuli.textures import texture_patches
from pyro_hvae.stimuli.whitening import Whitening, kept_components

__all__ = [
    "IntensityMap",
    "PatchData",
    "RefusedPickle",
    "Whitening",
    "concatenate",
    "kept_components",
    "natural_patches",
    "patch_dataset",
    "published_patches",
    "read_pickle",
    "texture_patches",
]
