"""Damage to files of ours: found before a library parses them, and nowhere taken for content."""

import json
import random

import netCDF4
import numpy as np
import pytest
import xarray as xr
from small import small_data, small_pair

from pyro_hvae.errors import HVAEError
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.stimuli import PatchData
from pyro_hvae.storage.posterior_file import open_posterior

X = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def posterior(tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed") / "posterior.nc"
    export_posterior(small_pair(), X, draws=2, moment_draws=2, path=path).close()
    return path.read_bytes()


def numbers(path):
    with open_posterior(path) as tree:
        return tree.load().to_dict()


def test_a_flipped_byte_is_found_wherever_it_is(posterior, tmp_path):
    path, rng = tmp_path / "posterior.nc", random.Random(0)
    for at in [0, 8, 30, 44, *rng.sample(range(len(posterior)), 60), len(posterior) - 1]:
        damaged = bytearray(posterior)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(HVAEError, match=r"make (it again|one) with `pyro-hvae export") as error:
            numbers(path)
        assert str(path) in str(error.value), at


@pytest.mark.parametrize("what", ["truncated", "tail of zeros", "appended", "empty"])
def test_a_file_of_another_length_is_found(posterior, tmp_path, what):
    content = {
        "truncated": posterior[:-5000],
        "tail of zeros": posterior[:-3000] + bytes(3000),
        "appended": posterior + posterior[-100:],
        "empty": b"",
    }[what]
    (tmp_path / "posterior.nc").write_bytes(content)
    with pytest.raises(HVAEError, match="make it again"):
        numbers(tmp_path / "posterior.nc")


def test_patches_are_sealed_too(tmp_path):
    path = tmp_path / "patches.nc"
    small_data().save(path)
    content = bytearray(path.read_bytes())
    first = small_data().train["x"].values[:1].tobytes()
    content[content.index(first) + 2] ^= 1  # a number, which netCDF does not check
    path.write_bytes(content)
    with pytest.raises(HVAEError, match="other bytes are in it than were written"):
        PatchData.load(path)


def test_other_programs_read_and_change_sealed_files(posterior, tmp_path):
    path = tmp_path / "posterior.nc"
    path.write_bytes(posterior)
    with xr.open_dataset(path, group="observed_data", engine="netcdf4") as dataset:
        assert (dataset["x"].values == X).all()
    with netCDF4.Dataset(path, "a") as file:
        file["observed_data"]["x"][0, 0] = 7.0
        file.setncattr("note", "changed on purpose")
    with open_posterior(path) as tree:
        assert tree["observed_data"]["x"].values[0, 0] == 7.0 and tree.attrs["note"] == "changed on purpose"


def test_a_file_of_an_earlier_version_has_no_seal_and_is_read(posterior, tmp_path):
    path = tmp_path / "posterior.nc"
    path.write_bytes(posterior[: posterior.rindex(b"\npyro_hvae seal")])
    with open_posterior(path) as tree:
        assert (tree["observed_data"]["x"].values == X).all()


def test_stores_are_sealed_file_by_file(tmp_path):
    store = tmp_path / "posterior.zarr"
    export_posterior(small_pair(), X, moment_draws=2, path=store).close()
    with open_posterior(store) as tree:
        assert (tree["observed_data"]["x"].values == X).all()
    chunk = store / "observed_data" / "x" / "0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(HVAEError, match=r"other bytes are in observed_data/x/0.0"):
        open_posterior(store)
    chunk.unlink()  # zarr takes a chunk that is not there for one of fill values
    with pytest.raises(HVAEError, match=r"it lacks observed_data/x/0.0"):
        open_posterior(store)
    chunk.write_bytes(whole)
    (store / ".zattrs").write_text(json.dumps(json.loads((store / ".zattrs").read_bytes()) | {"note": "mine"}))
    with pytest.raises(HVAEError, match=r"if that was meant, delete .pyro_hvae.seal"):
        open_posterior(store)
    (store / ".pyro_hvae.seal").unlink()
    open_posterior(store).close()
