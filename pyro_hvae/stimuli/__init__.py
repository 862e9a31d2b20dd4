"""What is shown: images and their preprocessing, one function a kind. Needs neither torch nor pyro."""

from pyro_hvae.stimuli.dead_leaves import dead_leaves
from pyro_hvae.stimuli.digits import digits
from pyro_hvae.stimuli.displays import as_patch_data, read_transform, stimulus_set
from pyro_hvae.stimuli.illusory import illusory_contours
from pyro_hvae.stimuli.intensity import IntensityMap
from pyro_hvae.stimuli.masks import mask_of, masked
from pyro_hvae.stimuli.natural import natural_patches
from pyro_hvae.stimuli.optic_flow import optic_flow
from pyro_hvae.stimuli.parametric import bars, differences_of_gaussians, edges, gabors, gratings, plaids
from pyro_hvae.stimuli.patches import PatchData, concatenate, patch_dataset
from pyro_hvae.stimuli.pickles import RefusedPickle, read_pickle
from pyro_hvae.stimuli.pixels import PixelDecoding, pixel_decoding
from pyro_hvae.stimuli.published import published_patches
from pyro_hvae.stimuli.selections import contrast_matched, contrast_of, disjoint_subsets, highest_contrast
from pyro_hvae.stimuli.sprites import Sprites, sprites
from pyro_hvae.stimuli.synthesised import synthesised_patches
from pyro_hvae.stimuli.textures import texture_patches
from pyro_hvae.stimuli.whitening import Whitening, kept_components

__all__ = [
    "IntensityMap",
    "PatchData",
    "PixelDecoding",
    "RefusedPickle",
    "Sprites",
    "Whitening",
    "as_patch_data",
    "bars",
    "concatenate",
    "contrast_matched",
    "contrast_of",
    "dead_leaves",
    "differences_of_gaussians",
    "digits",
    "disjoint_subsets",
    "edges",
    "gabors",
    "gratings",
    "highest_contrast",
    "illusory_contours",
    "kept_components",
    "mask_of",
    "masked",
    "natural_patches",
    "optic_flow",
    "patch_dataset",
    "pixel_decoding",
    "plaids",
    "published_patches",
    "read_pickle",
    "read_transform",
    "sprites",
    "stimulus_set",
    "synthesised_patches",
    "texture_patches",
]
