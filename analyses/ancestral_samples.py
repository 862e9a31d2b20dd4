"""Ancestral samples of the generative model against natural images."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, ancestral_samples, open_posterior
from pyro_hvae.analysis.ancestral_samples import plot_ancestral_samples
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["ancestral_samples"].require(tree)
        found = ancestral_samples(tree)
    print(numbers(found))
    ratio = found["spectrum"].sel(which="samples") / found["spectrum"].sel(which="observed")
    for frequency, value in ratio.to_series().items():
        print(f"  {frequency:.2f} cycles per pixel: the samples have {value:.2f} of the power of the images")
    picture = plot_ancestral_samples(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "ancestral_samples", __doc__))
