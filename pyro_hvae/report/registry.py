"""Every analysis in the order of the report, with what is said of it there. A new one is a module and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from pyro_hvae.analysis.active_dimensions import active_dimensions, plot_active_dimensions
from pyro_hvae.analysis.aggregate_posterior import aggregate_posterior, plot_aggregate_posterior
from pyro_hvae.analysis.ancestral_samples import ancestral_samples, plot_ancestral_samples
from pyro_hvae.analysis.bound_terms import bound_terms, plot_bound_terms
from pyro_hvae.analysis.chain_convergence import chain_convergence, plot_chain_convergence
from pyro_hvae.analysis.contextual_prior import contextual_prior, plot_contextual_prior
from pyro_hvae.analysis.gabor_fits import gabor_fits, plot_gabor_fits
from pyro_hvae.analysis.guide_audit import guide_audit, plot_guide_audit
from pyro_hvae.analysis.inference_gap import PARTS, inference_gap, plot_inference_gap
from pyro_hvae.analysis.inpainting import inpainting, plot_inpainting
from pyro_hvae.analysis.layer_dependence import layer_dependence, plot_layer_dependence
from pyro_hvae.analysis.modulation_fields import modulation_fields, plot_modulation_fields
from pyro_hvae.analysis.noise_correlations import noise_correlations
from pyro_hvae.analysis.noise_correlations_figure import plot_noise_correlations
from pyro_hvae.analysis.posterior_agreement import plot_posterior_agreement, posterior_agreement
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
from pyro_hvae.report.needs import Group, Headline, Need, Variable
from pyro_hvae.storage.pareto_limits import GOOD_K


@dataclass(frozen=True)
class Analysis:
    """One analysis: ``function(tree)`` gives a Dataset, ``plot(dataset)`` a picture of it.

    ``title`` and ``about`` head its section of the report, whose table at a glance shows the ``headlines``.
    """

    name: str
    title: str
    about: str
    function: Callable[[xr.DataTree], xr.Dataset]
    plot: Callable[[xr.Dataset], Picture]
    needs: tuple[Need, ...]
    headlines: tuple[Headline, ...]

    def missing(self, tree: xr.DataTree) -> list[str]:
        """What the analysis needs and the file lacks."""
        return list(dict.fromkeys(phrase for need in self.needs for phrase in need.missing(tree)))

    def require(self, tree: xr.DataTree) -> None:
        """Raise HVAEError, naming what is missing, where the file lacks what the analysis needs."""
        if missing := self.missing(tree):
            raise HVAEError(f"{self.name} does not apply: the file lacks {', '.join(missing)}")

    def run(self, tree: xr.DataTree) -> xr.Dataset:
        """Apply the function to a file that has what it needs. Raises HVAEError as :meth:`require` and the function do."""
        self.require(tree)
        return self.function(tree)


X, X_MEAN = Variable("observed_data", "x"), Variable("posterior_predictive", "x_mean")
MOMENTS = Group("posterior_moments")
#: Which dimensions are active is judged by moments, images and projective fields.
ACTIVITY = (MOMENTS, X, Variable("constant_data", "A"))
LABELS = (Variable("constant_data", "family"), Variable("constant_data", "split"))

#: Of posterior files (`pyro-hvae export`).
ANALYSES: dict[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        Analysis(
            name="trust",
            title="When to believe the posterior",
            about="For which share of images the moments of the posterior can be trusted. The importance weights of an image, "
            "p(x, z) / q(z|x), say how far the guide is from the posterior. Moments can be trusted where the Pareto k-hat "
            f"of the weights lies below min({GOOD_K}, 1 - 1 / log10(S)) with S weights an image (Vehtari et al. 2024). Above "
            "it, importance resampling cannot mend the guide either. The weights are those of the draws in the file; in a "
            "file without draws, those from which its evidence was estimated.",
            function=trust,
            plot=plot_trust,
            needs=(
                Variable("sample_stats", "pareto_k") | Variable("evidence", "pareto_k"),
                Variable("sample_stats", "ess") | Variable("evidence", "ess"),
            ),
            headlines=(Headline("trusted"),),
        ),
        Analysis(
            name="chain_convergence",
            title="When to believe the sampler",
            about="Of a file made by a sampler of the model's own posterior: for which share of images its chains have met. "
            "They have where the split R-hat of every mean is below 1.01, its effective sample size at least 400, and the "
            "rank-normalised R-hat, which sees spreads and tails as well, below 1.05 (Vehtari et al. 2021). Each number is the "
            "worst over all latents.",
            function=chain_convergence,
            plot=plot_chain_convergence,
            needs=(Variable("sample_stats", "converged"),),
            headlines=(Headline("converged"),),
        ),
        Analysis(
            name="bound_terms",
            title="Bound and its terms",
            about="Mean over images of the ELBO, the reconstruction term and the KL divergence of every layer, un-annealed, in "
            "nats per image; log evidence beside it where the file has an estimate.",
            function=bound_terms,
            plot=plot_bound_terms,
            needs=(Group("bound"),),
            headlines=(
                Headline("bound", ("natural", "elbo")),
                Headline("bound", ("texture", "elbo")),
                Headline("evidence"),
                Headline("elbo_minus_yardstick"),
                Headline("evidence_minus_yardstick"),
            ),
        ),
        Analysis(
            name="inference_gap",
            title="Where the gap is",
            about="log p(x) minus the ELBO, split by cause: what q loses by being read off the image by a network instead of "
            "being found for each image (amortisation), for z1 and for the layers above, and what is left when it is found for "
            "each image (the families of q). The bound is a bound all the same; this says what would tighten it.",
            function=inference_gap,
            plot=plot_inference_gap,
            needs=tuple(Variable("gap", name) for name in (*PARTS, "pareto_k")),
            headlines=(Headline("total"),),
        ),
        Analysis(
            name="active_dimensions",
            title="Active dimensions",
            about="Which dimensions of each layer are in use. z1 is judged by the mean squared intensity of its projective "
            "fields (columns of A), deeper layers by the variance over images of their posterior means. The threshold "
            "lies in the middle of the largest gap between the two clusters on a log scale. Where there is one cluster "
            "only, or two that both lie under it, that is said and a fixed threshold decides: a z1 unit is active if it "
            "carries more than 1e-6 of the pixel variance, a deeper one if its posterior means vary by more than 0.01. "
            "Natural images are used where there are any, all images otherwise.",
            function=active_dimensions,
            plot=plot_active_dimensions,
            needs=ACTIVITY,
            headlines=(Headline("count"), Headline("kl")),
        ),
        Analysis(
            name="aggregate_posterior",
            title="Aggregate posterior against the prior",
            about="Posterior of each dimension of the top layer, averaged over images, against the prior Normal(0, 1). In a "
            "model that describes its images the two are the same. The posterior of an image is taken as normal with its "
            "mean and variance; their mixture over images has a density in closed form.",
            function=aggregate_posterior,
            plot=plot_aggregate_posterior,
            needs=ACTIVITY,
            headlines=(Headline("divergence"),),
        ),
        Analysis(
            name="projective_fields",
            title="Projective fields",
            about="What one unit of a layer adds to the image, and how many pixels that covers. The field of a z1 unit is its "
            "column of A. The field of a deeper unit is half the change of the mean image between +e and -e along its "
            "axis, all else at its prior mean; where that accounts for less than 5% of the variance of images along it, there "
            "is no field to speak of, and it is neither drawn nor counted. The area of a field is the participation ratio of "
            "its squared intensities, "
            "(sum f²)² / sum f⁴ in pixels: 1 for a single pixel, the number of pixels for a flat field, a third of it "
            "for Gaussian noise.",
            function=projective_fields,
            plot=plot_projective_fields,
            needs=(*ACTIVITY, Group("constant_data")),
            headlines=(Headline("area"),),
        ),
        Analysis(
            name="gabor_fits",
            title="Gabor fits of z1 fields",
            about="A Gabor function fitted to the projective field of every active z1 unit. A field is localized where the "
            "root mean square distance of its energy from its centre is less than 0.7 of that of a flat field (a grating or "
            "noise that fills the patch has about 1). The space-frequency uncertainty is the product of the spreads in "
            "space and frequency along and across the wave vector over its lowest value, Gabor's bound.",
            function=gabor_fits,
            plot=plot_gabor_fits,
            needs=ACTIVITY,
            headlines=(Headline("localized_count"), Headline("goodness", ("localized",))),
        ),
        Analysis(
            name="receptive_fields",
            title="Receptive fields of z1",
            about="The posterior mean of every active z1 unit regressed on the image (ridge regression). Half of the images "
            "fit, a quarter chooses the penalty, a quarter tests: there the share of the variance of the posterior mean "
            "is counted that a linear receptive field explains. Similarity is the cosine between a unit's receptive and "
            "projective field; below 1 the guide explains away what other units account for. Where the file has the "
            "guide's mean gradient d E[z1] / dx, its cosines with the other two stand beside, all within the directions "
            "in which the images vary.",
            function=receptive_fields,
            plot=plot_receptive_fields,
            needs=ACTIVITY,
            headlines=(Headline("similarity"),),
        ),
        Analysis(
            name="modulation_fields",
            title="What z2 does to z1",
            about="Which z1 units a z2 dimension makes louder or quieter: half the change of the log scale of p(z1|z2) between "
            "+e and -e along it, by place, orientation and frequency of the units' Gabor functions. A dimension that is a "
            "gain of all units, as contrast is, has a common share of 1; one that makes as much quieter as louder, of 0. "
            "How much of the rest place, orientation (one period in 180 degrees) and frequency explain is adjusted for "
            "the number of regressors: 0 where they say nothing.",
            function=modulation_fields,
            plot=plot_modulation_fields,
            needs=(
                *ACTIVITY,
                Variable("constant_data", "z2_to_z1_log_scale"),
                Variable("posterior_moments", "z2_mean"),
            ),
            headlines=(Headline("common"), Headline("explained")),
        ),
        Analysis(
            name="contextual_prior",
            title="Contextual prior: z2 on z1",
            about="What a z2 dimension does to the prior of z1: half the change of p(z1|z2) between +e and -e along it. The "
            "location effect is the root mean square over active z1 units of half the change of the location, the scale "
            "effect that of the logarithm of the scale. The contextual map of a dimension is the change of the log scale "
            "of the units at each pixel, weighted by the squares of their projective fields: which parts of the image it "
            "expects to vary more.",
            function=contextual_prior,
            plot=plot_contextual_prior,
            needs=(
                *ACTIVITY,
                Variable("constant_data", "z2_to_z1_location"),
                Variable("constant_data", "z2_to_z1_log_scale"),
                Variable("constant_data", "z2_field"),
            ),
            headlines=(Headline("effect"),),
        ),
        Analysis(
            name="layer_dependence",
            title="Uncertainty of z1 that comes through z2",
            about="Share of the posterior variance of the active z1 units that comes through z2, by the law of total variance: "
            "Var[E[z1 | z2, x]] over Var[z1 | x]. A factorised guide has none by construction; where the model's own "
            "posterior has some, such a guide is too sure of z1 (Ustyuzhaninov 2022).",
            function=layer_dependence,
            plot=plot_layer_dependence,
            needs=(*ACTIVITY, Variable("posterior_moments", "z1_variance_from_z2")),
            headlines=(Headline("share"),),
        ),
        Analysis(
            name="sparseness",
            title="Sparseness of z1",
            about="Sparseness of the posterior means of the active z1 units, over units for an image (population) and over "
            "images for a unit (lifetime). Treves-Rolls (Vinje & Gallant 2000) and Hoyer (2004): 0 where all responses "
            "are of one size, 1 where one of them differs from zero. Kurtosis: excess, of the signed responses; 0 for a "
            "normal and 3 for a Laplace distribution.",
            function=sparseness,
            plot=plot_sparseness,
            needs=ACTIVITY,
            headlines=(
                Headline("population", ("natural", "treves_rolls")),
                Headline("lifetime", ("natural", "treves_rolls")),
            ),
        ),
        Analysis(
            name="texture_decoding",
            title="Texture family decoding",
            about="The texture family decoded by multinomial logistic regression, trained on training images and scored on "
            "test images. Each repeat trains on a random subset, balanced over families, of 80% of the smallest family's "
            "training images; all test images are scored, every family with the same weight, so that chance is one over "
            "the number of families. A z2 that has learnt no more than contrast does not beat the patch norm.",
            function=decode_family,
            plot=plot_texture_decoding,
            needs=(X, MOMENTS, *LABELS),
            headlines=(Headline("accuracy"),),
        ),
        Analysis(
            name="texture_selectivity",
            title="Texture-selective z2 dimensions",
            about="Active z2 dimensions added one by one, each time the one that tells most of the texture family. The order "
            "is found on the training images by linear discriminant analysis, fitted to one half of them and judged on the "
            "other. The path ends to be selective where its accuracy comes within one standard error of its best; those "
            "dimensions are texture-selective, provided that the first of them beats chance. Accuracies are those of "
            "multinomial logistic regression on test images.",
            function=texture_selectivity,
            plot=plot_texture_selectivity,
            needs=(*ACTIVITY, Variable("posterior_moments", "z2_mean"), *LABELS),
            headlines=(Headline("selective_count"),),
        ),
        Analysis(
            name="noise_correlations",
            title="Noise and signal correlations",
            about="Noise correlations of localized z1 units, and whether they follow the signal correlations of a texture "
            "family. Noise correlation: correlation coefficient of two units under the posterior of one image, z2 "
            "marginalised, averaged over the images of a family. Signal correlation: correlation over the images of a "
            "family of the posterior means. Their correspondence is the correlation over unit pairs of the two, within a "
            "family and across families: the mean over random halves of images and units, whose standard deviation is the "
            "s.e. of the whole.",
            function=noise_correlations,
            plot=plot_noise_correlations,
            needs=ACTIVITY,
            headlines=(
                Headline("magnitude"),
                Headline("correspondence", ("within",)),
                Headline("correspondence", ("across",)),
            ),
        ),
        Analysis(
            name="reconstruction",
            title="Reconstruction",
            about="Each image against the mean of its posterior predictive. Of masked images only the pixels that were shown "
            "are compared.",
            function=reconstructions,
            plot=plot_reconstruction,
            needs=(X, X_MEAN),
            headlines=(Headline("explained_variance"),),
        ),
        Analysis(
            name="inpainting",
            title="Inpainting",
            about="Slopes of inpainted and reconstructed against original intensities, inside and outside the mask. Images of "
            "one mask radius are dealt at random to five disjoint subsets; in each, the posterior predictive mean of all "
            "pixels of a region is regressed on the original ones. A slope of 1 restores the image, 0 says nothing about "
            "it.",
            function=inpainting,
            plot=plot_inpainting,
            needs=(Variable("observed_data", "mask"), X, X_MEAN),
            headlines=(Headline("slope"),),
        ),
        Analysis(
            name="ancestral_samples",
            title="Ancestral samples",
            about="Pixel moments and spatial spectrum of samples from the prior and of natural images. The file holds the mean "
            "image of each ancestral sample. Observed images contain the observation noise as well, so its effect on the "
            "moments and the spectrum of the samples is added in closed form.",
            function=ancestral_samples,
            plot=plot_ancestral_samples,
            needs=(Variable("prior_predictive", "x_mean"), X, Variable("constant_data", "sigma")),
            headlines=(Headline("kurtosis", ("samples",)), Headline("kurtosis", ("observed",))),
        ),
    )
}

#: Of audits (`pyro-hvae audit`).
AUDIT_ANALYSES: dict[str, Analysis] = {
    "guide_audit": Analysis(
        name="guide_audit",
        title="How much of the guide's posterior is real",
        about="The moments of guide and importance-resampled guide against those of a reference sampler, image by image. "
        "Let r be the correlation coefficients of all pairs of the chosen z1 units under the posterior of one image, "
        "its noise correlations. Each source knows its own r up to sampling noise, which the two halves of its draws "
        "tell; real is the share of a source's correlation structure that is in the truth, freed of that noise.",
        function=guide_audit,
        plot=plot_guide_audit,
        needs=(),  # all that an audit has is checked when it is opened
        headlines=(Headline("agreement"), Headline("ceiling", ("guide",)), Headline("real")),
    )
}


@dataclass(frozen=True)
class Comparison:
    """One figure of several files: ``function(results)`` of what the analysis ``of`` gave on each, or of the opened files
    themselves where that is None; ``plot(dataset)``."""

    name: str
    title: str
    of: Analysis | None
    function: Callable[[Sequence[Any]], xr.Dataset]
    plot: Callable[[xr.Dataset], Picture]


COMPARISONS: dict[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        Comparison(
            name="bound_by_particles",
            title="Bound by number of particles",
            of=ANALYSES["bound_terms"],
            function=bound_by_particles,
            plot=plot_bound_by_particles,
        ),
        Comparison(
            name="active_by_size",
            title="Active dimensions by size of z2",
            of=ANALYSES["active_dimensions"],
            function=active_by_size,
            plot=plot_active_by_size,
        ),
        Comparison(
            name="posterior_agreement",
            title="How much of each guide's posterior is real",
            of=None,
            function=posterior_agreement,
            plot=plot_posterior_agreement,
        ),
    )
}


def find(name: str) -> Analysis:
    """The analysis of posterior files of that name. Raises HVAEError with the nearest one where there is none."""
    if name not in ANALYSES:
        raise unknown("analysis", name, ANALYSES)
    return ANALYSES[name]
