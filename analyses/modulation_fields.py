"""Which z1 units each z2 dimension makes louder or quieter, drawn as the bars of their Gabor functions."""

from pathlib import Path

from pyro_hvae.analysis import ANALYSES, modulation_fields, open_posterior
from pyro_hvae.analysis.modulation_fields import plot_modulation_fields
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_posterior(path, chunks=4096, partial=True) as tree:
        ANALYSES["modulation_fields"].require(tree)
        found = modulation_fields(tree)
    print(numbers(found))
    for dim in found["z2_dim"].values[:5]:  # the strongest
        modulation = found["modulation"].sel(z2_dim=dim).to_series()
        loud, quiet = modulation.idxmax(), modulation.idxmin()
        angle = found["orientation"].to_series()
        print(
            f"  z2 [{dim}]: {(modulation > 0).sum()} units louder, most of all {loud} ({angle[loud]:.0f} degrees), "
            f"{(modulation < 0).sum()} quieter, most of all {quiet} ({angle[quiet]:.0f} degrees)"
        )
    picture = plot_modulation_fields(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "modulation_fields", __doc__))
