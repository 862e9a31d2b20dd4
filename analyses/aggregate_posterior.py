"""Posterior of z2 over all images against its prior (Vas 2024)."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, aggregate_posterior, open_posterior
from pyro_hvae.analysis.aggregate_posterior import plot_aggregate_posterior
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["aggregate_posterior"].require(tree)
        found = aggregate_posterior(tree)
    print(numbers(found))
    farthest = found["dim_divergence"].where(found["active"]).to_series().nlargest(3)
    print(f"  farthest from the prior, nats: {farthest.round(3).to_dict()}")
    picture = plot_aggregate_posterior(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "aggregate_posterior", __doc__))
