"""Images against the means of their posterior predictive."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, open_posterior, reconstructions
from pyro_hvae.analysis.reconstruction import plot_reconstruction
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["reconstruction"].require(tree)
        found = reconstructions(tree)
    print(numbers(found))
    for name, values in found["image_explained_variance"].to_series().groupby(found["image_set"].values):
        low, high = values.quantile([0.25, 0.75])
        print(f"  {name}: explained variance of the middle half of the images {low:.3f} to {high:.3f}")
    picture = plot_reconstruction(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "reconstruction", __doc__))
