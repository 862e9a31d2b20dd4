"""What killed writers leave behind, and the next writer's duty to it."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.storage.posterior_file import ROOT_ATTRIBUTES, PosteriorWriter, open_posterior
from pyro_hvae.storage.writing import write_atomically

ATTRS = dict.fromkeys(ROOT_ATTRIBUTES, "")
KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    import xarray as xr
    from pyro_hvae.storage import writing
    from pyro_hvae.storage.posterior_file import ROOT_ATTRIBUTES, PosteriorWriter

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    path, moment = Path(sys.argv[1]), sys.argv[2]
    if moment == "between":  # the earlier store is taken away, the new one not yet there
        real = os.rename
        writing.os.rename = lambda source, target: die() if str(target) == str(path) else real(source, target)
    else:
        setattr(writing, moment, die)
    with PosteriorWriter(path, dict.fromkeys(ROOT_ATTRIBUTES, ""), partial=True, overwrite=path.exists()) as writer:
        moments = xr.Dataset({"z1_mean": (("image", "z1_dim"), np.ones((3, 2)))})
        writer.append({"posterior_moments": moments})
    """
)


def write(path, images, **options):
    with PosteriorWriter(path, ATTRS, partial=True, **options) as writer:
        moments = xr.Dataset({"z1_mean": (("image", "z1_dim"), np.ones((images, 2)))})
        writer.append({"posterior_moments": moments})


def images(path):
    with open_posterior(path, partial=True) as tree:
        return tree["posterior_moments"].sizes["image"]


def killed(path, moment):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), moment], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("name", ["posterior.nc", "posterior.zarr"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, name):
    path = tmp_path / name
    killed(path, "fsync")
    left = [p.name for p in tmp_path.iterdir()]
    assert len(left) == 1 and left[0].endswith(".partial")
    write(path, 2)
    assert [p.name for p in tmp_path.iterdir()] == [name] and images(path) == 2


def test_a_store_that_was_being_replaced_is_put_back(tmp_path):
    path = tmp_path / "posterior.zarr"
    write(path, 5)
    killed(path, "between")
    assert not path.exists()
    assert images(path) == 5  # the earlier one
    write(path, 2, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.zarr"] and images(path) == 2


def test_temporaries_of_others_are_left_to_them(tmp_path):
    mine = [
        ".notes.partial",
        ".a.nc.partial",
        f".x.nc.00000000-{2**22 + 1}-0123abcd.partial",
    ]  # the last of another machine
    for name in mine:
        (tmp_path / name).write_text("not ours")
    with PosteriorWriter(tmp_path / "slow.nc", ATTRS, partial=True) as slow:  # a process that is alive: this one
        slow.append({"posterior_moments": xr.Dataset({"z1_mean": (("image", "z1_dim"), np.ones((1, 2)))})})
        write_atomically(tmp_path / "other", lambda file: file.write_text("quick"))
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "slow.nc", "other"]) and images(tmp_path / "slow.nc") == 1
