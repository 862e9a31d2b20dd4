"""The posterior file: what is written is what is read, in chunks of any size; nothing broken passes for a file."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import (
    ROOT_ATTRIBUTES,
    PosteriorWriter,
    images,
    label,
    missing,
    open_posterior,
    schema,
    sites,
)

ATTRS = {name: "" for name in ROOT_ATTRIBUTES if name != "created"} | {"configuration": {"beta": [1, 0.5]}, "seed": 3}
PIXELS, Z1, Z2, DRAWS = 9, 6, 3, 40
SIZES = {"pixel": PIXELS, "z1_dim": Z1, "z2_dim": Z2, "sample": 5, "chain": 1, "draw": DRAWS}
FAMILIES = np.array(["", "oat", "a family with a long name", "ρ"])


def posterior(n: int, seed: int = 0) -> dict[str, xr.Dataset]:
    """Every per-image group of a two-layer file for ``n`` images, float32 values as stored."""
    rng = np.random.default_rng(seed)

    def values(*dims: str) -> tuple[tuple[str, ...], np.ndarray]:
        return dims, rng.normal(size=[SIZES.get(dim, n) for dim in dims]).astype(np.float32)

    groups = {
        group: xr.Dataset({name: values(*dims) for name, dims in variables.items() if "image" in dims})
        for group, variables in schema(["z1", "z2"]).items()
        if group != "prior_predictive"
    }
    drawn = ("chain", "draw", "image")
    groups["posterior"] = xr.Dataset({"z1": values(*drawn, "z1_dim"), "z2": values(*drawn, "z2_dim")})
    units = {"unit": [1, 4], "unit_bis": [1, 4]}
    correlation = (("image", "unit", "unit_bis"), rng.normal(size=(n, 2, 2)).astype(np.float32))
    groups["posterior_moments"] = groups["posterior_moments"].assign(z1_correlation=correlation).assign_coords(units)
    groups["observed_data"]["mask"] = ("image", "pixel"), rng.random((n, PIXELS)) > 0.5
    labels = {"family": ("image", FAMILIES[np.arange(n) % 4]), "row": ("image", np.arange(n) * 7)}
    groups["constant_data"] = xr.Dataset(coords=labels)
    return groups


def constants() -> dict[str, xr.Dataset]:
    rng = np.random.default_rng(1)
    groups = {}
    for group, variables in schema(["z1", "z2"]).items():
        fixed = {name: dims for name, dims in variables.items() if "image" not in dims}
        if fixed:
            made = {name: (dims, rng.normal(size=[SIZES[dim] for dim in dims])) for name, dims in fixed.items()}
            groups[group] = xr.Dataset(made)
    groups["constant_data"]["transform_matrix"] = ("kept", "pixel"), rng.normal(size=(4, PIXELS))
    return groups


def write(path: Path, cuts: tuple[int, ...] = (4, 11), n: int = 13, **options: bool | int) -> dict[str, xr.Dataset]:
    groups = posterior(n)
    with PosteriorWriter(path, ATTRS, **options) as writer:
        for start, stop in zip((0, *cuts), (*cuts, n), strict=True):
            writer.append({name: dataset.isel(image=slice(start, stop)) for name, dataset in groups.items()})
        writer.write(constants())
    return groups


def same(tree: xr.DataTree, groups: dict[str, xr.Dataset]) -> None:
    for group, dataset in groups.items():
        for name, variable in dataset.variables.items():
            if name in ("family", "row"):
                np.testing.assert_array_equal(label(tree, name), variable.values)
                assert name in tree[group].coords
            else:
                xr.testing.assert_equal(tree[group][name].variable, variable)
                assert tree[group][name].dtype == variable.dtype


@pytest.mark.parametrize("name", ["posterior.nc", "posterior.zarr"])
def test_what_is_written_in_chunks_is_what_is_read(tmp_path, name):
    groups = write(tmp_path / name)
    with open_posterior(tmp_path / name) as tree:
        same(tree, groups)
        same(tree, constants())
        assert sites(tree) == ["z1", "z2"]
        assert images(tree) == 13
        np.testing.assert_array_equal(tree["bound"]["image"], np.arange(13))
        assert tree.attrs["configuration"] == '{"beta": [1, 0.5]}'
        assert tree.attrs["seed"] == 3
        assert tree.attrs["created"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(1, 11), unique=True, max_size=4).map(sorted), st.sampled_from([0, 4]))
def test_contents_do_not_depend_on_how_images_are_cut(tmp_path_factory, cuts, compression):
    path = tmp_path_factory.mktemp("cut") / "posterior.nc"
    groups = write(path, tuple(cuts), n=12, compression=compression)
    with open_posterior(path) as tree:
        same(tree, groups)


def test_chunked_reading_gives_dask_arrays_of_so_many_images(tmp_path):
    groups = write(tmp_path / "posterior.nc")
    with open_posterior(tmp_path / "posterior.nc", chunks=5) as tree:
        assert tree["posterior"]["z1"].chunks[2] == (5, 5, 3)
        same(tree, groups)


def test_float64_is_stored_as_float32_along_images_and_kept_elsewhere(tmp_path):
    groups = {name: dataset.astype(float) if name == "bound" else dataset for name, dataset in posterior(4).items()}
    with PosteriorWriter(tmp_path / "posterior.nc", ATTRS) as writer:
        writer.append(groups)
        writer.write(constants())
    with open_posterior(tmp_path / "posterior.nc") as tree:
        assert tree["bound"]["elbo"].dtype == np.float32
        assert tree["constant_data"]["A"].dtype == np.float64


def test_memory_is_bounded_by_one_chunk(tmp_path):
    """30 chunks of 2.4 MB grow the process by far less than the file they make."""
    script = f"""
        import resource
        import numpy as np, xarray as xr
        from pyro_hvae.storage.posterior_file import PosteriorWriter
        rng = np.random.default_rng(0)
        def chunk():
            z = rng.normal(size=(600, 1000)).astype("f4")
            return {{"posterior_moments": xr.Dataset({{"z1_mean": (("image", "z1_dim"), z)}})}}
        attrs = {ATTRS!r}
        with PosteriorWriter({str(tmp_path / "big.nc")!r}, attrs, partial=True) as writer:
            for index in range(30):
                writer.append(chunk())
                if index == 10:
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    grown = int(_python(script)) * 1024
    assert (tmp_path / "big.nc").stat().st_size > 70e6
    assert grown < 30e6


@pytest.mark.parametrize("name", ["posterior.nc", "posterior.zarr"])
def test_an_earlier_file_survives_a_failure_and_no_litter_is_left(tmp_path, name):
    groups = write(tmp_path / name)
    with (
        pytest.raises(KeyError, match="interrupted"),
        PosteriorWriter(tmp_path / name, ATTRS, overwrite=True) as writer,
    ):
        writer.append(posterior(2))
        raise KeyError("interrupted")
    with open_posterior(tmp_path / name) as tree:
        same(tree, groups)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    write(tmp_path / name, cuts=(), n=5, overwrite=True)
    with open_posterior(tmp_path / name) as tree:
        assert images(tree) == 5


def test_a_full_disk_is_named_and_leaves_the_earlier_file(tmp_path):
    groups = write(tmp_path / "posterior.nc")
    script = f"""
        import resource
        import numpy as np, xarray as xr
        from pyro_hvae.errors import HVAEError
        from pyro_hvae.storage.posterior_file import PosteriorWriter
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        chunk = {{"posterior_moments": xr.Dataset({{"z1_mean": (("image", "z1_dim"), np.ones((100, 1000)))}})}}
        try:
            with PosteriorWriter({str(tmp_path / "posterior.nc")!r}, {ATTRS!r}, overwrite=True, partial=True) as writer:
                for _ in range(20):
                    writer.append(chunk)
        except HVAEError as error:
            print(error)
    """
    assert "is the disk full?; the earlier" in _python(script)
    with open_posterior(tmp_path / "posterior.nc") as tree:
        same(tree, groups)
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.nc"]


def test_existing_paths_are_refused_before_anything_is_written(tmp_path):
    write(tmp_path / "posterior.nc")
    with pytest.raises(HVAEError, match=r"exists; .*overwrite"):
        PosteriorWriter(tmp_path / "posterior.nc", ATTRS)
    with pytest.raises(HVAEError, match="no directory"):
        PosteriorWriter(tmp_path / "nowhere" / "posterior.nc", ATTRS)
    with pytest.raises(HVAEError, match="attrs lack preset"):
        PosteriorWriter(tmp_path / "other.nc", {k: v for k, v in ATTRS.items() if k != "preset"})
    with pytest.raises(HVAEError, match="compression"):
        PosteriorWriter(tmp_path / "other.zarr", ATTRS, compression=3)


def test_chunks_that_do_not_fit_together_are_refused(tmp_path):
    def attempt(*chunks: dict[str, xr.Dataset]) -> None:
        with PosteriorWriter(tmp_path / "posterior.nc", ATTRS) as writer:
            for chunk in chunks:
                writer.append(chunk)

    whole = posterior(3)
    with pytest.raises(HVAEError, match="same number of images"):
        attempt(whole | {"bound": whole["bound"].isel(image=[0])})
    with pytest.raises(HVAEError, match="this chunk holds"):
        attempt(whole, {name: dataset for name, dataset in whole.items() if name != "bound"})
    with pytest.raises(HVAEError, match="no 'image' dim"):
        attempt(whole | {"constant_data": whole["constant_data"].assign(c=("pixel", np.zeros(PIXELS)))})
    with pytest.raises(HVAEError, match="z1_dim has 5 entries, in the file already 6"):
        short = whole["posterior_moments"].isel(z1_dim=slice(5))
        attempt(whole, whole | {"posterior_moments": short})
    with pytest.raises(HVAEError, match="no images were appended"):
        attempt()
    with pytest.raises(HVAEError, match="group prior_predictive is missing"):
        attempt(whole)
    with (
        pytest.raises(HVAEError, match="is in the file already"),
        PosteriorWriter(tmp_path / "posterior.nc", ATTRS) as writer,
    ):
        writer.write(constants())
        writer.write(constants())
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_no_posterior_file_is_refused(tmp_path):
    with pytest.raises(HVAEError, match="there is no posterior file"):
        open_posterior(tmp_path / "absent.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(HVAEError, match="cannot be read as netCDF-4"):
        open_posterior(tmp_path / "text.nc")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(HVAEError, match=r"cannot be read as zarr|is no posterior file"):
        open_posterior(tmp_path / "empty.zarr")
    xr.Dataset({"x": ("a", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="netcdf4")
    with pytest.raises(HVAEError, match="is no posterior file"):
        open_posterior(tmp_path / "other.nc")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, kept):
    write(tmp_path / "whole.nc")
    content = (tmp_path / "whole.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(HVAEError, match="truncated"):
        open_posterior(tmp_path / "cut.nc")


def edited(tmp_path: Path, change) -> Path:
    write(tmp_path / "whole.nc")
    with xr.open_datatree(tmp_path / "whole.nc", engine="netcdf4") as source:
        tree = source.load().copy(deep=True)
    change(tree)
    tree.to_netcdf(tmp_path / "edited.nc", engine="netcdf4")
    return tmp_path / "edited.nc"


def _drop(group: str, *names: str):
    def change(tree: xr.DataTree) -> None:
        tree[group] = xr.DataTree(tree[group].to_dataset().drop_vars(names))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.attrs.update(schema_version="999"), r"schema version 999, this pyro_hvae reads 1"),
        (lambda tree: tree.attrs.pop("guide"), "attribute guide is missing"),
        (lambda tree: tree.__delitem__("bound"), "group bound is missing"),
        (_drop("posterior_moments", "z2_variance"), "variable posterior_moments/z2_variance is missing"),
        (_drop("posterior_moments", "z1_mean", "z2_mean"), "variable posterior_moments/z1_mean is missing"),
        (_drop("constant_data", "z2_field"), "variable constant_data/z2_field is missing"),
        (_drop("posterior_moments", "unit"), "coordinate posterior_moments/unit"),
        (
            lambda tree: tree["bound"].__setitem__("elbo", xr.DataArray(np.zeros(3), dims="sample")),
            r"bound/elbo has dims \('sample',\)",
        ),
        (lambda tree: tree.__setitem__("bound", xr.DataTree(tree["bound"].to_dataset().isel(image=[0, 1]))), "bound 2"),
    ],
)
def test_what_breaks_the_schema_is_named(tmp_path, change, message):
    with pytest.raises(HVAEError, match=message):
        open_posterior(edited(tmp_path, change))


def test_partial_files_open_on_request_and_say_what_is_missing(tmp_path):
    path = edited(tmp_path, lambda tree: tree.__delitem__("bound"))
    with open_posterior(path, partial=True) as tree:
        assert missing(tree) == ["group bound is missing"]


@pytest.mark.parametrize("name", ["posterior.nc"])
def test_arviz_opens_the_file_and_summarises_a_chosen_unit(tmp_path, name):
    import arviz

    groups = write(tmp_path / name)
    draws = groups["posterior"]["z1"].sel(image=7, z1_dim=4).values
    inference = arviz.from_netcdf(tmp_path / name)
    table = arviz.summary(inference["posterior"]["z1"].sel(image=7, z1_dim=[4]), round_to="none")
    assert list(table.index) == ["z1[4]"]
    assert float(table["mean"].iloc[0]) == pytest.approx(draws.mean(), abs=1e-5)
    assert float(table["sd"].iloc[0]) == pytest.approx(draws.std(ddof=1), rel=0.02)
    assert set(inference["constant_data"]["family"].values.astype(str)) == set(FAMILIES)


def test_the_door_and_the_analyses_import_neither_torch_nor_pyro():
    script = """
        import sys
        import pyro_hvae.storage.posterior_file
        import pyro_hvae.analysis
        print([name for name in sys.modules if name.split(".")[0] in ("torch", "pyro") or "programs" in name])
    """
    assert _python(script) == "[]"


def _python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_file_of_few_images_is_about_as_large_as_they_are(tmp_path):
    """A chunk takes its whole size on disk: sized for thousands of images, a hundred took ten times their place."""
    images, dims = 100, 450
    rng = np.random.default_rng(0)
    with PosteriorWriter(tmp_path / "few.nc", ATTRS, partial=True) as writer:
        for start in (0, 50):
            moments = rng.normal(size=(50, dims)).astype(np.float32) + start
            named = {f"z1_{name}": (("image", "z1_dim"), moments) for name in ("mean", "variance")}
            writer.append(
                {
                    "posterior_moments": xr.Dataset(named),
                    "observed_data": xr.Dataset({"x": (("image", "pixel"), moments)}),
                }
            )
    stored = 3 * images * dims * 4
    assert stored < (tmp_path / "few.nc").stat().st_size < 1.6 * stored
