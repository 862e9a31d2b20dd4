"""Most and least exciting images of units, and how many there are, from physiology files."""

from pathlib import Path

import numpy as np

from pyro_hvae.analysis.exciting_images import exciting_images, plot_exciting_images
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["exciting_images"].require(tree)
        found = exciting_images(tree)
    print(numbers(found))
    for site in found["layer"].values:
        several = np.nanmean(found[f"{site}_dimensions"] > 1.5)
        print(f"  {site}: {several:.0%} of the units have more than one most exciting image (1.5 dimensions)")
    picture = plot_exciting_images(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "exciting_images", __doc__))
