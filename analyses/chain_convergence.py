"""For which share of images the chains of a sampler have met: R-hat and effective sample sizes."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, chain_convergence, open_posterior
from pyro_hvae.analysis.chain_convergence import plot_chain_convergence
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["chain_convergence"].require(tree)
        found = chain_convergence(tree)
    print(numbers(found))
    for name in found["set"].values:
        here = found["image_set"].values == name
        r_hat, ess = (found[f"image_{quantity}"].values[here] for quantity in ("r_hat", "ess"))
        print(f"  {name}: worst image has R-hat {r_hat.max():.3f}, {ess.min():.0f} effective draws")
    picture = plot_chain_convergence(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "chain_convergence", __doc__))
