import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import (
    PatchData,
    as_patch_data,
    bars,
    concatenate,
    differences_of_gaussians,
    edges,
    gabors,
    gratings,
    natural_patches,
    plaids,
    read_transform,
)
from tests.stimuli.conftest import photograph

EVERY = (gratings, gabors, differences_of_gaussians, plaids, bars, edges)


@pytest.fixture(scope="module")
def data():
    return natural_patches(8, np.stack([photograph(i) for i in range(4)]), train=2_000, test=100)


def images(dataset: xr.Dataset) -> np.ndarray:
    size = int(dataset.sizes["pixel"] ** 0.5)
    return dataset["x"].values.reshape(-1, size, size)


@settings(max_examples=30, deadline=None)
@given(cycles_x=st.integers(-6, 6), cycles_y=st.integers(-6, 6))
def test_fourier_peak_of_a_grating_lies_at_its_wave_vector(cycles_x, cycles_y):
    """A wave vector (cycles_x, cycles_y) / size is across stripes at orientation atan2(cycles_y, cycles_x) − 90°."""
    size, cycles = 24, np.hypot(cycles_x, cycles_y)
    if cycles == 0:
        return
    orientation = np.rad2deg(np.arctan2(cycles_y, cycles_x)) - 90
    made = gratings(size, orientation=[orientation], frequency=[cycles / size], phase=[30], contrast=[0.5])
    spectrum = np.abs(np.fft.fft2(images(made)[0].astype(float) - 1)) / size**2
    # Rows run down, so up is a negative row frequency.
    for sign in (1, -1):
        assert spectrum[(-sign * cycles_y) % size, (sign * cycles_x) % size] == pytest.approx(0.25, abs=1e-6)
    assert (spectrum > 1e-6).sum() == 2


def test_orientation_phase_and_position_as_seen_on_the_page():
    vertical = images(gratings(20, orientation=[90], frequency=[0.1], phase=[0]))[0]
    np.testing.assert_allclose(vertical, np.broadcast_to(vertical[:1], (20, 20)), atol=1e-6)
    oblique = images(bars(21, orientation=[45], width=[1], length=[12], contrast=[0.5]))[0]
    assert oblique[7, 13] == pytest.approx(1.5) and oblique[13, 13] == 1  # up and right, not down and right
    moved = images(gabors(21, orientation=[0], phase=[0], frequency=[0.2], x_position=[5], y_position=[3]))[0]
    assert np.unravel_index(moved.argmax(), moved.shape) == (10 - 3, 10 + 5)
    light_above = images(edges(20, orientation=[0], offset=[2], contrast=[0.3]))[0]
    np.testing.assert_allclose(light_above[:, 0], np.r_[np.full(8, 1.3), np.full(12, 0.7)], atol=1e-6)


def test_contrast_is_michelson_contrast():
    made = gratings(20, frequency=[0.05], phase=[0, 90], orientation=[0], contrast=[0.1, 0.4, 0.8])
    x = images(made)
    # Phase 90 has no sample at the very peak; phase 0 neither, between pixels: cos(π f) below 1.
    highest, lowest = x.max((1, 2)), x.min((1, 2))
    michelson = (highest - lowest) / (highest + lowest)
    np.testing.assert_allclose(michelson, made["contrast"].values * np.cos(np.pi * 0.05), rtol=1e-5)


def test_size_series():
    made = gratings(41, orientation=[0], frequency=[0.0], phase=[0], contrast=[1], diameter=[0, 4, 11, 20, 33])
    area = (images(made) - 1).sum((1, 2))
    assert area[0] == 41**2
    np.testing.assert_allclose(area[1:], np.pi / 4 * np.array([4, 11, 20, 33]) ** 2, rtol=0.05)


def test_bars_cover_their_area():
    made = bars(41, orientation=[0, 20, 45, 90], width=[3], length=[6, 14], contrast=[0.4, -0.4])
    area = (images(made) - 1).sum((1, 2)) / made["contrast"].values
    np.testing.assert_allclose(area, 3 * made["length"].values, rtol=0.05)


def test_difference_of_gaussians_is_balanced_where_weights_say_so():
    made = differences_of_gaussians(61, sd=[2.0], surround_ratio=[2.0], surround_weight=[0.25, 0.0], contrast=[0.5])
    x = images(made).astype(float) - 1
    assert x[:, 30, 30] == pytest.approx(0.5)
    assert abs(x[0].sum()) < 1e-3
    assert x[1].sum() == pytest.approx(0.5 * 2 * np.pi * 4, rel=1e-4)


def test_a_disk_and_the_annulus_round_it_make_the_whole_grating():
    options = dict(orientation=[30], frequency=[0.1], phase=[45], contrast=[0.4], x_position=[2], y_position=[-1])
    whole, disk = (images(gratings(20, diameter=[d], **options))[0] for d in (0, 9))
    rings = images(gratings(20, inner_diameter=[0, 9, 60], **options))
    np.testing.assert_allclose(rings[0], whole, atol=1e-6)
    np.testing.assert_allclose(disk + rings[1], whole + 1, atol=1e-6)
    np.testing.assert_allclose(rings[2], 1, atol=1e-6)


def test_the_mask_of_a_plaid_has_a_phase_of_its_own_and_both_move_together():
    options = dict(orientation=[30], frequency=[0.2], x_position=[3], y_position=[1])
    both = images(plaids(20, phase=[90], contrast=[0.2], mask_contrast=[0.1], mask_phase=[0, 120], **options))
    test = images(gratings(20, phase=[90], contrast=[0.2], **options))[0]
    masks = images(gratings(20, phase=[0, 120], contrast=[0.1], **(options | {"orientation": [120]})))
    np.testing.assert_allclose(both, test + masks - 1, atol=1e-6)


def test_a_plaid_is_the_sum_of_its_gratings():
    made = plaids(20, orientation=[30], angle=[60], phase=[90], contrast=[0.2], mask_contrast=[0.1], frequency=[0.2])
    one = gratings(20, orientation=[30], phase=[90], contrast=[0.2], frequency=[0.2])
    other = gratings(20, orientation=[90], phase=[0], contrast=[0.1], frequency=[0.2])
    np.testing.assert_allclose(images(made), images(one) + images(other) - 1, atol=1e-6)


@pytest.mark.parametrize("kind", EVERY)
def test_every_kind_is_labelled_reproducible_and_balanced(kind):
    made, same = kind(16), kind(16)
    assert made.identical(same)
    assert made["x"].dtype == np.float32 and made.sizes["pixel"] == 256
    assert made.attrs["unit"] == "luminance, background = 1" and made.attrs["kind"] == kind.__name__
    options = json.loads(made.attrs["provenance"])["options"]
    del options["size"]
    assert made.sizes["image"] == np.prod([len(values) for values in options.values()])
    for name, values in options.items():  # every value as often as any other
        found, counts = np.unique(made[name].values, return_counts=True)
        assert found.tolist() == values and len(set(counts)) == 1
    assert len(np.unique(made["x"].values, axis=0)) > 1


@pytest.mark.parametrize("kind", EVERY)
def test_through_the_transform(kind, data):
    raw, made = kind(8), kind(8, transform=data.transform)
    matched = data.transform.match_intensity(raw["x"].values, median=1.0)
    np.testing.assert_allclose(made["x"].values, data.transform(matched), atol=1e-4)
    assert made.attrs["unit"] == "whitened"
    # Whitened images lie in the kept subspace.
    np.testing.assert_allclose(data.transform.project(made["x"].values), made["x"].values, atol=1e-3)


def test_absolute_exposure_puts_the_background_at_the_median_of_the_photographs():
    stack = np.stack([photograph(i) * 40 for i in range(4)])
    transform = natural_patches(8, stack, train=2_000, test=100, exposure="absolute").transform
    made = gratings(8, contrast=[0.0], transform=transform)
    grey = transform(transform.match_intensity(np.full(64, transform.intensity.reference)))
    np.testing.assert_allclose(made["x"].values, np.broadcast_to(grey, made["x"].shape), atol=1e-5)


def test_saved_and_joined(tmp_path, data):
    made = gratings(8, transform=data.transform)
    as_patch_data(made, data.transform).save(tmp_path / "g.nc")
    loaded = PatchData.load(tmp_path / "g.nc")
    xr.testing.assert_identical(loaded.test.drop_attrs(deep=False), made.drop_attrs(deep=False))
    assert loaded.train.sizes["image"] == 0 and loaded.provenance["kind"] == "gratings"
    np.testing.assert_array_equal(loaded.transform.components, data.transform.components)
    joined = concatenate(data.test, loaded.test)
    assert np.isnan(joined["orientation"].values[:100]).all()
    np.testing.assert_array_equal(joined["orientation"].values[100:], made["orientation"].values)


def test_transform_is_read_from_where_it_is_kept(tmp_path, data):
    data.save(tmp_path / "patches.nc")
    (tmp_path / "run").mkdir()
    data.transform.to_dataset().to_netcdf(tmp_path / "run" / "transform.nc", engine="netcdf4")
    for path in (tmp_path / "patches.nc", tmp_path / "run", tmp_path / "run" / "transform.nc"):
        np.testing.assert_array_equal(read_transform(path).components, data.transform.components)
    as_patch_data(gratings(8)).save(tmp_path / "raw.nc")
    with pytest.raises(HVAEError, match="holds no transform"):
        read_transform(tmp_path / "raw.nc")
    with pytest.raises(HVAEError, match="no such file"):
        read_transform(tmp_path / "nowhere")
    (tmp_path / "text.nc").write_text("text")
    with pytest.raises(HVAEError, match="not a netCDF file"):
        read_transform(tmp_path / "text.nc")


def test_what_does_not_fit(data):
    with pytest.raises(HVAEError, match=r"frequency is .* between 0 and 0.5"):
        gratings(20, frequency=[0.6])
    with pytest.raises(HVAEError, match=r"contrast is .* between -1 and 1"):
        bars(20, contrast=[2])
    with pytest.raises(HVAEError, match=r"orientation is .*expected at least one value"):
        gabors(20, orientation=[])
    with pytest.raises(HVAEError, match=r"orientation is .*finite"):
        edges(20, orientation=[np.nan])
    with pytest.raises(HVAEError, match=r"contrast \+ mask_contrast"):
        plaids(20, contrast=[0.8], mask_contrast=[0.5])
    with pytest.raises(HVAEError, match="size is 20, and the transform is for 8"):
        gratings(20, transform=data.transform)
    with pytest.raises(HVAEError, match="size must be a whole number of at least 2, got 1"):
        gratings(1)
