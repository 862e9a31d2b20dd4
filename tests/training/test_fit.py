"""The training loop: what it optimises, what it reports, what it refuses, and that it can be stopped and resumed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import infer
from small import small_data, small_linear, small_pair

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.training.fit import fit, resume
from pyro_hvae.training.run_directory import Checkpoint, RunDirectory, load

QUICK = dict(steps=40, batch=20, learning_rate=1e-2, log_every=10, evaluate_every=20, checkpoint_every=10, progress=False,
             device="cpu")  # fmt: skip


def parameters(vae):
    return {name: p.detach().clone() for name, p in vae.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


# -- what is optimised


def test_linear_normal_pair_reaches_probabilistic_pca():
    """With Normal z1 the best bound is log N(x; mean, cov) of PPCA, known in closed form (Tipping & Bishop 1999)."""
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((3, 16))
    data = small_data(4000, 1000)
    for dataset in (data.train, data.test):
        n = dataset.sizes["image"]
        dataset["x"][:] = rng.standard_normal((n, 3)) @ mixing + 0.4 * rng.standard_normal((n, 16))
    exact_covariance = mixing.T @ mixing + 0.16 * np.eye(16)
    x = data.test["x"].values
    exact = -0.5 * (16 * np.log(2 * np.pi) + np.linalg.slogdet(exact_covariance)[1]
                    + np.einsum("np,pq,nq->n", x, np.linalg.inv(exact_covariance), x))  # fmt: skip
    run = fit(small_linear(), data, **QUICK | dict(steps=3000, batch=200, learning_rate="0:1e-2,3000:3e-4", log_every=500,
              evaluate_every=3000), objective=hvae.ELBO(gradient="rao_blackwell"))  # fmt: skip
    reached = float(run.history.test_elbo[-1])
    standard_error = x.std() / np.sqrt(len(x))
    assert exact.mean() - 0.5 < reached < exact.mean() + 3 * standard_error


@pytest.mark.parametrize(("train", "moves"), [("both", {"model", "guide"}), ("guide", {"guide"}), ("model", {"model"})])
def test_only_the_part_that_is_asked_for_is_trained(train, moves):
    vae = small_pair()
    before = parameters(vae)
    fit(vae, small_data(), **QUICK, train=train)
    moved = {name.split(".")[0] for name, p in parameters(vae).items() if not torch.equal(p, before[name])}
    assert moved == moves
    assert all(p.requires_grad for p in vae.parameters())


def test_the_global_parameter_store_stays_empty():
    pyro.clear_param_store()
    fit(small_pair(), small_data(), **QUICK)
    assert not list(pyro.get_param_store().keys())


def test_beta_zero_from_the_first_step_is_no_error_and_leaves_kl_out():
    run = fit(small_pair(), small_data(), **QUICK | dict(log_every=1), beta={"z1": "0:0,40:1", "z2": 0})
    first = run.history.isel(step=0)
    assert float(first.bound) == pytest.approx(float(first.reconstruction), rel=1e-6)
    assert float(run.history.beta_z1[-1]) == pytest.approx(39 / 40)


def test_history_is_un_annealed_and_adds_up():
    history = fit(small_pair(), small_data(), **QUICK, beta={"z2": 0.5}).history
    total = history.reconstruction - history.kl_z1 - history.kl_z2
    np.testing.assert_allclose(history.elbo, total, rtol=1e-5)
    np.testing.assert_allclose(history.bound, total + 0.5 * history.kl_z2, rtol=1e-5)
    np.testing.assert_allclose(history.test_elbo, history.test_reconstruction - history.test_kl_z1 - history.test_kl_z2,
                               rtol=1e-5)  # fmt: skip


def test_evaluation_does_not_disturb_training():
    often, never = small_pair(), small_pair()
    fit(often, small_data(), **QUICK | dict(evaluate_every=1))
    fit(never, small_data(), **QUICK | dict(evaluate_every=40))
    assert same(parameters(often), parameters(never))


def test_seed_decides_the_course():
    runs = []
    for seed in (0, 0, 1):
        vae = small_pair()
        fit(vae, small_data(), **QUICK, seed=seed)
        runs.append(parameters(vae))
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_every_epoch_shows_every_patch_once_in_another_order():
    seen = []
    data = small_data(train=100)
    fit(small_pair(), data, **QUICK | dict(steps=10, batch=20), on_step=lambda step, x: seen.append((step, x[:, 0])))
    assert [step for step, _ in seen] == list(range(10))
    seen = [x for _, x in seen]
    epochs = torch.cat(seen[:5]), torch.cat(seen[5:])
    values = torch.from_numpy(data.train["x"].values[:, 0])
    assert all(torch.equal(epoch.sort().values, values.sort().values) for epoch in epochs)
    assert not torch.equal(*epochs)


def test_clipped_and_skipped_steps_are_counted():
    clipped = fit(small_pair(), small_data(), **QUICK, clip=1e-3).history
    assert int(clipped.clipped.sum()) == 40 and int(clipped.skipped.sum()) == 0
    norms = fit(small_pair(), small_data(), **QUICK | dict(log_every=1)).history.grad_norm
    threshold = float(norms.quantile(0.5))
    some = fit(small_pair(), small_data(), **QUICK | dict(log_every=1), skip=threshold).history
    assert int(some.skipped.sum()) == int((some.grad_norm > threshold).sum()) > 0


def test_a_run_that_skips_everything_says_so_and_changes_nothing():
    vae = small_pair()
    before = parameters(vae)
    with pytest.raises(HVAEError, match="all of the last 10 steps were skipped.*skip=0.001"):
        fit(vae, small_data(), **QUICK, skip=1e-3)
    assert same(before, parameters(vae))


@pytest.mark.parametrize("objective", [infer.Trace_ELBO(), infer.TraceMeanField_ELBO(),
                                       infer.RenyiELBO(alpha=0.0, num_particles=3, vectorize_particles=True)])  # fmt: skip
def test_pyros_own_objectives_train(objective):
    vae = small_pair()
    history = fit(vae, small_data(), **QUICK | dict(steps=200), objective=objective).history
    assert float(history.elbo[-1]) > float(history.elbo[0]) + 5


def test_pyros_objectives_are_refused_where_they_are_wrong():
    with pytest.raises(HVAEError, match="KL of z1 analytically.*infers z2 from z1.*Trace_ELBO"):
        fit(small_pair("bottom_up"), small_data(), **QUICK, objective=infer.TraceMeanField_ELBO())
    with pytest.raises(HVAEError, match="JitTrace_ELBO"):
        fit(small_pair(), small_data(), **QUICK, objective=infer.JitTrace_ELBO())
    with pytest.raises(HVAEError, match="no beta"):
        fit(small_pair(), small_data(), **QUICK, objective=infer.Trace_ELBO(), beta=0.5)
    with pytest.raises(HVAEError, match="objective must be Bound, ELBO or None, got <function"):
        fit(small_pair(), small_data(), **QUICK, objective=lambda: None)


# -- presets


def test_published_training_is_the_default_and_its_schedules_are_stretched():
    from pyro_hvae.published import Training
    from pyro_hvae.training.config import default_objective, fill_in

    vae = hvae.build("TD-IWAE20-k4")
    config = fill_in(vae, Training(steps=10_000))
    beta = dict(config.beta)
    assert (config.batch, config.learning_rate(0)) == (400, 1e-4)
    assert beta["z2"](0) == 0.1 and beta["z2"](5_000) == 1 and beta["z2"](2_500) == pytest.approx(0.55)
    assert fill_in(vae, Training()).steps == 5000 * 1600
    objective = default_objective(vae)
    assert isinstance(objective, hvae.ImportanceWeightedELBO) and objective.num_particles == 4


# -- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(train="gude"), "unknown train 'gude'; did you mean 'guide'"),
        (dict(device="gpu"), "unknown device 'gpu'"),
        (dict(batch=301), "batch=301, but there are only 300"),
        (dict(steps=0), "steps must be a whole number of at least 1, got 0"),
        (dict(steps=None), "give steps"),
        (dict(beta={"z3": 1}), "unknown site in beta 'z3'"),
        (dict(beta="quick"), "cannot read the schedule"),
        (dict(clip=0), "clip is a norm"),
        (dict(resume=True), "give out"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(HVAEError, match=says):
        fit(small_pair(), small_data(), **QUICK | options)


def test_cuda_is_refused_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(HVAEError, match="no CUDA device"):
        fit(small_pair(), small_data(), **QUICK | dict(device="cuda"))


def test_patches_of_another_size_and_nan_are_refused():
    with pytest.raises(HVAEError, match=r"16 pixels \(4×4\) and the model 400"):
        fit(hvae.build("TDVAE20"), small_data(), **QUICK)
    data = small_data()
    data.train["x"][3, 5] = np.nan
    with pytest.raises(HVAEError, match="NaN"):
        fit(small_pair(), data, **QUICK)


# -- losses that are not finite


def test_a_loss_that_is_not_finite_stops_with_step_term_and_checkpoint(tmp_path):
    vae = small_pair()
    seen = []

    def fails_later(z):
        seen.append(1)
        return type(vae.model).image_mean(vae.model, z) * (torch.inf if len(seen) > 30 else 1)

    vae.model.image_mean = fails_later
    with pytest.raises(HVAEError, match=r"step 2\d: not finite: reconstruction.*step-00000020") as error:
        fit(vae, small_data(), **QUICK, out=tmp_path / "run")
    assert all(p.isfinite().all() for p in vae.parameters()), "the broken step must not have been taken"
    good = load(tmp_path / "run", vae=small_pair())
    assert all(p.isfinite().all() for p in good.parameters()), error


def test_nothing_is_learnt_after_a_single_step_that_was_not_finite():
    """The host sees it only at the next row of the history; until then the parameters must stay where they were."""

    def one_bad_batch(step, x):
        if step == 23:
            x.fill_(torch.inf)

    good, broken = small_pair(), small_pair()
    fit(good, small_data(), **QUICK | dict(steps=23))
    with pytest.raises(HVAEError, match="step 23: not finite: reconstruction"):
        fit(broken, small_data(), **QUICK, on_step=one_bad_batch)
    assert same(parameters(good), parameters(broken))


# -- the run directory


def test_load_rebuilds_the_trained_pair(tmp_path):
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=6, dim_z2=3)
    fit(vae, small_data(), **QUICK, out=tmp_path / "run")
    again = hvae.load(tmp_path / "run")
    assert again.config == vae.config and same(parameters(again), parameters(vae))
    assert again.record["fit"]["steps"] == 40
    older = hvae.load(tmp_path / "run" / "checkpoints" / "step-00000030.safetensors")
    assert not same(parameters(older), parameters(vae))


def test_run_directory_holds_what_it_says(tmp_path):
    data = small_data()
    run = fit(small_pair(), data, **QUICK, out=tmp_path / "run")
    directory = RunDirectory.open(run.path)
    assert [p.name for p in directory.checkpoints()] == ["step-00000030.safetensors", "step-00000040.safetensors"]
    assert directory.history().identical(run.history)
    np.testing.assert_array_equal(directory.held_out()["x"], data.test["x"])
    assert directory.held_out()["source"].values[0] == "made" and directory.transform() is None
    assert json.loads((run.path / "config.json").read_text())["fit"]["batch"] == 20
    assert not [p for p in run.path.rglob("*") if p.suffix in (".pt", ".pkl", ".pickle")]


def test_existing_directories_are_refused_and_only_runs_are_overwritten(tmp_path):
    out = tmp_path / "run"
    fit(small_pair(), small_data(), **QUICK, out=out)
    with pytest.raises(HVAEError, match="exists; use overwrite=True"):
        fit(small_pair(), small_data(), **QUICK, out=out)
    fit(small_pair(), small_data(), **QUICK, out=out, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(HVAEError, match="not a run directory"):
        fit(small_pair(), small_data(), **QUICK, out=tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


@pytest.mark.parametrize("damage", ["truncate", "garble", "empty"])
def test_damaged_checkpoints_are_named_with_the_one_to_go_back_to(tmp_path, damage):
    fit(small_pair(), small_data(), **QUICK, out=tmp_path / "run")
    last = RunDirectory.open(tmp_path / "run").checkpoints()[-1]
    content = last.read_bytes()
    last.write_bytes(
        {"truncate": content[: len(content) // 2], "garble": b"\x80\x04" + content[2:], "empty": b""}[damage]
    )
    with pytest.raises(HVAEError, match=r"step-00000040.safetensors: damaged.*delete it to go on from step-00000030"):
        load(tmp_path / "run", vae=small_pair())


def test_checkpoint_of_another_configuration_is_refused(tmp_path):
    fit(small_pair(), small_data(), **QUICK, out=tmp_path / "run")
    with pytest.raises(HVAEError, match="another configuration.*guide"):
        load(tmp_path / "run", vae=small_pair("bottom_up"))
    with pytest.raises(HVAEError, match=r"another configuration \(fit.batch: 30 given, 20 in the run\)"):
        fit(small_pair(), small_data(), **QUICK | dict(batch=30), out=tmp_path / "run", resume=True)
    with pytest.raises(HVAEError, match="another configuration.*data.train"):
        fit(small_pair(), small_data(seed=1), **QUICK, out=tmp_path / "run", resume=True)


def test_not_a_run(tmp_path):
    with pytest.raises(HVAEError, match="no config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(HVAEError, match="damaged"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"schema": "pyro_hvae.run", "schema_version": 99}')
    with pytest.raises(HVAEError, match="version 99, expected"):
        load(tmp_path)


def test_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    out = tmp_path / "run"
    original, written = Path.write_bytes, []

    def disk_full_from_the_third(self, content):
        written.append(self)
        if len(written) >= 3:
            original(self, content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        return original(self, content)

    monkeypatch.setattr(Path, "write_bytes", disk_full_from_the_third)
    with pytest.raises(HVAEError, match="step-00000030.*No space left.*unchanged"):
        fit(small_pair(), small_data(), **QUICK, out=out)
    monkeypatch.undo()
    assert [p.name for p in RunDirectory.open(out).checkpoints()] == [
        "step-00000010.safetensors",
        "step-00000020.safetensors",
    ]
    assert not list(out.rglob("*.partial"))
    whole = small_pair()
    fit(whole, small_data(), **QUICK)
    resumed = small_pair()
    fit(resumed, small_data(), **QUICK, out=out, resume=True)
    assert same(parameters(whole), parameters(resumed))


# -- stopping and resuming

SCRIPT = textwrap.dedent(
    """
    import os, signal, sys, torch
    from small import small_data, small_pair
    from pyro_hvae.storage import writing as runs
    from pyro_hvae.training.fit import fit
    torch.set_num_threads(1)
    how, at, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    on_step = None
    number = getattr(signal, how.split("-")[0])
    if how == "SIGKILL-write":
        original = runs.fsync
        count = []
        def killed_while_writing(path):
            if "step-" in path.name:
                count.append(path)
                if len(count) == at:
                    os.kill(os.getpid(), number)
            original(path)
        runs.fsync = killed_while_writing
    else:
        def on_step(step, x):
            if step == at:
                os.kill(os.getpid(), number)
    run = fit(small_pair(), small_data(), out=out, steps=40, batch=20, learning_rate=1e-2, log_every=10,
                     evaluate_every=20, checkpoint_every=7, progress=False, device="cpu", beta={"z2": "0:0,30:1"},
                     on_step=on_step)
    print(run.interrupted, run.step)
    """
)
KILLED = QUICK | dict(checkpoint_every=7, beta={"z2": "0:0,30:1"})


def start_and_kill(how, at, out):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", SCRIPT, how, str(at), str(out)], env=environment, capture_output=True,
                          text=True, timeout=300)  # fmt: skip


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    fit(small_pair(), small_data(), **KILLED, out=out)
    return out


def last_checkpoint(out):
    return RunDirectory.open(out).latest()


@pytest.mark.parametrize(
    ("how", "at"),
    [pytest.param("SIGKILL", int(at), marks=pytest.mark.slow) for at in np.random.default_rng(3).integers(8, 40, 3)]
    + [("SIGKILL", 23), ("SIGKILL-write", 3), ("SIGTERM", 17)],
)
def test_a_killed_and_resumed_run_ends_bit_identical(tmp_path, never_killed, how, at):
    out = tmp_path / "run"
    process = start_and_kill(how, at, out)
    if how == "SIGTERM":
        assert process.stdout.split() == ["SIGTERM", "18"] and last_checkpoint(out).step == 18
    else:
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert last_checkpoint(out).step < 40
    fit(small_pair(seed=9), small_data(), **KILLED, out=out, resume=True)
    ours, whole = last_checkpoint(out), last_checkpoint(never_killed)
    assert ours.step == whole.step == 40 and ours.tensors.keys() == whole.tensors.keys()
    different = [name for name, t in ours.tensors.items() if not torch.equal(t, whole.tensors[name])]
    assert not different
    if how != "SIGTERM":  # which adds a row where it stopped
        drop = ["seconds"]
        assert (
            RunDirectory.open(out)
            .history()
            .drop_vars(drop)
            .identical(RunDirectory.open(never_killed).history().drop_vars(drop))
        )


def test_resuming_a_finished_run_changes_nothing_and_more_steps_go_on(tmp_path):
    out = tmp_path / "run"
    vae = small_pair()
    fit(vae, small_data(), **QUICK, out=out)
    again = small_pair(seed=5)
    assert fit(again, small_data(), **QUICK, out=out, resume=True).step == 40
    assert same(parameters(vae), parameters(again))
    with pytest.raises(HVAEError, match="40 steps already; steps=30"):
        fit(small_pair(), small_data(), **QUICK | dict(steps=30), out=out, resume=True)
    longer, straight = small_pair(), small_pair()
    fit(longer, small_data(), **QUICK | dict(steps=60), out=out, resume=True)
    fit(straight, small_data(), **QUICK | dict(steps=60))
    assert same(parameters(longer), parameters(straight))


def test_resume_from_the_record_alone(tmp_path):
    out = tmp_path / "run"
    data = hvae.stimuli.natural_patches(4, train=200, test=50)
    vae = hvae.build("TD-IWAE20-k4", pixels=16, dim_z1=6, dim_z2=3, seed=1)
    fit(vae, data, **QUICK | dict(steps=10), out=out)
    result = resume(out, steps=20, device="cpu", progress=False)
    straight = hvae.build("TD-IWAE20-k4", pixels=16, dim_z1=6, dim_z2=3, seed=1)
    from pyro_hvae.published import Training
    from pyro_hvae.training.config import fill_in

    beta = dict(fill_in(straight, Training(steps=10)).beta)
    fit(straight, data, **QUICK | dict(steps=20), beta=beta)
    assert result.step == 20 and same(parameters(result.vae), parameters(straight))
    fit(small_pair(), small_data(), **QUICK, out=tmp_path / "made")
    with pytest.raises(HVAEError, match="cannot be cut again"):
        resume(tmp_path / "made")


def test_checkpoint_reads_what_it_wrote(tmp_path):
    tensors = {
        "vae.a": torch.arange(6.0).reshape(2, 3).T,
        "rng.cpu": torch.get_rng_state(),
        "optimizer.a.step": torch.tensor(3.0),
    }
    path = tmp_path / "step-00000007.safetensors"
    path.write_bytes(Checkpoint(7, tensors, "abc").bytes())
    again = Checkpoint.read(path)
    assert (again.step, again.configuration) == (7, "abc")
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(HVAEError, match="no such checkpoint"):
        Checkpoint.read(tmp_path / "step-00000008.safetensors")
