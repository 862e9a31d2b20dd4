"""Noise and signal correlations of z1 and their correspondence (Csikor et al. 2022, Fig. 3d-g; Vas 2024)."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, noise_correlations, open_posterior
from pyro_hvae.analysis.noise_correlations_figure import plot_noise_correlations
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["noise_correlations"].require(tree)
        found = noise_correlations(tree, repeats=5, set_size=100, permutations=500, seed=0)
    print(numbers(found))
    if "matrix" in found:  # not where all noise correlations are zero by construction
        for family in found["noise_family"].values:
            best = found["matrix"].sel(noise_family=family).idxmax("signal_family").item()
            print(f"  noise correlations of {family} follow best the signal correlations of {best}")
    picture = plot_noise_correlations(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "noise_correlations", __doc__))
