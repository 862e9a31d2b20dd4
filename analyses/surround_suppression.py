"""Size and annulus tuning of units and surround suppression, from physiology files."""

from pathlib import Path

import numpy as np

from pyro_hvae.analysis.surround_suppression import plot_surround_suppression, surround_suppression
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["surround_suppression"].require(tree)
        found = surround_suppression(tree)
    print(numbers(found))
    for site in found["layer"].values:
        print(f"  most suppressed unit of {site}: index {np.nanmax(found[f'{site}_suppression']):.2f}")
    picture = plot_surround_suppression(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "surround_suppression", __doc__))
