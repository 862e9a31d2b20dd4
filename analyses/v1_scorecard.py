"""Distributions of the properties of z1 beside those of neurons of macaque V1, from physiology files."""

from pathlib import Path

from pyro_hvae.analysis.v1_histograms import HISTOGRAMS
from pyro_hvae.analysis.v1_scorecard import plot_v1_scorecard, v1_scorecard
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["v1_scorecard"].require(tree)
        found = v1_scorecard(tree)
    print(numbers(found))
    for name in found["property"].values:
        print(f"  {name}: {HISTOGRAMS[name].source} ({HISTOGRAMS[name].cells}, n = {HISTOGRAMS[name].n})")
    picture = plot_v1_scorecard(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "v1_scorecard", __doc__))
