"""Plaids and cross-orientation suppression, from physiology files."""

from pathlib import Path

import numpy as np

from pyro_hvae.analysis.cross_orientation import cross_orientation, plot_cross_orientation
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["cross_orientation"].require(tree)
        found = cross_orientation(tree)
    print(numbers(found))
    for site in found["layer"].values:
        low, high = np.nanpercentile(found[f"{site}_suppression"], [25, 75])
        print(f"  the middle half of {site} is suppressed by {low:.2f} to {high:.2f}")
    picture = plot_cross_orientation(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "cross_orientation", __doc__))
