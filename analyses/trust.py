"""For which share of images the moments of the posterior can be trusted: Pareto k-hat and effective sample size."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, open_posterior, trust
from pyro_hvae.analysis.trust import plot_trust
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["trust"].require(tree)
        found = trust(tree)
    print(numbers(found))
    limit = found.attrs["threshold"]
    for name in found["set"].values:
        k = found["image_k"].values[found["image_set"].values == name]
        print(f"  {name}: k-hat is not below {limit:.2f}, or unknown, for {(~(k < limit)).sum()} of {k.size} images")
    picture = plot_trust(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "trust", __doc__))
