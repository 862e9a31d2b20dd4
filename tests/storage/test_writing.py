"""What may be overwritten, by every writer of the package: a file of the same kind, and nothing else."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from planted import only_analyses
from small import small_data, small_linear, small_pair

import pyro_hvae as hvae
from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.report import analyse
from pyro_hvae.stimuli import PatchData
from pyro_hvae.storage.posterior_file import ROOT_ATTRIBUTES, PosteriorWriter, open_posterior
from pyro_hvae.training.run_directory import RunDirectory

ATTRS = dict.fromkeys(ROOT_ATTRIBUTES, "")
QUICK = dict(steps=4, batch=20, device="cpu", progress=False)
X = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)


@pytest.fixture
def run(tmp_path):
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=6, dim_z2=3, seed=0)
    hvae.fit(vae, small_data(), **QUICK, out=tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("target", ["run", "run/checkpoints", "run/heldout.nc", "run/config.json"])
@pytest.mark.parametrize(
    "command",
    ["export {run} --limit 5 --textures none --moment-draws 2", "audit {run} --limit 2 --units 2 --samples 8 --warmup 2",
     "evidence {run} --limit 2 --particles 5",
     "stimuli gabors --size 4"],
)  # fmt: skip
def test_no_command_overwrites_a_run_or_a_part_of_it(run, tmp_path, capsys, command, target):
    before = contents(run)
    words = command.format(run=run).split()
    assert main([*words, "--out", str(tmp_path / target), "--overwrite"]) == 2
    printed = capsys.readouterr().err
    assert str(tmp_path / target) in printed and ("directory" in printed or "only an earlier" in printed)
    assert contents(run) == before


def test_functions_overwrite_only_what_they_have_written(tmp_path):
    data, pair = small_data(), small_pair()
    writers = {
        "posterior": lambda path: export_posterior(pair, X, path=path, overwrite=True).close(),
        "patches": lambda path: data.save(path, overwrite=True),
    }
    mine = {"notes.txt": b"years of work", "data.nc": b"", "truncated.nc": b"\x89HDF garbage"}
    xr.Dataset({"mine": ("x", [1.0])}).to_netcdf(tmp_path / "data.nc")
    mine["data.nc"] = (tmp_path / "data.nc").read_bytes()
    for write in writers.values():
        for name, content in mine.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(HVAEError, match=r"only an earlier pyro_hvae\.\w+ is overwritten"):
                write(tmp_path / name)
            assert (tmp_path / name).read_bytes() == content
        (folder := tmp_path / "folder").mkdir(exist_ok=True)
        (folder / "chapter.tex").write_text("years of work")
        with pytest.raises(HVAEError, match="is a directory"):
            write(folder)
        assert (folder / "chapter.tex").read_text() == "years of work"
    writers["patches"](tmp_path / "p.nc")
    with pytest.raises(HVAEError, match=r"a file of pyro_hvae\.patches, where only an earlier pyro_hvae\.posterior"):
        writers["posterior"](tmp_path / "p.nc")
    writers["patches"](tmp_path / "p.nc")
    assert PatchData.load(tmp_path / "p.nc").size == data.size
    (tmp_path / "empty.nc").touch()  # of mktemp
    writers["patches"](tmp_path / "empty.nc")


def test_a_directory_that_is_no_store_of_ours_is_not_overwritten(tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "chapter.tex").write_text("years of work")
    with pytest.raises(HVAEError, match="only an earlier"):
        export_posterior(small_pair(), X, path=tmp_path / "mine.zarr", overwrite=True)
    assert (tmp_path / "mine.zarr" / "chapter.tex").read_text() == "years of work"
    xr.Dataset({"mine": ("x", [1.0])}).to_zarr(tmp_path / "other.zarr", zarr_format=2)
    before = contents(tmp_path / "other.zarr")
    with pytest.raises(HVAEError, match="only an earlier"):
        export_posterior(small_pair(), X, path=tmp_path / "other.zarr", overwrite=True)
    assert contents(tmp_path / "other.zarr") == before
    export_posterior(small_pair(), X, path=tmp_path / "ours.zarr").close()
    export_posterior(small_pair(), X[:3], path=tmp_path / "ours.zarr", overwrite=True).close()
    with open_posterior(tmp_path / "ours.zarr") as tree:
        assert tree["bound"].sizes["image"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.zarr", "other.zarr", "ours.zarr"]


@pytest.mark.parametrize("name", ["posterior.nc", "posterior.zarr"])
def test_writing_through_a_symbolic_link_keeps_the_link(tmp_path, name):
    (tmp_path / "disk").mkdir()
    link = tmp_path / name
    link.symlink_to(tmp_path / "disk" / name)
    export_posterior(small_pair(), X, path=link).close()  # the link leads nowhere yet
    export_posterior(small_pair(), X[:3], path=link, overwrite=True).close()
    assert link.is_symlink() and (tmp_path / "disk" / name).exists()
    with open_posterior(link) as tree:
        assert tree["bound"].sizes["image"] == 3
    assert [p.name for p in (tmp_path / "disk").iterdir()] == [name]
    small_data().save(tmp_path / "patches.nc")
    (tmp_path / "link.nc").symlink_to(tmp_path / "patches.nc")
    small_data(train=20).save(tmp_path / "link.nc", overwrite=True)
    assert (tmp_path / "link.nc").is_symlink() and PatchData.load(tmp_path / "patches.nc").train.sizes["image"] == 20


def test_overwriting_a_run_leaves_what_is_not_its_own(run, tmp_path):
    (run / "notes.txt").write_text("mine")
    (run / "figures").mkdir()
    (run / "figures" / "one.png").write_text("mine")
    fits = dict(QUICK, out=run, overwrite=True)
    hvae.fit(small_linear(), small_data(), **fits)
    assert RunDirectory.open(run).config["vae"]["model"]["class"] == "LinearModel"
    assert (run / "notes.txt").read_text() == "mine" and (run / "figures" / "one.png").read_text() == "mine"
    other = tmp_path / "website"
    other.mkdir()
    (other / "config.json").write_text('{"name": "mine"}')
    (other / "index.html").write_text("mine")
    before = contents(other)
    with pytest.raises(HVAEError, match="not a run directory"):
        hvae.fit(small_linear(), small_data(), **fits | {"out": other})
    assert contents(other) == before
    (tmp_path / "link").symlink_to(run)
    hvae.fit(small_linear(), small_data(), **fits | {"out": tmp_path / "link"})
    assert (tmp_path / "link").is_symlink() and RunDirectory.open(run).latest().step == 4


def test_the_demo_overwrites_a_demo_only(tmp_path, capsys):
    (tmp_path / "top_down").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["demo", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "does not hold an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.fixture
def one_analysis():
    with only_analyses("bound_terms"):
        yield


def test_reports_and_figures_replace_reports_and_figures_only(planted, tmp_path, one_analysis):
    (tmp_path / "results.json").write_text('{"mine": 1}')
    with pytest.raises(HVAEError, match="only an earlier pyro_hvae.results"):
        analyse(planted.path, tmp_path, overwrite=True)
    (tmp_path / "results.json").unlink()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"\x89PNG mine")
    analyse(planted.path, tmp_path, overwrite=True)
    names = sorted(p.name for p in (tmp_path / "figures").iterdir())
    (tmp_path / "figures" / names[0]).rename(tmp_path / "figures" / "stale.png")
    analyse(planted.path, tmp_path, overwrite=True)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == names
    assert (tmp_path / "figures" / "mine.png").read_bytes() == b"\x89PNG mine"


def test_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.nc")
    with pytest.raises(HVAEError, match="neither a file nor a directory"):
        export_posterior(small_pair(), X, path=tmp_path / "pipe.nc", overwrite=True)
    assert (tmp_path / "pipe.nc").is_fifo()


@pytest.mark.parametrize("name", ["posterior.nc", "posterior.zarr"])
def test_of_two_exports_to_one_new_path_neither_is_lost(tmp_path, name):
    """Both find the path free and begin; who comes second is told where its file is."""
    path, other = tmp_path / name, tmp_path / f"posterior-2{Path(name).suffix}"
    late = PosteriorWriter(path, ATTRS, partial=True)
    early = PosteriorWriter(path, ATTRS, partial=True)
    with pytest.raises(HVAEError, match=f"came into being while .* that is in {other}"), late:
        late.append(chunk(4))
        with early:
            early.append(chunk(3))
    found = []
    for each in (path, other):
        with open_posterior(each, partial=True) as tree:
            found.append(tree["posterior_moments"].sizes["image"])
    assert found == [3, 4] and len(list(tmp_path.iterdir())) == 2


def chunk(images):
    return {"posterior_moments": xr.Dataset({"z1_mean": (("image", "z1_dim"), np.ones((images, 2)))})}


def test_the_kind_of_a_file_that_is_open_can_be_asked_again_and_again(tmp_path):
    """Through the netCDF library the third opening of an open file ended the process (netCDF 4.10, HDF5 2.0)."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from planted import Planted
        from pyro_hvae.storage.posterior_file import open_posterior
        from pyro_hvae.storage.writing import kind_of
        path = Planted(Path(sys.argv[2]), natural=6, train=2, test=2, draws=0, units=0).write().path
        mine = open_posterior(path)
        with open_posterior(path) as again:
            again["observed_data"]["x"].values
        print({kind_of(path) for _ in range(20)}, float(mine["observed_data"]["x"].mean()) != 0)
        """
    )
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", script, tests, str(tmp_path / "planted.nc")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "{'pyro_hvae.posterior'} True", done.stderr[-2000:]
