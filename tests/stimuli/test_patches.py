import dataclasses
import json
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import PatchData, concatenate, natural_patches, patch_dataset, texture_patches
from tests.stimuli.conftest import photograph

SIZE = 8


@pytest.fixture(scope="module")
def data():
    return natural_patches(SIZE, np.stack([photograph(i) for i in range(4)]), train=2_000, test=100)


@pytest.fixture(scope="module")
def textures(data):
    return texture_patches(SIZE, transform=data.transform, train=30, test=30)


def test_round_trip(tmp_path, data):
    loaded = PatchData.load(data.save(tmp_path / "new folder" / "patches.nc"))
    assert loaded.train.identical(data.train) and loaded.test.identical(data.test)
    for name in ("source", "family", "split"):
        assert loaded.train[name].dtype.kind == "U"
    assert loaded.transform.to_dataset().identical(data.transform.to_dataset())
    matched = np.random.default_rng(0).standard_normal((50, SIZE**2)).astype(np.float32)
    assert loaded.transform(matched).tobytes() == data.transform(matched).tobytes()
    assert (loaded.size, loaded.provenance) == (data.size, data.provenance)
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["patches.nc"]  # nothing left behind


def test_round_trip_without_transform_with_mask_and_unusual_names(tmp_path):
    x = np.zeros((3, 4), np.float32)
    mask = np.arange(12).reshape(3, 4) % 2 == 0
    one = patch_dataset(x, split="train", source=np.array(["ő", "日本 1", ""]), family="a,b", mask=mask)
    loaded = PatchData.load(PatchData(one, one, None, 2).save(tmp_path / "p.nc"))
    assert loaded.transform is None and loaded.train.identical(one) and loaded.train["mask"].dtype == bool


def test_existing_file(tmp_path, data):
    path = tmp_path / "p.nc"
    path.write_text("precious")
    with pytest.raises(HVAEError, match=r"p\.nc exists; choose another path or pass overwrite=True"):
        data.save(path)
    with pytest.raises(HVAEError, match="only an earlier"):
        data.save(path, overwrite=True)
    assert path.read_text() == "precious"
    path.unlink()
    data.save(path)
    data.save(path, overwrite=True)
    assert PatchData.load(path).size == SIZE


def test_a_failed_write_leaves_the_old_file(tmp_path, data, monkeypatch):
    path = data.save(tmp_path / "p.nc")
    before = path.read_bytes()

    def full(self, target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", full)
    with pytest.raises(HVAEError, match=r"could not be written .*No space left"):
        data.save(path, overwrite=True)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged(tmp_path, data, damage):
    path = data.save(tmp_path / "p.nc")
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"garbage", "empty": b""}[damage])
    told = "p.nc is damaged, truncated to" if damage == "truncated" else "p.nc: not a netCDF file, or a damaged one"
    with pytest.raises(HVAEError, match=told):
        PatchData.load(path)


def test_other_schema(tmp_path, data):
    path = tmp_path / "other.nc"
    xr.Dataset({"x": ("image", np.zeros(3))}).to_netcdf(path)
    with pytest.raises(HVAEError, match=r"other\.nc: schema none version none; expected pyro_hvae.patches version 1"):
        PatchData.load(path)
    path = data.save(tmp_path / "p.nc")
    with netCDF4.Dataset(path, "a") as file:
        file.schema_version = "99"
    with pytest.raises(HVAEError, match=r"schema pyro_hvae\.patches version 99"):
        PatchData.load(path)
    with netCDF4.Dataset(path, "a") as file:
        file.schema_version = "1"
        file.delncattr("provenance")
    with pytest.raises(HVAEError, match="damaged, it lacks"):
        PatchData.load(path)
    with pytest.raises(HVAEError, match="no such file"):
        PatchData.load(tmp_path / "nothing.nc")
    with pytest.raises(HVAEError, match=r"read it with PatchData\.load"):
        natural_patches(SIZE, data.save(tmp_path / "q.nc"))


def test_provenance_is_json(data):
    assert json.loads(json.dumps(data.provenance)) == data.provenance


def test_sizes_must_agree(data):
    with pytest.raises(HVAEError, match="train set has patches of 64 pixels, and size=7 means 49"):
        dataclasses.replace(data, size=7)
    four = patch_dataset(np.zeros((3, 4)), split="train")
    with pytest.raises(HVAEError, match="transform is for 8-pixel patches, and these have 2"):
        PatchData(four, four, data.transform, 2)
    with pytest.raises(HVAEError, match="the test set has no x"):
        dataclasses.replace(data, test=data.test.drop_vars("x"))


def test_concatenate(data, textures):
    joined = concatenate(data.test, textures.train, textures.test)
    assert joined.sizes["image"] == 100 + 30 + 30
    np.testing.assert_array_equal(joined["x"].values[100:130], textures.train["x"].values)
    assert list(np.unique(joined["family"].values)) == ["", "brick", "grass", "gravel"]
    assert list(joined["split"].values[[0, 100, 130]]) == ["test", "train", "test"]
    assert concatenate(data.test).identical(data.test)


def test_concatenate_fills_what_is_missing(data):
    bare = data.test[["x"]].drop_vars(["source", "row", "family"])
    masked = data.test.assign(mask=(("image", "pixel"), np.zeros(data.test["x"].shape, bool)))
    joined = concatenate(masked, bare)
    assert (joined["source"].values[100:] == "").all() and (joined["row"].values[100:] == -1).all()
    assert (joined["column"].values[100:] == data.test["column"].values).all()
    assert not joined["mask"].values[:100].any() and joined["mask"].values[100:].all()
    assert joined["family"].dtype.kind == "U" and joined["row"].dtype == np.int32


def test_concatenate_refuses(data):
    with pytest.raises(HVAEError, match="at least one"):
        concatenate()
    with pytest.raises(HVAEError, match="must have one size"):
        concatenate(data.test, patch_dataset(np.zeros((2, 9)), split="test"))
    with pytest.raises(HVAEError, match="not a dataset of patches"):
        concatenate(xr.Dataset({"y": ("image", np.zeros(3))}))


def test_import_is_light():
    code = "import sys, pyro_hvae.stimuli; print([m for m in ('torch', 'pyro', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
