"""A run goes on with the images it began with, wherever they are now, however their path is spelt, on any number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
from skimage.io import imsave

from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import natural_patches
from pyro_hvae.training.run_directory import RunDirectory
from tests.stimuli.conftest import photograph

TINY = ["--train-patches", "200", "--test-patches", "20", "--batch", "20", "--device", "cpu", "--dim-z1", "5"]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "photographs").mkdir()
    for n in range(4):
        pixels = (photograph(n, (120, 140)) * 500).astype(np.uint16)
        imsave(tmp_path / "photographs" / f"{n}.png", pixels, check_contrast=False)
    return tmp_path / "photographs"


@pytest.fixture
def run(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyro_hvae.stimuli.whitening.kept_components", lambda pixels: 100)
    out = tmp_path / "run"
    assert main(["train", "LinearVAE20", *TINY, "--images", "photographs", "--steps", "2", "--out", str(out)]) == 0
    return out


def step(run):
    return RunDirectory.open(run).latest().step


def test_another_spelling_of_the_path_is_the_same_folder(run, images):
    for spelt, steps in ((f"{images}/", 3), (str(images), 4)):
        words = ["train", "LinearVAE20", *TINY, "--images", spelt, "--steps", str(steps), "--out", str(run), "--resume"]
        assert main(words) == 0 and step(run) == steps


def test_photographs_that_have_moved(run, images, capsys, tmp_path):
    images.rename(tmp_path / "elsewhere")
    resume = ["train", "--resume", "--out", str(run), "--steps", "3", "--device", "cpu"]
    assert main(resume) == 2
    assert "--resume --images" in capsys.readouterr().err
    (tmp_path / "elsewhere" / "notes.txt").write_text("not an image")
    assert main([*resume, "--images", str(tmp_path / "elsewhere")]) == 0 and step(run) == 3
    (tmp_path / "elsewhere" / "3.png").write_bytes((tmp_path / "elsewhere" / "0.png").read_bytes()[:-1] + b"\1")
    (tmp_path / "elsewhere" / "2.png").unlink()
    assert main([*resume[:-3], "4", "--images", str(tmp_path / "elsewhere")]) == 2 and step(run) == 3


CUT = """
import sys
from threadpoolctl import threadpool_limits
from pyro_hvae.stimuli import natural_patches
from pyro_hvae.training.run_directory import digest
with threadpool_limits(int(sys.argv[1])):
    print(digest(natural_patches(20, train=3000, test=20).train["x"].values))
"""


def test_patches_do_not_depend_on_the_number_of_threads():
    def cut(threads):
        environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        command = [sys.executable, "-c", CUT, str(threads)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert cut(1) == cut(2)


# -- cutting


def test_more_photographs_than_patches_and_a_tiny_one_among_large_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_hvae.stimuli.whitening.kept_components", lambda pixels: 4)
    for n in range(12):
        shape = (9, 9) if n == 3 else (60, 60)
        imsave(tmp_path / f"{n}.png", (photograph(n, shape) * 500).astype(np.uint16), check_contrast=False)
    data = natural_patches(8, tmp_path, train=6, test=1, test_fraction=0.5)
    assert data.train.sizes["image"] == 6 and data.test.sizes["image"] == 1
    data = natural_patches(8, tmp_path, train=300, test=20)
    assert data.train.sizes["image"] == 300 and np.isfinite(data.train["x"]).all()


def test_subfolders_are_named(tmp_path):
    (tmp_path / "more").mkdir()
    with pytest.raises(HVAEError, match=r"no images here.*subfolders are not read.*more/"):
        natural_patches(8, tmp_path)
    for n in range(3):
        imsave(tmp_path / f"{n}.png", (photograph(n) * 500).astype(np.uint16), check_contrast=False)
    assert natural_patches(8, tmp_path, train=300, test=20).provenance["ignored"] == ["more/"]
