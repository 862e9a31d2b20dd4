"""Kinds of units whatever their orientation, from physiology files."""

from pathlib import Path

from pyro_hvae.analysis.unit_clusters import plot_unit_clusters, unit_clusters
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["unit_clusters"].require(tree)
        found = unit_clusters(tree)
    print(numbers(found))
    for site in found["layer"].values:
        print(f"  {site}: clusters of {', '.join(map(str, found[f'{site}_size'].values))} units")
    picture = plot_unit_clusters(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "unit_clusters", __doc__))
