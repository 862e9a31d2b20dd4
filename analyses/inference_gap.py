"""Where the gap between the ELBO and log p(x) is: amortisation, or the family of q, layer by layer."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, inference_gap, open_posterior
from pyro_hvae.analysis.inference_gap import plot_inference_gap
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["inference_gap"].require(tree)
        found = inference_gap(tree)
    print(numbers(found))
    print(f"  {found.attrs['verdict']}")
    picture = plot_inference_gap(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "inference_gap", __doc__))
