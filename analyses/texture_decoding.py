"""Texture family decoded from pixels, contrast, z1 and z2 means (Csikor et al. 2022, Fig. 2i, 3a; Vas 2024)."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, decode_family, open_posterior
from pyro_hvae.analysis.texture_decoding import plot_texture_decoding
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["texture_decoding"].require(tree)
        found = decode_family(tree, repeats=5, seed=0)  # features: all that the file has
    print(numbers(found))
    confusion = found["confusion"].sel(feature=found["feature"].values[-1])
    for family in found["family"].values:
        others = confusion.sel(family=family).drop_sel(decoded=family).to_series()
        print(
            f"  {family}: most often taken for {others.idxmax()} ({others.max():.0%}), from {confusion['feature'].item()}"
        )
    picture = plot_texture_decoding(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "texture_decoding", __doc__))
