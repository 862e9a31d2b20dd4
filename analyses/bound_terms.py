"""The evidence lower bound and its terms on natural and texture images (Vas 2024)."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, bound_terms, open_posterior
from pyro_hvae.analysis.bound_terms import plot_bound_terms
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["bound_terms"].require(tree)
        found = bound_terms(tree)
    print(numbers(found))
    for name in found["set"].values:
        terms = found["bound"].sel(set=name).to_series()
        kl = terms[terms.index.str.endswith("_kl")]
        print(f"  {name}: shares of the KL divergence {(kl / kl.sum()).round(3).to_dict()}")
    picture = plot_bound_terms(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "bound_terms", __doc__))
