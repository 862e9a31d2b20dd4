"""Files that promise more than there is, nest without end, or name a program."""

import json
import os
import pickle
import tracemalloc
import zipfile

import netCDF4
import numpy as np
import pytest
import xarray as xr
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.stimuli import PatchData
from pyro_hvae.stimuli.readers import read_arrays, read_luminance
from pyro_hvae.storage.posterior_file import open_posterior


def promising(path, schema, group, side=2**20):
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts({"schema": schema, "schema_version": "1"} if schema else {})
        where = file.createGroup(group) if group else file
        for name in ("image", "pixel"):
            where.createDimension(name, side)
        where.createVariable("x", "f8", ("image", "pixel"), chunksizes=(16, 16))
    return path


@pytest.mark.parametrize(
    ("read", "schema", "group"),
    [(open_posterior, "pyro_hvae.posterior", "observed_data"), (PatchData.load, "pyro_hvae.patches", "train"),
     (read_arrays, "", "")],
)  # fmt: skip
def test_a_header_that_promises_terabytes_is_refused_before_they_are_allocated(tmp_path, read, schema, group):
    path = promising(tmp_path / "made_up.nc", schema, group)
    tracemalloc.start()
    with pytest.raises(HVAEError, match=r"made_up.nc promises 8,192.0 GiB in a file of"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_an_archive_that_unpacks_to_more_than_a_hundred_times_itself_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("grey.npy", b"\0")
        archive.infolist()[0].file_size = 2**31 - 1  # as its directory says; the check comes before unpacking
    with pytest.raises(HVAEError, match=r"promises 2\.0 GiB"):
        read_arrays(tmp_path / "bomb.npz")


def test_a_tiff_that_promises_more_than_it_holds_is_refused(tmp_path):
    import tifffile

    path = tmp_path / "large.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for name in ("ImageWidth", "ImageLength"):
            tag = file.pages[0].tags[name]
            content[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = (60_000).to_bytes(
                tag.valuebytecount, "little"
            )
    path.write_bytes(content)
    with pytest.raises(HVAEError, match=r"large.tif promises 3\.4 GiB"):
        read_luminance(path)


def test_codecs_of_a_store_that_could_run_a_program_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    store = tmp_path / "posterior.zarr"
    export_posterior(small_pair(), np.zeros((3, 16), np.float32), moment_draws=2, path=store).close()
    (store / ".pyro_hvae.seal").unlink(missing_ok=True)
    for name in (".zmetadata", "observed_data/x/.zarray"):
        found = json.loads((store / name).read_bytes())
        array = found["metadata"]["observed_data/x/.zarray"] if name == ".zmetadata" else found
        array |= {"filters": [{"id": "pickle", "protocol": 4}], "compressor": None}
        (store / name).write_text(json.dumps(found))
    (store / "observed_data" / "x" / "0.0").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(HVAEError, match="names the codec 'pickle'"), open_posterior(store) as tree:
        tree.load()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", '"text"', "9" * 5000, '{"schema": ', '{"schema": "pyro_hvae.run"}']
)
def test_a_record_that_is_none_is_an_error_that_names_it(tmp_path, content):
    hvae.fit(small_pair(), small_data(), steps=1, batch=10, device="cpu", progress=False, out=tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(HVAEError, match="config.json"):
        hvae.load(tmp_path / "run")
    with pytest.raises(HVAEError):
        hvae.fit(
            small_pair(),
            small_data(),
            steps=2,
            batch=10,
            device="cpu",
            progress=False,
            out=tmp_path / "run",
            resume=True,
        )


def test_real_files_are_far_from_the_limits(tmp_path):
    xr.Dataset({"zeros": (("y", "x"), np.zeros((2000, 2000)))}).to_netcdf(
        tmp_path / "zeros.nc", encoding={"zeros": {"zlib": True, "complevel": 9}}, engine="netcdf4"
    )
    assert read_arrays(tmp_path / "zeros.nc")["zeros"].shape == (2000, 2000)
