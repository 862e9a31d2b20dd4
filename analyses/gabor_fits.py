"""Gabor fits of the projective fields of z1, localized fields, space-frequency uncertainty (Csikor et al. 2022, Fig. 2d, e)."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, gabor_fits, open_posterior
from pyro_hvae.analysis.gabor_fits import plot_gabor_fits
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["gabor_fits"].require(tree)
        found = gabor_fits(tree)
    print(numbers(found))
    localized = found.isel(unit=found["localized"].values)
    for name in ("orientation", "frequency", "size"):
        low, high = localized[name].to_series().quantile([0.25, 0.75])
        print(f"  middle half of the localized fields, {name}: {low:.3g} to {high:.3g} {found[name].attrs['units']}")
    picture = plot_gabor_fits(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "gabor_fits", __doc__))
