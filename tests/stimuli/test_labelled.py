"""Sprites and digits: sets whose factors are known."""

import numpy as np
import pytest

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import PatchData, Sprites, digits, natural_patches, sprites
from pyro_hvae.stimuli.sprites import GRID, RADIUS
from tests.stimuli.conftest import photograph


def centroid(image: np.ndarray) -> np.ndarray:
    """Right and up of the centre."""
    y, x = np.mgrid[: len(image), : len(image)] - (len(image) - 1) / 2
    return np.array([(x * image).sum(), -(y * image).sum()]) / image.sum()


def number(shape: int, scale: int, orientation: int, column: int, row: int) -> int:
    return int(np.ravel_multi_index((shape, scale, orientation, column, row), GRID))


def test_the_grid_is_that_of_dsprites():
    grid = Sprites()
    assert len(grid) == 737_280
    factors = grid.factors(np.array([0, 1, 32, 1024, 40 * 1024, 6 * 40 * 1024, 737_279]))
    assert factors["shape"].tolist() == ["square"] * 5 + ["ellipse", "heart"]
    np.testing.assert_allclose(factors["scale"], [0.5, 0.5, 0.5, 0.5, 0.6, 0.5, 1])
    np.testing.assert_allclose(factors["orientation"], [0, 0, 0, 360 / 39, 0, 0, 360])
    assert factors["y_position"][1] > factors["y_position"][0] and factors["x_position"][2] > factors["x_position"][0]
    with pytest.raises(HVAEError, match="numbered from 0 to 737,279"):
        grid.draw(np.array([737_280]))


def test_sprites_have_the_place_size_and_orientation_of_their_labels():
    grid = Sprites()
    numbers = np.array(
        [number(1, s, o, c, r) for s in (0, 5) for o in (0, 7, 13) for c, r in ((0, 31), (10, 3), (31, 16))]
    )
    factors, drawn = grid.factors(numbers), grid.draw(numbers).astype(float)
    areas = np.pi / 2 * (RADIUS * 64 * factors["scale"]) ** 2  # of an ellipse with axes r and r/2
    np.testing.assert_allclose(drawn.sum((1, 2)), areas, rtol=0.01)
    for image, x, y, orientation in zip(
        drawn, *(factors[n] for n in ("x_position", "y_position", "orientation")), strict=True
    ):
        np.testing.assert_allclose(centroid(image), [x, y], atol=0.05)
        row, column = np.mgrid[:64, :64] - 31.5
        dx, dy = column - x, -row - y
        xx, yy, xy = ((a * b * image).sum() for a, b in ((dx, dx), (dy, dy), (dx, dy)))
        long_axis = np.rad2deg(0.5 * np.arctan2(2 * xy, xx - yy))
        assert abs((long_axis - orientation + 90) % 180 - 90) < 1


def test_every_sprite_is_whole_and_shapes_differ():
    grid = Sprites()
    corners = np.array([number(s, 5, o, c, r) for s in range(3) for o in (0, 5, 23) for c in (0, 31) for r in (0, 31)])
    drawn = grid.draw(corners)
    areas = drawn.sum((1, 2)).reshape(3, -1)
    np.testing.assert_allclose(areas, areas[:, :1] * np.ones_like(areas), rtol=0.01)  # the same wherever it stands
    np.testing.assert_allclose(areas[0, 0], (1.4 * RADIUS * 64) ** 2, rtol=0.01)
    heart = grid.draw(np.array([number(2, 5, 0, 15, 15)]))[0]
    np.testing.assert_allclose(centroid(heart)[0], grid.factors(number(2, 5, 0, 15, 15))["x_position"], atol=0.05)
    assert heart[:32].sum() > heart[32:].sum()  # lobes up


def test_a_set_of_sprites(tmp_path):
    made, same, other = (sprites(16, train=30, test=20, seed=s, contrast=0.5) for s in (0, 0, 1))
    assert made.test.identical(same.test) and made.test["x"].values.tobytes() != other.test["x"].values.tobytes()
    drawn = Sprites(16).draw(made.train["number"].values)
    np.testing.assert_allclose(made.train["x"], 1 + 0.5 * drawn.reshape(30, -1), atol=1e-6)
    assert len(np.unique(made.train["number"])) == 30
    made.save(tmp_path / "s.nc")
    assert PatchData.load(tmp_path / "s.nc").train["family"].identical(made.train["family"])
    assert sprites(16, train=0, test=5).train.sizes["image"] == 0
    with pytest.raises(HVAEError, match="train and test are both 0"):
        sprites(16, train=0, test=0)
    with pytest.raises(HVAEError, match="train is -1"):
        sprites(16, train=-1)


@pytest.fixture(scope="module")
def drawn_digits():
    return digits(64, train=0, test=200, seed=3)


def test_digits_are_as_thick_long_wide_and_high_as_their_labels(drawn_digits):
    """A thin pen's ink is length × thickness, but for round ends (+π/4 thickness² each stroke) and where strokes meet."""
    test = drawn_digits.test
    ink = test["x"].values.reshape(-1, 64, 64) - 1
    family, thickness, length = (test[n].values for n in ("family", "thickness", "length"))
    simple = np.isin(family, ["0", "7"]) & (thickness < 5)
    assert simple.sum() > 10
    ratio = ink.sum((1, 2))[simple] / (length * thickness)[simple]
    assert (ratio > 0.93).all() and (ratio < 1.08).all()
    rows = ink.max(2) > 0.5
    height = rows.shape[1] - rows.argmax(1) - rows[:, ::-1].argmax(1)
    assert np.abs(height - test["height"].values - thickness).max() < 2


def test_slant_is_undone_by_shearing_back(drawn_digits):
    test = drawn_digits.test
    wide = []
    for image, slant, width, thickness in zip(
        test["x"].values.reshape(-1, 64, 64) - 1,
        *(test[n].values for n in ("slant", "width", "thickness")),
        strict=True,
    ):
        row, column = np.nonzero(image > 0.5)
        upright = column - (31.5 - row) * np.tan(np.deg2rad(slant))
        wide.append(np.ptp(upright) + 1 - width - thickness / np.cos(np.deg2rad(slant)))
    assert np.abs(wide).max() < 3 and abs(np.mean(wide)) < 1  # pixels of 64, at a width of 19 to 32


def test_a_set_of_digits():
    made, same, other = (digits(20, train=47, test=20, seed=s) for s in (0, 0, 1))
    assert made.train.identical(same.train) and made.train["x"].values.tobytes() != other.train["x"].values.tobytes()
    for dataset, each in ((made.train, 4), (made.test, 2)):
        assert np.unique(dataset["family"], return_counts=True)[1].tolist() == [each] * 10
    border = made.train["x"].values.reshape(-1, 20, 20)[:, [0, -1]]
    assert border.max() < 1.5
    unmoved = digits(20, train=0, test=10, wobble=0)
    assert len(np.unique(unmoved.test["x"].values, axis=0)) == 10


def test_through_the_transform():
    transform = natural_patches(8, np.stack([photograph(i) for i in range(4)]), train=2_000, test=100).transform
    for make in (sprites, digits):
        raw, made = (make(8, train=0, test=20, transform=t) for t in (None, transform))
        expected = transform(transform.match_intensity(raw.test["x"].values, median=1.0))
        np.testing.assert_allclose(made.test["x"], expected, atol=1e-4)
