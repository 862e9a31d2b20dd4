import numpy as np
import pytest

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import illusory_contours
from pyro_hvae.stimuli.illusory import CONDITIONS

SIZE, SQUARE, RATIO = 40, 20.0, 0.5
RADIUS = RATIO * SQUARE / 2


@pytest.fixture(scope="module")
def made():
    dataset = illusory_contours(SIZE, square=[SQUARE], support_ratio=[RATIO], shift=[-10.0], contrast=[-0.5])
    images = dataset["x"].values.reshape(-1, SIZE, SIZE)
    return dict(zip(dataset["family"].values, (1 - images) / 0.5, strict=True))  # ink between 0 and 1


def test_ink_is_the_area_of_the_parts(made):
    """Shifted down by half a side, the square is centred and everything is in sight."""
    disks, contour = 4 * np.pi * RADIUS**2, 4 * SQUARE
    assert set(made) == set(CONDITIONS)
    assert made["disks"].sum() == pytest.approx(disks, rel=0.01)
    for condition in ("illusory", "rotated"):
        assert made[condition].sum() == pytest.approx(0.75 * disks, rel=0.01)
    assert made["line"].sum() == pytest.approx(contour, rel=0.01)
    # Half of the line is drawn along the cuts, half a pixel inside and half in the ink already there.
    assert 0.75 * disks + 0.5 * contour < made["complete"].sum() < 0.75 * disks + contour


def test_conditions_differ_at_the_inducers_only(made):
    c = (SIZE - 1) / 2
    y, x = np.mgrid[:SIZE, :SIZE] - c
    nearest = np.hypot(np.abs(x) - SQUARE / 2, np.abs(y) - SQUARE / 2)
    assert (made["illusory"] == made["rotated"])[nearest > RADIUS + 1].all()
    inside = (np.abs(x) < SQUARE / 2 - 1) & (np.abs(y) < SQUARE / 2 - 1)
    assert not made["illusory"][inside].any() and made["rotated"][inside].any()
    corner = np.s_[3:17, 3:17]  # about the corner of the square at 9.5
    np.testing.assert_array_equal(made["rotated"][corner], made["illusory"][corner][::-1, ::-1])
    for image in made.values():  # four-fold symmetry
        np.testing.assert_array_equal(image, image[::-1])
        np.testing.assert_array_equal(image, image[:, ::-1])


def test_the_contour_passes_the_centre_between_its_inducers():
    """At shift 0 nothing is drawn at the centre except by the lines; a shift moves the figure up."""
    dataset = illusory_contours(41, shift=[0, 3], contrast=[-0.5])
    centre = dataset["x"].values.reshape(-1, 41, 41)[:, 20, 20]
    for condition, shift, value in zip(dataset["condition"].values, dataset["shift"].values, centre, strict=True):
        assert value == pytest.approx(0.5 if condition in ("complete", "line") and shift == 0 else 1)
    line = dataset["x"].values.reshape(-1, 41, 41)[(dataset["condition"] == "line") & (dataset["shift"] == 3)][0]
    assert line[17, 20] == pytest.approx(0.5)


def test_what_does_not_fit():
    with pytest.raises(HVAEError, match="unknown condition 'ilusory'; did you mean 'illusory'"):
        illusory_contours(condition=["ilusory"])
    with pytest.raises(HVAEError, match="do not fit a 20-pixel patch"):
        illusory_contours(20, square=[60.0])
    with pytest.raises(HVAEError, match="support_ratio is"):
        illusory_contours(support_ratio=[1.5])
