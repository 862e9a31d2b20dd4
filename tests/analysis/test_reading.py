"""Sets of images, and what of a file is finite."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis.reading import (
    blocks,
    complete_images,
    export_settings,
    finite_array,
    image_sets,
    natural_images,
    patch_side,
    selected,
)
from pyro_hvae.errors import HVAEError


def file(families=("", "bark", "", "gravel"), x=None):
    x = np.arange(8.0).reshape(4, 2) if x is None else x
    groups = {"observed_data": xr.Dataset({"x": (("image", "pixel"), x)})}
    if families:
        groups["constant_data"] = xr.Dataset(coords={"family": ("image", list(families))})
    return xr.DataTree.from_dict(groups)


def test_natural_images_are_those_without_a_family():
    sets = image_sets(file())
    assert {name: mask.tolist() for name, mask in sets.items()} == {
        "natural": [True, False, True, False],
        "texture": [False, True, False, True],
    }
    assert {name: mask.all() for name, mask in image_sets(file(families=None)).items()} == {"natural": True}
    assert list(image_sets(file(families=["bark"] * 4))) == ["texture"]
    mask, used = natural_images(file(), np.array([False, True, True, True]))
    assert mask.tolist() == [False, False, True, False] and used == "natural"
    mask, used = natural_images(file(), np.array([False, True, False, True]))
    assert mask.tolist() == [False, True, False, True] and used == "texture"


def test_images_that_are_not_finite_are_left_out_and_counted():
    x = np.arange(8.0).reshape(4, 2)
    x[1, 0], x[3, 1] = np.nan, -np.inf
    notes = []
    assert complete_images(file(x=x), ["observed_data/x"], notes).tolist() == [True, False, True, False]
    assert notes == ["2 of 4 images left out: observed_data/x is not finite there"]
    with pytest.raises(HVAEError, match="no image has finite values in observed_data/x"):
        complete_images(file(x=x * np.nan), ["observed_data/x"], [])
    with pytest.raises(HVAEError, match="observed_data/x holds 2 values that are not finite"):
        finite_array(file(x=x), "observed_data/x")


def test_values_are_selected_by_mask_or_index_images_first():
    tree = file()
    tree["observed_data"] = xr.DataTree(tree["observed_data"].to_dataset().transpose("pixel", "image"))
    np.testing.assert_array_equal(selected(tree, "observed_data/x", np.array([3, 0])), [[6, 7], [0, 1]])
    mask = np.array([False, True, False, True])
    np.testing.assert_array_equal(selected(tree, "observed_data/x", mask), [[2, 3], [6, 7]])
    assert [block.tolist() for block in blocks(np.array([1, 0, 1, 1, 1, 0, 1], bool), 2)] == [[0, 2], [3, 4], [6]]


def test_settings_of_the_export_are_read_where_they_are_recorded():
    tree = file()
    assert export_settings(tree) == {}
    for text in ("", "not JSON", "[1, 2]", '{"posterior": 3}'):
        tree.attrs["configuration"] = text
        assert export_settings(tree) == {}, text
    tree.attrs["configuration"] = '{"posterior": {"draws": 5, "resample": null}}'
    assert export_settings(tree) == {"draws": 5, "resample": None}


def test_only_square_patches_have_a_side():
    assert patch_side(400) == 20
    with pytest.raises(HVAEError, match="399 pixels"):
        patch_side(399)
