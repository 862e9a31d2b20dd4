"""Labels of families: short, distinct, and never one over another however many and long they are."""

from itertools import combinations

import pytest

from pyro_hvae.analysis import decode_family, noise_correlations, style, texture_selectivity
from pyro_hvae.analysis.noise_correlations_figure import plot_noise_correlations
from pyro_hvae.analysis.texture_decoding import plot_texture_decoding
from pyro_hvae.analysis.texture_selectivity import plot_texture_selectivity
from pyro_hvae.storage.posterior_file import open_posterior

LONG = tuple(f"/home/someone/photographs/textures/woven_aluminium_wire_mesh_{k:02d}.tiff" for k in range(15))


def test_short_labels_are_distinct_and_no_longer_than_asked():
    assert style.short(["bark", "oat, rolled"]) == ["bark", "oat, rolled"]
    assert style.short(["/home/me/bark.png", "/home/me/oat.png"]) == ["bark.png", "oat.png"]
    assert style.short(["a/bark", "b/bark"]) == ["a/bark", "b/bark"]  # the last part alone would not tell them apart
    assert style.short(["woven_aluminium_wire_mesh_01"]) == ["woven_alum…sh_01"]
    assert style.short(["woven_aluminium_1_mesh.tiff", "woven_aluminium_2_mesh.tiff", "bark"]) == [
        "wove…1_mesh.tiff", "wove…2_mesh.tiff", "bark",
    ]  # fmt: skip
    assert style.short(["long" * 9 + "1" + "name" * 9, "long" * 9 + "2" + "name" * 9]) == [
        "longlonglong…1",
        "longlonglong…2",
    ]
    many = style.short(LONG)
    assert len(set(many)) == 15 and max(map(len, many)) <= style.LABEL


def texts(figure):
    """Every text that is drawn; ticks beyond the limits of an axis exist and are not."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            yield axis.label
            yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)
        yield from (axes.title, axes._left_title, axes._right_title, *axes.texts)
        yield from axes.get_legend().get_texts() if axes.get_legend() else ()
    yield from (text for legend in figure.legends for text in legend.get_texts())


def overlaps(figure):
    """Pairs of texts of a figure whose rendered extents share more than a pixel, and texts that leave the page."""
    figure.draw_without_rendering()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts(figure) if t.get_visible() and t.get_text().strip()]
    page = figure.bbox
    found = [
        f"{text!r} leaves the page"
        for text, box in boxes
        if min(box.x0, box.y0, page.x1 - box.x1, page.y1 - box.y1) < -1
    ]
    for (one, a), (two, b) in combinations(boxes, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if min(wide, high) > 1:
            found.append(f"{one!r} over {two!r}")
    return found


@pytest.mark.parametrize("families", [3, 5, 15])
def test_labels_of_families_do_not_overlap(plant, families):
    shape = {"natural": 40, "train": 12, "test": 6, "z2_active": max(families, 5), "units": 14, "draws": 0}
    with open_posterior(plant(families=LONG[:families], **shape).path) as tree:
        for analysis, plot in (
            (decode_family, plot_texture_decoding),
            (texture_selectivity, plot_texture_selectivity),
            (noise_correlations, plot_noise_correlations),
        ):
            picture = plot(analysis(tree))
            assert overlaps(picture.figure) == [], analysis.__name__


def test_overlaps_are_noticed():
    figure = style.figure(2, 2)
    axis = figure.add_subplot()
    axis.set_xticks(range(6), LONG[:6])
    assert any("over" in line for line in overlaps(figure))
