"""How much of a guide's posterior and of its noise correlations is real, from audit files (`pyro-hvae audit RUN`)."""

from pathlib import Path

from pyro_hvae.analysis.guide_audit import guide_audit, plot_guide_audit
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.audit_file import open_audit


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_audit(path) as tree:
        found = guide_audit(tree, max_r_hat=1.05)
    print(numbers(found))
    for source in found["source"].values:
        low, high = found["image_agreement"].sel(source=source).to_series().quantile([0.25, 0.75])
        print(f"  {source}: agreement with the reference in the middle half of the images {low:.3f} to {high:.3f}")
    picture = plot_guide_audit(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "guide_audit", __doc__))
