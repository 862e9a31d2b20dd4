"""Contrast response of units: exponent, semi-saturation, saturation, from physiology files."""

from pathlib import Path

import numpy as np

from pyro_hvae.analysis.contrast_response import contrast_response, plot_contrast_response
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["contrast_response"].require(tree)
        found = contrast_response(tree)
    print(numbers(found))
    for site in found["layer"].values:
        low, high = np.nanpercentile(found[f"{site}_exponent"], [25, 75])
        print(f"  the middle half of {site} has exponents of {low:.2f} to {high:.2f}")
    picture = plot_contrast_response(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "contrast_response", __doc__))
