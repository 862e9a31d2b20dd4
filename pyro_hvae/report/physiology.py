"""Every analysis of physiology files in the order of the report."""

from __future__ import annotations

from pyro_hvae.analysis.contrast_response import contrast_response, plot_contrast_response
from pyro_hvae.analysis.contrast_uncertainty import contrast_uncertainty, plot_contrast_uncertainty
from pyro_hvae.analysis.cross_orientation import cross_orientation, plot_cross_orientation
from pyro_hvae.analysis.grating_tuning import grating_tuning, plot_grating_tuning
from pyro_hvae.analysis.surround_suppression import plot_surround_suppression, surround_suppression
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
    )
}
