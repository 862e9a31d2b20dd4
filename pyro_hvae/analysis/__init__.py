"""What is read off posterior files: xarray in, xarray out. Imports neither torch nor pyro."""

from pyro_hvae.analysis.across import active_by_size, bound_by_particles
from pyro_hvae.analysis.activity import active_dimensions
from pyro_hvae.analysis.aggregate import aggregate_posterior
from pyro_hvae.analysis.bound import bound_terms
from pyro_hvae.analysis.common import collect
from pyro_hvae.analysis.conditional import contextual_prior
from pyro_hvae.analysis.correlations import noise_correlations
from pyro_hvae.analysis.decoding import decode_family
from pyro_hvae.analysis.fields import projective_fields
from pyro_hvae.analysis.inpaint import inpainting
from pyro_hvae.analysis.receptive import receptive_fields
from pyro_hvae.analysis.reconstruction import reconstructions
from pyro_hvae.analysis.registry import ANALYSES, Analysis
from pyro_hvae.analysis.report import analyse
from pyro_hvae.analysis.samples import ancestral_samples
from pyro_hvae.analysis.selectivity import texture_selectivity
from pyro_hvae.analysis.sparse import sparseness
from pyro_hvae.analysis.tuning import gabor_fits
from pyro_hvae.analysis.verdict import trust
from pyro_hvae.files import open_posterior

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
    "collect",
    "contextual_prior",
    "decode_family",
    "gabor_fits",
    "inpainting",
    "noise_correlations",
    "open_posterior",
    "projective_fields",
    "receptive_fields",
    "reconstructions",
    "sparseness",
    "texture_selectivity",
    "trust",
]
