"""Active and collapsed dimensions of z1 and z2 (Csikor et al. 2022, Fig. 2c, f)."""

from pathlib import Path

import numpy as np

from pyro_hvae.analysis import ANALYSES, active_dimensions, open_posterior
from pyro_hvae.analysis.active_dimensions import plot_active_dimensions
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["active_dimensions"].require(tree)
        found = active_dimensions(tree)
    print(numbers(found))
    for layer in found["site"].values:
        active = np.flatnonzero(found[f"{layer}_active"].values)
        strongest = active[np.argsort(-found[f"{layer}_kl"].values[active])][:10]
        print(f"  {layer}: {active.size} active, those of the largest KL: {strongest.tolist()}")
    picture = plot_active_dimensions(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "active_dimensions", __doc__))
