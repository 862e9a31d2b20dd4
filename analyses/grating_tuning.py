"""Tuning of units to orientation, spatial frequency and phase, from physiology files."""

from pathlib import Path

import numpy as np

from pyro_hvae.analysis.grating_tuning import grating_tuning, plot_grating_tuning
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["grating_tuning"].require(tree)
        found = grating_tuning(tree)
    print(numbers(found))
    for site in found["layer"].values:
        sharpest = int(np.nanargmin(found[f"{site}_circular_variance"]))
        print(
            f"  sharpest unit of {site}: {sharpest}, {found[f'{site}_preferred_orientation'].values[sharpest]:.0f} degrees"
        )
    picture = plot_grating_tuning(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "grating_tuning", __doc__))
