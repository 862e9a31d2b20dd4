"""Textures against noise of the same spectrum, from physiology files."""

from pathlib import Path

import numpy as np

from pyro_hvae.analysis.texture_modulation import plot_texture_modulation, texture_modulation
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["texture_modulation"].require(tree)
        found = texture_modulation(tree)
    print(numbers(found))
    for site in found["layer"].values:
        best = found["family"].values[found["modulation"].sel(layer=site).argmax().item()]
        print(
            f"  {site}: strongest for {best}; most modulated unit {np.nanmax(found[f'{site}_index'].values.mean(0)):.2f}"
        )
    picture = plot_texture_modulation(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "texture_modulation", __doc__))
