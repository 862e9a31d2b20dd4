"""Population and lifetime sparseness of z1: Treves-Rolls, Hoyer, kurtosis; selectivity for texture families."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, open_posterior, sparseness
from pyro_hvae.analysis.sparseness import REFERENCES, plot_sparseness
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["sparseness"].require(tree)
        found = sparseness(tree)
    print(numbers(found))
    for index, laplace in REFERENCES["laplace"].items():
        print(f"  {index} of independent responses: Normal {REFERENCES['normal'][index]:.3f}, Laplace {laplace:.3f}")
    picture = plot_sparseness(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "sparseness", __doc__))
