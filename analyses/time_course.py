"""Responses after the onset of an image, and illusory contours, from physiology files."""

from pathlib import Path

from pyro_hvae.analysis.time_course import plot_time_course, time_course
from pyro_hvae.report.physiology import PHYSIOLOGY_ANALYSES
from pyro_hvae.report.script import each_file
from pyro_hvae.report.text import numbers
from pyro_hvae.storage.physiology_file import open_physiology


def figure(path: Path, target: Path) -> None:
    """Print the numbers of one file and save its figure."""
    with open_physiology(path) as tree:
        PHYSIOLOGY_ANALYSES["time_course"].require(tree)
        found = time_course(tree)
    print(numbers(found))
    first = found["layer"].values[found["latency"].argmin().item()]
    print(f"  {first} answers first")
    for site in found["layer"].values:
        low, high = found["induced_interval"].sel(layer=site).values
        says = "above" if low > 0 else "below" if high < 0 else "not distinguishable from"
        print(f"  {site}: the answer to illusory contours is {says} that to their control")
    picture = plot_time_course(found)
    picture.save(target)
    print(f"  {picture.caption}")


if __name__ == "__main__":
    raise SystemExit(each_file(figure, "time_course", __doc__))
