"""Every analysis of physiology files in the order of the report."""

from __future__ import annotations

from pyro_hvae.analysis.contrast_response import contrast_response, plot_contrast_response
from pyro_hvae.analysis.contrast_uncertainty import contrast_uncertainty, plot_contrast_uncertainty
from pyro_hvae.analysis.cross_orientation import cross_orientation, plot_cross_orientation
from pyro_hvae.analysis.exciting_images import exciting_images, plot_exciting_images
from pyro_hvae.analysis.grating_tuning import grating_tuning, plot_grating_tuning
from pyro_hvae.analysis.surround_suppression import plot_surround_suppression, surround_suppression
from pyro_hvae.analysis.texture_modulation import plot_texture_modulation, texture_modulation
from pyro_hvae.analysis.time_course import plot_time_course, time_course
from pyro_hvae.analysis.unit_clusters import plot_unit_clusters, unit_clusters
from pyro_hvae.analysis.unit_responses import RULE
from pyro_hvae.analysis.v1_scorecard import plot_v1_scorecard, v1_scorecard
from pyro_hvae.report.needs import Headline, Measured
from pyro_hvae.report.registry import Analysis

#: Of physiology files (`pyro-hvae physiology`).
PHYSIOLOGY_ANALYSES: dict[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        Analysis(
            name="grating_tuning",
            title="Tuning to gratings",
            about="Orientation, spatial frequency and phase. A unit is judged by the harmonic in which its best grating"
            " drives it more, the mean F0 or the first harmonic F1 over phases; above F1/F0 = 1 it would be "
            "called simple, below complex (Skottun et al. 1991). Preferred values and bandwidths (full width at "
            "half height) are those of interpolated curves through the best grating. Circular variance: 1 - |sum "
            "R exp(2i theta)| / sum R (Ringach et al. 2002). " + RULE,
            function=grating_tuning,
            plot=plot_grating_tuning,
            needs=(Measured("gratings"),),
            headlines=(Headline("bandwidth"), Headline("circular_variance"), Headline("modulation")),
        ),
        Analysis(
            name="contrast_response",
            title="Contrast response",
            about="R_max c^n / (c^n + c50^n) (Albrecht & Hamilton 1982) fitted to the responses to each unit's own "
            "grating, full field. A linear unit has an exponent of 1 and never saturates; an energy has 2. " + RULE,
            function=contrast_response,
            plot=plot_contrast_response,
            needs=(Measured("contrast"),),
            headlines=(Headline("exponent"), Headline("saturating")),
        ),
        Analysis(
            name="surround_suppression",
            title="Size, annuli and surround suppression",
            about="Each unit's own grating at its place, in disks that grow and with a hole that grows. Suppression "
            "index: peak less plateau over peak (Cavanaugh et al. 2002); the plateau is the response to the "
            "largest disk, which covers the patch. What lies beyond the patch the model has never seen: "
            "suppression from farther away cannot be found here. " + RULE,
            function=surround_suppression,
            plot=plot_surround_suppression,
            needs=(Measured("size"), Measured("annulus")),
            headlines=(Headline("suppression"), Headline("suppressed")),
        ),
        Analysis(
            name="cross_orientation",
            title="Cross-orientation suppression",
            about="Each unit's own grating with and without one at right angles of the same contrast, full field. A "
            "linear unit has an index of 0. " + RULE,
            function=cross_orientation,
            plot=plot_cross_orientation,
            needs=(Measured("plaid"),),
            headlines=(Headline("suppression"),),
        ),
        Analysis(
            name="v1_scorecard",
            title="Scorecard: z1 beside macaque V1",
            about="How properties of z1 units are distributed beside published histograms of neurons (sources under the"
            " picture; counts as public benchmark code has them). Similarity: 1 less the Kolmogorov-Smirnov "
            "distance over the largest possible one, of samples as large as the neurons' (Marques et al. 2021). "
            "The ceiling is what the neurons reach against themselves. The score says that distributions are "
            "alike, not that units are.",
            function=v1_scorecard,
            plot=plot_v1_scorecard,
            needs=(Measured("gratings"), Measured("size")),
            headlines=(Headline("mean_score"),),
        ),
        Analysis(
            name="contrast_uncertainty",
            title="Posterior variance against contrast",
            about="Natural images multiplied by a scale, in the space that the model describes. More contrast is more "
            "evidence, so an observer who knows what noise is gets surer of it; in standard variational "
            "autoencoders the posterior variance of z1 rises instead.",
            function=contrast_uncertainty,
            plot=plot_contrast_uncertainty,
            needs=(Measured("natural_contrast"),),
            headlines=(Headline("slope"),),
        ),
        Analysis(
            name="time_course",
            title="Time course of inference, and illusory contours",
            about="Langevin dynamics of the model's own posterior from the onset of an image, the mean over chains; one time "
            "constant is that of a unit that is independent of the others. Latency: time to half of the last response. "
            "Induced: (R - R0) / (|R| + |R0|), R the answer to a Kanizsa figure, R0 to its inducers turned outward, of "
            "units that answer the contour drawn as a line.",
            function=time_course,
            plot=plot_time_course,
            needs=(Measured("time_course"),),
            headlines=(Headline("latency"), Headline("induced")),
        ),
        Analysis(
            name="texture_modulation",
            title="Textures against noise of the same spectrum",
            about="(R_texture - R_noise) / (R_texture + R_noise), R the mean response over patches (Freeman et al. 2013, who "
            "found it in V2 and hardly in V1). 0 for a unit that tells no more than the spectrum. " + RULE,
            function=texture_modulation,
            plot=plot_texture_modulation,
            needs=(Measured("texture"),),
            headlines=(Headline("overall"), Headline("difference")),
        ),
        Analysis(
            name="exciting_images",
            title="Most and least exciting images",
            about="Images of a fixed norm, inside the subspace that whitening keeps, found by gradient ascent through the "
            "guide from several starts. A unit with one best image finds it from every start; a unit that is invariant to "
            "phase or place finds several, and they are not alike.",
            function=exciting_images,
            plot=plot_exciting_images,
            needs=(Measured("optima"),),
            headlines=(Headline("similarity"), Headline("gain")),
        ),
        Analysis(
            name="unit_clusters",
            title="Kinds of units",
            about="Units clustered by their tuning after each has been turned to one orientation (Ustyuzhaninov 2022): a "
            "Gaussian mixture on principal components, as many clusters as the Bayesian information criterion chooses, found "
            "again in random 80% of the units. " + RULE,
            function=unit_clusters,
            plot=plot_unit_clusters,
            needs=(Measured("gratings"),),
            headlines=(Headline("clusters"), Headline("stability")),
        ),
    )
}
