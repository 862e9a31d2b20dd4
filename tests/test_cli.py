"""The command line: the whole path on embedded photographs, and the errors a user gets."""

import html
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from small import small_data

from pyro_hvae.cli import main
from pyro_hvae.stimuli import texture_patches
from pyro_hvae.storage.posterior_file import open_posterior
from pyro_hvae.training.run_directory import RunDirectory

TINY = ["--train-patches", "400", "--test-patches", "60", "--batch", "50", "--log-every", "5", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["train", "TDVAE20", *TINY, "--steps", "12", "--dim-z2", "5", "--start", "linear_regime", "--beta",
                 "z2=0:0.1,6:1", "--learning-rate", "1e-3", "--checkpoint-every", "5", "--out", str(out)]  # fmt: skip
    assert main(arguments) == 0
    return out


def test_train_export_analyse(trained, tmp_path, capsys):
    history = RunDirectory.open(trained).history()
    assert int(history.step[-1]) == 12 and np.isfinite(history.test_elbo).all()
    posterior = tmp_path / "posterior.nc"
    assert main(["export", str(trained), "--out", str(posterior), "--limit", "40", "--texture-patches", "90",
                 "--moment-draws", "4", "--draws", "30", "--units", "0", "5", "--evidence", "20", "--evidence-images", "9",
                 "--receptive-fields", "5", "--device", "cpu"]) == 0  # fmt: skip
    with open_posterior(posterior) as tree:
        families, counts = np.unique(tree["constant_data"]["family"].values.astype(str), return_counts=True)
        assert dict(zip(families, counts.tolist(), strict=True)) == {"": 40, "brick": 30, "grass": 30, "gravel": 30}
        assert json.loads(tree.attrs["configuration"])["training"]["fit"]["steps"] == 12
        assert (tree.attrs["texture_intensity"], tree.attrs["texture_whitening"]) == ("own", "natural")
        assert int(tree["evidence"]["log_evidence"].notnull().sum()) == 9
        assert tree["constant_data"]["z1_receptive_field"].attrs["images"] == 5
    assert main(["analyse", str(posterior), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "data:image/png;base64" in page and "TDVAE20" in page
    assert "own intensity histogram matched to the unit normal, natural whitening" in html.unescape(page)
    assert "next: pyro-hvae analyse" in capsys.readouterr().out


def test_textures_of_an_export_are_preprocessed_as_asked(trained, tmp_path, capsys):
    posterior, textures = tmp_path / "posterior.nc", tmp_path / "textures.nc"
    given = ["--moment-draws", "4", "--receptive-fields", "0", "--device", "cpu"]
    assert main(["export", str(trained), "--out", str(posterior), "--limit", "5", "--texture-patches", "900",
                 "--texture-intensity", "own_pooled", "--texture-whitening", "own", *given]) == 0  # fmt: skip
    transform = RunDirectory.open(trained).transform()
    with open_posterior(posterior) as tree:
        assert (tree.attrs["texture_intensity"], tree.attrs["texture_whitening"]) == ("own_pooled", "own")
        expected = texture_patches(
            20, transform=transform, train=600, test=300, intensity="own_pooled", whitening="own"
        )
        np.testing.assert_array_equal(tree["observed_data"]["x"][5:605], expected.train["x"])
    options = ["--train", "300", "--test", "90", "--intensity", "natural"]
    assert main(["stimuli", "textures", "--transform", str(trained), "--out", str(textures), *options]) == 0
    assert main(["export", str(trained), "--out", str(posterior), "--patches", str(textures), "--textures", "none",
                 "--overwrite", *given]) == 0  # fmt: skip
    with open_posterior(posterior) as tree:
        assert (tree.attrs["texture_intensity"], tree.attrs["texture_whitening"]) == ("natural", "natural")
    capsys.readouterr()
    assert main(["export", str(trained), "--out", str(tmp_path / "no.nc"), "--texture-intensity", "owned"]) == 2
    assert "unknown intensity 'owned'; did you mean 'own'? Known: natural, own, own_pooled." in capsys.readouterr().err


def test_swapped_guide_is_trained_on_the_very_same_model(trained, tmp_path):
    out = tmp_path / "swapped"
    assert main(["train", "TDVAE20", *TINY, "--guide", "bottom_up", "--dim-z2", "5", "--from", str(trained), "--train", "guide",
                 "--steps", "4", "--out", str(out)]) == 0  # fmt: skip
    ours, theirs = RunDirectory.open(out).latest().tensors, RunDirectory.open(trained).latest().tensors
    model = [name for name in theirs if name.startswith("vae.model.")]
    assert model and all((ours[name] == theirs[name]).all() for name in model)


def test_importance_weighted_training_from_the_command_line(tmp_path):
    for arguments in (
        ["TD-IWAE20-k4"],
        ["LinearVAE20", "--objective", "importance_weighted", "--particles", "3", "--gradient", "dreg"],
    ):
        assert main(["train", *arguments, *TINY, "--steps", "2", "--out", str(tmp_path / arguments[0])]) == 0
    assert RunDirectory.open(tmp_path / "LinearVAE20").config["objective"]["num_particles"] == 3


def test_ctrl_c_saves_and_resume_goes_on(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "pyro_hvae", "train", "LinearVAE20", *TINY, "--steps", "100000", "--out", str(out)]
    command += ["--compile", "never", "--checkpoint-every", "5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not any((out / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped by SIGINT" in printed and f"--resume --out {out}" in printed
    step = RunDirectory.open(out).latest().step
    assert main(["train", "--resume", "--out", str(out), "--steps", str(step + 2), "--device", "cpu"]) == 0
    assert RunDirectory.open(out).latest().step == step + 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "TDVEA20", "--out", "{tmp}/r"], "did you mean 'TDVAE20'"),
        (["train", "TDVAE20", "--guide", "topdown", "--out", "{tmp}/r"], "did you mean 'top_down'"),
        (["train", "TDVAE20", "--gradient", "dregs", "--out", "{tmp}/r"], "did you mean 'dreg'"),
        (["train", "TDVAE20", "--objective", "iwelbo", "--out", "{tmp}/r"], "unknown objective 'iwelbo'"),
        (["train", "TDVAE20", "--start", "linear", "--out", "{tmp}/r"], "did you mean 'linear_regime'"),
        (["train", "TDVAE20", "--beta", "z2:1", "--out", "{tmp}/r"], "expected SITE=SCHEDULE"),
        (["train", "LinearVAE20", "--dim-z2", "5", "--out", "{tmp}/r"], "no layer z2"),
        (["train", "TDVAE20", "--images", "{tmp}/nowhere", "--out", "{tmp}/r"], "nowhere"),
        (["train", "TDVAE20", "--images", "{tmp}/tiny.png", "--out", "{tmp}/r"], "tiny.png"),
        (["train", "TDVAE20", "--images", "{tmp}/broken.png", "--out", "{tmp}/r"], "broken.png"),
        (
            ["train", "TDVAE20", "--patches", "{tmp}/broken.png", "--contrast", "none", "--out", "{tmp}/r"],
            "cut already",
        ),
        (["train", "TDVAE20", *TINY, "--steps", "2", "--out", "{trained}"], "exists; use overwrite=True (--overwrite)"),
        (["train", "--out", "{tmp}/r"], "give a preset"),
        (["train", "--resume", "--out", "{tmp}/r"], "not a run directory"),
        (["train", "--resume", "--batch", "7", "--out", "{trained}"], "--batch cannot change"),
        (["export", "{tmp}", "--out", "{tmp}/p.nc"], "not a run directory"),
        (["export", "{trained}", "--out", "{tmp}/missing/p.nc"], "no directory"),
        (["export", "{trained}", "--out", "{tmp}/taken.nc"], "exists"),
        (["yardstick", "{tmp}"], "not a run directory"),
        (["yardstick", "{trained}"], "400 training patches that vary in 314 dimensions"),
        (["yardstick", "{trained}", "--limit", "0"], "argument --limit: must be a whole number of at least 1"),
        (["yardstick", "{trained}", "--sigma", "0.3"], "the model's own sigma is 0.4; leave --sigma out"),
        (["yardstick", "{trained}", "--patches", "{tmp}/none.nc"], "no such file"),
        (["analyse", "{tmp}/taken.nc", "--out", "{tmp}/report"], "taken.nc"),
        (["analyse", "{tmp}/none.nc", "--out", "{tmp}/report"], "no posterior file"),
        (["demo", "--out", "{tmp}"], "exists; use --overwrite"),
        (["demo", "--out", "{tmp}", "--overwrite"], "does not hold an earlier demo"),
    ],
)
def test_errors_say_what_to_do_and_lose_nothing(trained, tmp_path, capsys, arguments, says):
    import imageio.v3 as iio

    iio.imwrite(tmp_path / "tiny.png", np.arange(64, dtype=np.uint8).reshape(8, 8))
    (tmp_path / "broken.png").write_bytes((tmp_path / "tiny.png").read_bytes()[:40])
    (tmp_path / "taken.nc").write_bytes(b"mine")
    code = main([a.format(tmp=tmp_path, trained=trained) for a in arguments])
    printed = capsys.readouterr().err
    assert code == 2 and says in printed and printed.startswith("pyro-hvae: ") and "Traceback" not in printed
    assert (tmp_path / "taken.nc").read_bytes() == b"mine" and not (tmp_path / "r").exists()
    assert RunDirectory.open(trained).latest().step == 12


def test_presets_prints_every_published_system(capsys):
    from pyro_hvae.published import PRESETS

    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PRESETS)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A TDVAE of 16 pixels, small enough for long-run samplers."""
    import pyro_hvae as hvae

    out = tmp_path_factory.mktemp("small") / "run"
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=6, dim_z2=3, seed=0)
    hvae.fit(vae, small_data(), steps=150, batch=50, learning_rate=1e-2, out=out, device="cpu", progress=False)
    return out


def test_evidence_of_two_runs_on_the_same_images(small_run, tmp_path, capsys):
    out = tmp_path / "evidence.nc"
    options = "--limit 4 --particles 2000 --ais --bdmc --temperatures 30 --chains 2 --device cpu"
    assert main(["evidence", str(small_run), str(small_run), *options.split(), "--out", str(out)]) == 0
    assert "IW-2000" in capsys.readouterr().out
    table = xr.load_dataset(out)
    assert table.sizes["run"] == 2 and table.sizes["image"] == 4
    assert (table["log_evidence"] > table["elbo"] - 0.5).all(), "the evidence is above the ELBO, up to its noise"
    # Annealing knows nothing of the guide: agreement within its gap says that both are right.
    difference = abs(table["log_evidence"] - table["ais_log_evidence"]).mean()
    assert float(difference) < 3 * max(float(table["bdmc_gap"].mean()), 0.3)
    assert main(["evidence", str(small_run), "--out", str(out)]) == 2 and "exists" in capsys.readouterr().err


@pytest.fixture(scope="module")
def recut_run(tmp_path_factory):
    """A small TDVAE on patches that can be cut again."""
    import pyro_hvae as hvae

    out = tmp_path_factory.mktemp("recut") / "run"
    data = hvae.stimuli.natural_patches(4, train=400, test=60)
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=6, dim_z2=3, seed=0)
    hvae.fit(vae, data, steps=100, batch=50, learning_rate=1e-2, out=out, device="cpu", progress=False)
    return out


def test_yardsticks_of_a_run_are_kept_exported_and_reported(recut_run, tmp_path, capsys):
    assert main(["yardstick", str(recut_run), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "fitting to 400 training patches" in printed and "By its ELBO (nats an image) the model" in printed
    kept = RunDirectory.open(recut_run).yardsticks()
    assert dict(kept["log_density"].sizes) == {"yardstick": 5, "image": 60} and kept.attrs["dims"] == 12
    assert all(f"{name} " in printed for name in kept["yardstick"].values)
    assert f"{kept['log_density'].sel(yardstick='GSM').mean().item():.2f} ±" in printed

    file = recut_run / "yardsticks.nc"
    before = file.stat().st_mtime_ns
    assert main(["yardstick", str(recut_run), "--device", "cpu"]) == 0 and file.stat().st_mtime_ns == before
    again = capsys.readouterr().out
    assert "--refit fits again" in again and again.splitlines()[-8:] == printed.splitlines()[-8:]
    assert main(["yardstick", str(recut_run), "--seed", "1", "--device", "cpu"]) == 0
    assert "is of seed=0, not 1: fitted again" in capsys.readouterr().out
    assert main(["yardstick", str(recut_run), "--refit", "--device", "cpu"]) == 0
    assert "fitting to 400" in capsys.readouterr().out
    xr.testing.assert_identical(RunDirectory.open(recut_run).yardsticks()["log_density"], kept["log_density"])

    posterior = tmp_path / "posterior.nc"
    assert main(["export", str(recut_run), "--out", str(posterior), "--limit", "40", "--texture-patches", "30",
                 "--moment-draws", "4", "--receptive-fields", "0", "--evidence", "20", "--device", "cpu"]) == 0  # fmt: skip
    with open_posterior(posterior) as tree:
        found = tree["yardsticks"]["log_density"]
        np.testing.assert_allclose(found[:, :40], kept["log_density"][:, :40], rtol=1e-6)
        assert found.sizes["image"] > 40 and found[:, 40:].isnull().all()
    assert main(["analyse", str(posterior), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "By its ELBO (nats an image) the model" in page and "By its log evidence (nats an image) the model" in page
    assert "ELBO minus yardstick, mixture of GSMs" in page


def test_yardsticks_that_no_longer_hold_are_not_exported(recut_run, tmp_path, capsys):
    assert main(["yardstick", str(recut_run), "--device", "cpu"]) == 0
    directory = RunDirectory.open(recut_run)
    kept = directory.yardsticks()
    directory.write_yardsticks(kept.assign_attrs(sigma=0.7))
    posterior = tmp_path / "posterior.nc"
    assert main(["export", str(recut_run), "--out", str(posterior), "--limit", "9", "--textures", "none",
                 "--moment-draws", "4", "--device", "cpu"]) == 0  # fmt: skip
    assert "yardsticks left out, sigma=0.7, not 0.4: run `pyro-hvae yardstick" in capsys.readouterr().out
    with open_posterior(posterior) as tree:
        assert "yardsticks" not in tree.children
    directory.write_yardsticks(kept)


def test_yardsticks_need_the_runs_own_patches(small_run, tmp_path, capsys):
    assert main(["yardstick", str(small_run)]) == 2
    assert "yardstick --patches FILE" in capsys.readouterr().err
    other, same = (small_data(seed=seed).save(tmp_path / f"{seed}.nc") for seed in (1, 0))
    assert main(["yardstick", str(small_run), "--patches", str(other)]) == 2
    assert "are not those that" in capsys.readouterr().err
    assert main(["yardstick", str(small_run), "--patches", str(same), "--device", "cpu"]) == 0
    assert "By its ELBO" in capsys.readouterr().out
    moved = (small_run / "heldout.nc").rename(small_run / "elsewhere.nc")
    assert main(["yardstick", str(small_run)]) == 2
    assert "has no held-out patches (heldout.nc); copy" in capsys.readouterr().err
    moved.rename(small_run / "heldout.nc")


def test_audit_of_a_run(small_run, tmp_path, capsys):
    out = tmp_path / "audit.nc"
    options = "--limit 2 --units 4 --samples 120 --warmup 60 --chains 2 --device cpu"
    assert main(["audit", str(small_run), "--out", str(out), *options.split()]) == 0
    printed = capsys.readouterr().out
    assert "How much of the guide's posterior is real" in printed and out.with_suffix(".png").stat().st_size > 10_000
    assert main(["audit", str(small_run), "--out", str(out)]) == 2 and "exists" in capsys.readouterr().err
    script = [sys.executable, "analyses/guide_audit.py", str(out), "--out", str(tmp_path / "figures")]
    again = subprocess.run(script, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True).stdout
    assert set(printed.splitlines()[1:5]) <= set(again.splitlines())
    assert (tmp_path / "figures" / "guide_audit-audit.png").exists()
    assert main(["analyse", str(out), "--out", str(tmp_path / "report")]) == 0
    assert "is real" in (tmp_path / "report" / "report.html").read_text()
