"""Texture-selective z2 dimensions by greedy addition, and what the others tell (Csikor et al. 2022, Fig. 2h; Vas 2024)."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, open_posterior, texture_selectivity
from pyro_hvae.analysis.texture_selectivity import plot_texture_selectivity
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["texture_selectivity"].require(tree)
        found = texture_selectivity(tree, seed=0)
    print(numbers(found))
    count = int(found["selective_count"])
    print(f"  selective z2 dimensions, the best first: {found['path_dim'].values[:count].tolist()}")
    picture = plot_texture_selectivity(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "texture_selectivity", __doc__))
