"""The report of one or several posterior files: every analysis that applies, on one page."""

from pyro_hvae.report.comparisons import active_by_size, bound_by_particles
from pyro_hvae.report.registry import ANALYSES, Analysis
from pyro_hvae.report.report import analyse

__all__ = ["ANALYSES", "Analysis", "active_by_size", "analyse", "bound_by_particles"]
