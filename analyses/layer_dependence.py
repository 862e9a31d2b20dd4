"""How much of the posterior uncertainty of z1 comes through z2, from posterior files; compare guides of one model."""

from pathlib import Path

import numpy as np

from pyro_hvae.analysis.layer_dependence import layer_dependence, plot_layer_dependence
from pyro_hvae.report.registry import find
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.posterior_file import open_posterior


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, partial=True) as tree:
        find("layer_dependence").require(tree)
        found = layer_dependence(tree)
    print(numbers(found))
    low, high = np.percentile(found["unit_share"], [25, 75])
    print(f"  the middle half of the units has {low:.3f} to {high:.3f}")
    picture = plot_layer_dependence(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "layer_dependence", __doc__))
