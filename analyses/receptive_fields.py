"""Receptive fields of z1 by regression of posterior means on images, against projective fields."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, open_posterior, receptive_fields
from pyro_hvae.analysis.receptive_fields import plot_receptive_fields
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["receptive_fields"].require(tree)
        found = receptive_fields(tree)
    print(numbers(found))
    linear = found["unit_explained"].to_series().nlargest(5)
    print(f"  most linear units, share explained: {linear.round(3).to_dict()}")
    picture = plot_receptive_fields(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "receptive_fields", __doc__))
