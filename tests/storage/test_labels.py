"""Labels of images as files keep them, checked before anything is computed."""

import datetime

import numpy as np
import pytest
import xarray as xr
from small import small_data, small_pair

from pyro_hvae.errors import HVAEError
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.storage.labels import storable
from pyro_hvae.storage.posterior_file import open_posterior

KEPT = {
    "None among texts": (["a", None, ""], ["a", "", ""]),
    "NaN among texts": (["a", np.nan, "b"], ["a", "", "b"]),
    "nothing but None": ([None, None, None], ["", "", ""]),
    "integers": ([1, np.int64(2), 3], [1, 2, 3]),
    "numbers with None": ([1, None, 2.5], [1.0, np.nan, 2.5]),
    "truth values": ([True, False, np.True_], [True, False, True]),
}


def with_label(name, values, n=3):
    return small_data().test.isel(image=slice(n)).assign_coords({name: ("image", values)})


def exported(images, path):
    export_posterior(small_pair(), images, moment_draws=2, prior_samples=1, receptive_fields=0, path=path).close()
    with open_posterior(path) as tree:
        return tree["constant_data"].to_dataset().load()


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("case", list(KEPT))
def test_objects_of_one_kind_are_kept_as_that_kind(case, suffix, tmp_path):
    given, expected = KEPT[case]
    found = exported(with_label("mine", np.array(given, object)), tmp_path / f"p.{suffix}")["mine"].values
    assert [v if v == v else None for v in found.tolist()] == [v if v == v else None for v in expected]


@pytest.mark.parametrize("dtype", ["f2", ">f4", "i1", "u8", ">i4", "f8", "?", "U3"])
def test_every_type_of_number_and_text_survives(dtype, tmp_path):
    values = np.array([0, 1, 1]).astype(dtype)
    found = exported(with_label("mine", values), tmp_path / "p.nc")["mine"].values
    assert found.tolist() == values.tolist()


def test_families_are_texts_whatever_they_were(tmp_path):
    for given, expected in (([np.nan, 2.0, 2.5], ["", "2", "2.5"]), ([0, 1, 2], ["0", "1", "2"])):
        found = storable(with_label("family", np.array(given)))["family"].values
        assert found.tolist() == expected
    as_variable = small_data().test.isel(image=slice(3)).reset_coords("family")
    as_variable["family"] = ("image", np.array(["a", None, "b"], object))
    assert exported(as_variable, tmp_path / "p.nc")["family"].values.tolist() == ["a", "", "b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["2020-01-01"] * 3, "M8[ns]"), r"datetime64\[ns\].*astype\(str\)"),
        (np.array([1, 2, 3], "m8[s]"), "timedelta64.*seconds"),
        (np.array([datetime.date(2020, 1, 1)] * 3), "date"),
        (np.array([b"a", b"b", b"c"]), "decode"),
        (np.array(["a", 1, 2.0], object), "float, int, str"),
        (np.array([1j, 2, 3]), "complex"),
        (np.array([2**70, 1, 1], object), "64 bits"),
        (np.array(["a", "\ud800", "c"]), "surrogates"),
    ],
)
def test_what_no_file_keeps_is_refused_before_anything_is_computed(values, message, tmp_path, monkeypatch):
    from pyro_hvae.export import posterior

    monkeypatch.setattr(posterior, "Moments", lambda *a: pytest.fail("computed"))
    with pytest.raises(HVAEError, match=f"the label 'mine' of the images.*{message}"):
        exported(with_label("mine", values), tmp_path / "p.nc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["sigma", "A", "c", "z2_field", "z1_dim", "transform_mean", "unit", "z2_to_z1_location"]
)
def test_names_that_the_file_has_for_something_else_are_refused(name, tmp_path):
    with pytest.raises(HVAEError, match=f"label '{name}'.*rename it"):
        exported(with_label(name, np.arange(3)), tmp_path / "p.nc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a/b", " a", "", "a b", 3])
def test_names_that_no_file_keeps_are_refused(name):
    with pytest.raises(HVAEError, match="which cannot stand in a file.*rename it"):
        storable(xr.Dataset(coords={name: ("image", np.arange(3))}))


def test_patches_keep_labels_alike(tmp_path):
    """The same rule for files of patches and runs, which keep held-out patches."""
    from dataclasses import replace

    data = small_data()
    families = np.array([None] * 59 + ["brick"], object)
    kept = replace(data, test=data.test.assign_coords(family=("image", families)))
    assert kept.save(tmp_path / "p.nc") and type(kept).load(tmp_path / "p.nc").test["family"].values.tolist() == [
        ""
    ] * 59 + ["brick"]
    with pytest.raises(HVAEError, match="the label 'when' of the test patches"):
        replace(data, test=data.test.assign_coords(when=("image", np.zeros(60, "M8[s]"))))
