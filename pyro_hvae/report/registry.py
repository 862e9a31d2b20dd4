"""Every analysis in the order of the report. A new one is a module and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xarray as xr

from pyro_hvae.analysis.active_dimensions import active_dimensions, plot_active_dimensions
from pyro_hvae.analysis.aggregate_posterior import aggregate_posterior, plot_aggregate_posterior
from pyro_hvae.analysis.ancestral_samples import ancestral_samples, plot_ancestral_samples
from pyro_hvae.analysis.bound_terms import bound_terms, plot_bound_terms
from pyro_hvae.analysis.contextual_prior import contextual_prior, plot_contextual_prior
from pyro_hvae.analysis.gabor_fits import gabor_fits, plot_gabor_fits
from pyro_hvae.analysis.guide_audit import guide_audit, plot_guide_audit
from pyro_hvae.analysis.inpainting import inpainting, plot_inpainting
from pyro_hvae.analysis.noise_correlations import noise_correlations
from pyro_hvae.analysis.noise_correlations_figure import plot_noise_correlations
from pyro_hvae.analysis.projective_fields import plot_projective_fields, projective_fields
from pyro_hvae.analysis.receptive_fields import plot_receptive_fields, receptive_fields
from pyro_hvae.analysis.reconstruction import plot_reconstruction, reconstructions
from pyro_hvae.analysis.sparseness import plot_sparseness, sparseness
from pyro_hvae.analysis.style import Picture
from pyro_hvae.analysis.texture_decoding import decode_family, plot_texture_decoding
from pyro_hvae.analysis.texture_selectivity import plot_texture_selectivity, texture_selectivity
from pyro_hvae.analysis.trust import plot_trust, trust
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.report.comparisons import (
    active_by_size,
    bound_by_particles,
    plot_active_by_size,
    plot_bound_by_particles,
)
from pyro_hvae.storage.posterior_file import schema, sites


@dataclass(frozen=True)
class Analysis:
    """One analysis: ``function(tree)`` gives a Dataset, ``plot(dataset)`` a picture of it.

    ``needs`` lists what must be in the file as ``group/variable``, or two of which one must be there joined by ``or``;
    ``group/*`` stands for all that the schema asks of that group for the layers of the file. ``title`` heads its section of
    the report, whose table at a glance shows the quantities whose names start with one of ``headlines``.
    """

    name: str
    title: str
    function: Callable[[xr.DataTree], xr.Dataset]
    plot: Callable[[xr.Dataset], Picture]
    needs: tuple[str, ...]
    headlines: tuple[str, ...]

    def missing(self, tree: xr.DataTree) -> list[str]:
        """What the analysis needs and the file lacks."""
        wanted: list[str] = []
        for need in self.needs:
            group, name = need.split("/", 1)
            wanted += [f"{group}/{v}" for v in schema(sites(tree) or ["z1"])[group]] if name == "*" else [need]
        return [need for need in dict.fromkeys(wanted) if not any(_has(tree, path) for path in need.split(" or "))]

    def run(self, tree: xr.DataTree) -> xr.Dataset:
        """Apply the function. Raises HVAEError, naming what is missing, where the file lacks what it needs."""
        if missing := self.missing(tree):
            raise HVAEError(f"{self.name} does not apply: the file lacks {', '.join(missing)}")
        return self.function(tree)

    def picture(self, dataset: xr.Dataset) -> Picture:
        """The figure of a result of :meth:`run`, and its caption."""
        return self.plot(dataset)


def _has(tree: xr.DataTree, path: str) -> bool:
    group, name = path.split("/")
    return group in tree.children and name in tree[group]


MOMENTS = ("posterior_moments/*", "observed_data/x", "constant_data/A")

ANALYSES: dict[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        Analysis(
            "trust", "When to believe the posterior", trust, plot_trust,
            needs=("sample_stats/pareto_k or evidence/pareto_k", "sample_stats/ess or evidence/ess"), headlines=("trusted",),
        ),
        Analysis(
            "bound_terms", "Bound and its terms", bound_terms, plot_bound_terms,
            needs=("bound/*",), headlines=(
                "bound[natural, elbo]", "bound[texture, elbo]", "evidence[", "elbo_minus_yardstick", "evidence_minus_yardstick",
            ),
        ),
        Analysis(
            "active_dimensions", "Active dimensions", active_dimensions, plot_active_dimensions,
            needs=MOMENTS, headlines=("count", "kl"),
        ),
        Analysis(
            "aggregate_posterior", "Aggregate posterior against the prior", aggregate_posterior, plot_aggregate_posterior,
            needs=MOMENTS, headlines=("divergence",),
        ),
        Analysis(
            "projective_fields", "Projective fields", projective_fields, plot_projective_fields,
            needs=(*MOMENTS, "constant_data/*"), headlines=("area",),
        ),
        Analysis(
            "gabor_fits", "Gabor fits of z1 fields", gabor_fits, plot_gabor_fits,
            needs=MOMENTS, headlines=("localized_count", "goodness[localized]"),
        ),
        Analysis(
            "receptive_fields", "Receptive fields of z1", receptive_fields, plot_receptive_fields,
            needs=MOMENTS, headlines=("similarity",),
        ),
        Analysis(
            "contextual_prior", "Contextual prior: z2 on z1", contextual_prior, plot_contextual_prior,
            needs=(*MOMENTS, "constant_data/z2_to_z1_location", "constant_data/z2_to_z1_log_scale", "constant_data/z2_field"),
            headlines=("effect",),
        ),
        Analysis(
            "sparseness", "Sparseness of z1", sparseness, plot_sparseness,
            needs=MOMENTS, headlines=("population[natural, treves_rolls]", "lifetime[natural, treves_rolls]"),
        ),
        Analysis(
            "texture_decoding", "Texture family decoding", decode_family, plot_texture_decoding,
            needs=("observed_data/x", "posterior_moments/*", "constant_data/family", "constant_data/split"),
            headlines=("accuracy",),
        ),
        Analysis(
            "texture_selectivity", "Texture-selective z2 dimensions", texture_selectivity, plot_texture_selectivity,
            needs=(*MOMENTS, "posterior_moments/z2_mean", "constant_data/family", "constant_data/split"),
            headlines=("selective_count",),
        ),
        Analysis(
            "noise_correlations", "Noise and signal correlations", noise_correlations, plot_noise_correlations,
            needs=MOMENTS, headlines=("magnitude", "correspondence[within]", "correspondence[across]"),
        ),
        Analysis(
            "reconstruction", "Reconstruction", reconstructions, plot_reconstruction,
            needs=("observed_data/x", "posterior_predictive/x_mean"), headlines=("explained_variance",),
        ),
        Analysis(
            "inpainting", "Inpainting", inpainting, plot_inpainting,
            needs=("observed_data/mask", "observed_data/x", "posterior_predictive/x_mean"), headlines=("slope",),
        ),
        Analysis(
            "ancestral_samples", "Ancestral samples", ancestral_samples, plot_ancestral_samples,
            needs=("prior_predictive/x_mean", "observed_data/x", "constant_data/sigma"),
            headlines=("kurtosis[samples]", "kurtosis[observed]"),
        ),
    )
}  # fmt: skip

#: Of audits (`pyro-hvae audit`) instead of posterior files.
GUIDE_AUDIT = Analysis(
    "guide_audit", "How much of the guide's posterior is real", guide_audit, plot_guide_audit,
    needs=(), headlines=("agreement[", "ceiling[guide", "real["),
)  # fmt: skip

REPORTED = ANALYSES | {GUIDE_AUDIT.name: GUIDE_AUDIT}


@dataclass(frozen=True)
class Comparison:
    """One figure of several files: ``function(results)`` of what the analysis ``of`` gave on each, ``plot(dataset)``."""

    name: str
    title: str
    of: str
    function: Callable[[Sequence[xr.Dataset]], xr.Dataset]
    plot: Callable[[xr.Dataset], Picture]


COMPARISONS: dict[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        Comparison(
            "bound_by_particles", "Bound by number of particles", "bound_terms", bound_by_particles, plot_bound_by_particles
        ),
        Comparison(
            "active_by_size", "Active dimensions by size of z2", "active_dimensions", active_by_size, plot_active_by_size
        ),
    )
}  # fmt: skip


def find(name: str) -> Analysis:
    """The analysis of that name. Raises HVAEError with the nearest one where there is none."""
    if name not in ANALYSES:
        raise unknown("analysis", name, ANALYSES)
    return ANALYSES[name]
