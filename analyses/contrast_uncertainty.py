"""Posterior variance of units against the contrast of natural images, from physiology files."""

from pathlib import Path

from pyro_hvae.analysis.contrast_uncertainty import contrast_uncertainty, plot_contrast_uncertainty
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["contrast_uncertainty"].require(tree)
        found = contrast_uncertainty(tree)
    print(numbers(found))
    for site in found["layer"].values:
        slope, se = (found[name].sel(layer=site).item() for name in ("slope", "slope_se"))
        says = "surer" if slope < -2 * se else "less sure" if slope > 2 * se else "neither surer nor less sure"
        print(f"  with contrast {site} gets {says}")
    picture = plot_contrast_uncertainty(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "contrast_uncertainty", __doc__))
