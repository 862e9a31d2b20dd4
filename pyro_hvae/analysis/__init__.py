"""What is read off posterior files: xarray in, xarray out. Imports neither torch nor pyro."""

from __future__ import annotations

import importlib
from typing import Any

from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.aggregate_posterior import aggregate_posterior
from pyro_hvae.analysis.ancestral_samples import ancestral_samples
from pyro_hvae.analysis.bound_terms import bound_terms
from pyro_hvae.analysis.chain_convergence import chain_convergence
from pyro_hvae.analysis.contextual_prior import contextual_prior
from pyro_hvae.analysis.contrast_response import contrast_response
from pyro_hvae.analysis.contrast_uncertainty import contrast_uncertainty
from pyro_hvae.analysis.cross_orientation import cross_orientation
from pyro_hvae.analysis.exciting_images import exciting_images
from pyro_hvae.analysis.gabor_fits import gabor_fits
from pyro_hvae.analysis.grating_tuning import grating_tuning
from pyro_hvae.analysis.inference_gap import inference_gap
from pyro_hvae.analysis.inpainting import inpainting
from pyro_hvae.analysis.layer_dependence import layer_dependence
from pyro_hvae.analysis.modulation_fields import modulation_fields
from pyro_hvae.analysis.neural_prediction import neural_prediction, read_responses
from pyro_hvae.analysis.noise_correlations import noise_correlations
from pyro_hvae.analysis.posterior_agreement import posterior_agreement
from pyro_hvae.analysis.projective_fields import projective_fields
from pyro_hvae.analysis.receptive_fields import receptive_fields
from pyro_hvae.analysis.reconstruction import reconstructions
from pyro_hvae.analysis.results import collect
from pyro_hvae.analysis.sparseness import sparseness
from pyro_hvae.analysis.surround_suppression import surround_suppression
from pyro_hvae.analysis.texture_decoding import decode_family
from pyro_hvae.analysis.texture_modulation import texture_modulation
from pyro_hvae.analysis.texture_selectivity import texture_selectivity
from pyro_hvae.analysis.time_course import time_course
from pyro_hvae.analysis.trust import trust
from pyro_hvae.analysis.unit_clusters import unit_clusters
from pyro_hvae.analysis.v1_scorecard import v1_scorecard
from pyro_hvae.storage.posterior_file import open_posterior

#: Of whole reports; their home stands above this package, which must not import it.
_REPORT = ("ANALYSES", "Analysis", "active_by_size", "analyse", "bound_by_particles")

__all__ = [
    "ANALYSES",
    "Analysis",
    "active_by_size",
    "active_dimensions",
    "aggregate_posterior",
    "analyse",
    "ancestral_samples",
    "bound_by_particles",
    "bound_terms",
    "chain_convergence",
    "collect",
    "contextual_prior",
    "contrast_response",
    "contrast_uncertainty",
    "cross_orientation",
    "decode_family",
    "exciting_images",
    "gabor_fits",
    "grating_tuning",
    "inference_gap",
    "inpainting",
    "layer_dependence",
    "modulation_fields",
    "neural_prediction",
    "noise_correlations",
    "open_posterior",
    "posterior_agreement",
    "projective_fields",
    "read_responses",
    "receptive_fields",
    "reconstructions",
    "sparseness",
    "surround_suppression",
    "texture_modulation",
    "texture_selectivity",
    "time_course",
    "trust",
    "unit_clusters",
    "v1_scorecard",
]


def __getattr__(name: str) -> Any:
    if name in _REPORT:
        return getattr(importlib.import_module("pyro_hvae.report"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
