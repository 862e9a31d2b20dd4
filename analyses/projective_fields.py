"""Projective fields of z1 and z2 (Csikor et al. 2022, Fig. 2d, e)."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, open_posterior, projective_fields
from pyro_hvae.analysis.projective_fields import plot_projective_fields
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["projective_fields"].require(tree)
        found = projective_fields(tree)
    print(numbers(found))
    for layer in found["site"].values:
        area = found[f"{layer}_area"].where(found[f"{layer}_active"] & found[f"{layer}_shown"]).to_series().dropna()
        if area.size:
            low, high = area.quantile([0.1, 0.9])
            print(
                f"  {layer}: four fifths of {area.size} fields cover {low:.1f} to {high:.1f} of {found.sizes['pixel']} pixels"
            )
    picture = plot_projective_fields(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "projective_fields", __doc__))
