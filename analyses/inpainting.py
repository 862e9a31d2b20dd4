"""Inpainting slopes inside and outside the mask by radius (Csikor et al. 2022, Fig. 4)."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, inpainting, open_posterior
from pyro_hvae.analysis.inpainting import plot_inpainting
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["inpainting"].require(tree)
        found = inpainting(tree)
    print(numbers(found))
    for radius in found["radius"].values:
        subsets = found["subset_slope"].sel(radius=radius, region="inside").values
        print(f"  radius {radius:g}, slopes inside the mask, subset by subset: {subsets.round(2).tolist()}")
    picture = plot_inpainting(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "inpainting", __doc__))
