"""How z2 sets location and scale of z1, and traversals of z2 decoded to images."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, contextual_prior, open_posterior
from pyro_hvae.analysis.contextual_prior import plot_contextual_prior
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["contextual_prior"].require(tree)
        found = contextual_prior(tree)
    print(numbers(found))
    strongest = found["log_scale_effect"].where(found["active"]).to_series().nlargest(5)
    print(f"  z2 dimensions with the largest effect on the scale of z1: {strongest.round(3).to_dict()}")
    picture = plot_contextual_prior(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "contextual_prior", __doc__))
