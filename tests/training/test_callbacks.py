"""Callbacks: told of what happens, in order; free to stop; without any influence on what is learnt."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_data, small_linear, small_pair

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.training.ensemble import fit_ensemble
from pyro_hvae.training.fit import fit, resume
from pyro_hvae.training.watch import curves, page, strongest_fields

QUICK = dict(
    batch=20, learning_rate=1e-2, beta=1, log_every=4, evaluate_every=6, checkpoint_every=8, progress=False, device="cpu",
    objective=hvae.ELBO(),
)  # fmt: skip


class Told(hvae.Callback):
    """Writes down what it is told, draws random numbers, and stops where it is asked to."""

    def __init__(self, event=None, at=None):
        self.heard, self.event, self.at, self.states = [], event, at, []

    def _hear(self, event, state):
        torch.randn(7)
        self.heard.append((event, state.step))
        self.states.append(state)
        return "enough" if (event, state.step) == (self.event, self.at) else None

    def on_log(self, state, row):
        assert row == state.rows[-1] and row["step"] == state.step
        return self._hear("log", state)

    def on_evaluate(self, state, row):
        assert row == state.evaluations[-1] and row["evaluation"] == state.step
        return self._hear("evaluate", state)

    def on_checkpoint(self, state, path):
        assert path.is_file() and path.parent.parent == state.path
        return self._hear("checkpoint", state)


def parameters(run):
    return [p.detach().clone() for p in run.vae.parameters()]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(parameters(a), parameters(b), strict=True))


@pytest.fixture(scope="module")
def plain():
    return fit(small_pair(), small_data(), steps=24, **QUICK)


def test_they_are_told_of_everything_in_order_and_change_nothing(plain, tmp_path):
    told = Told()
    run = fit(small_pair(), small_data(), steps=24, out=tmp_path / "run", callbacks=[told], **QUICK)
    expected = []
    for step in range(1, 25):
        expected += [("log", step)] * (step % 4 == 0)
        expected += [("evaluate", step)] * (step % 6 == 0)
        expected += [("checkpoint", step)] * (step % 8 == 0)
    assert told.heard == expected
    assert same(run, plain) and run.stopped is None
    assert told.states[-1].steps == 24 and told.states[-1].vae is run.vae
    np.testing.assert_array_equal(run.history["test_elbo"], [e["test_elbo"] for e in told.states[-1].evaluations])


@pytest.mark.parametrize(("event", "at"), [("log", 4), ("evaluate", 6), ("checkpoint", 8), ("log", 12)])
def test_a_run_that_is_stopped_is_logged_evaluated_saved_and_goes_on_bit_for_bit(plain, tmp_path, event, at):
    told, out = Told(event, at), tmp_path / "run"
    run = fit(small_pair(), small_data(), steps=24, out=out, callbacks=[told], **QUICK)
    assert (run.step, run.stopped, run.interrupted) == (at, "enough", None)
    assert int(run.history["step"][-1]) == int(run.history["evaluation"][-1]) == at
    assert (out / "checkpoints" / f"step-{at:08d}.safetensors").is_file()
    assert len(set(run.history["evaluation"].values)) == run.history.sizes["evaluation"]
    gone_on = fit(small_pair(), small_data(), steps=24, out=out, resume=True, **QUICK)
    assert gone_on.step == 24 and same(gone_on, plain)


def test_all_callbacks_hear_what_is_said_though_one_stops(tmp_path):
    first, second = Told("evaluate", 6), Told()
    fit(small_pair(), small_data(), steps=24, callbacks=[first, second], **QUICK)
    assert first.heard == second.heard and second.heard[-1] == ("log", 6)


def test_asking_to_stop_at_the_last_step_stops_nothing():
    assert fit(small_pair(), small_data(), steps=24, callbacks=[Told("log", 24)], **QUICK).stopped is None


def test_an_error_of_a_callback_ends_the_run_with_its_last_checkpoint(tmp_path):
    class Broken(hvae.Callback):
        def on_log(self, state, row):
            if state.step == 12:
                raise RuntimeError("of the user's own")

    with pytest.raises(RuntimeError, match="own"):
        fit(small_pair(), small_data(), steps=24, out=tmp_path / "run", callbacks=[Broken()], **QUICK)
    assert hvae.load(tmp_path / "run", vae=small_pair()) is not None


def state_of(values, every=10):
    evaluations = [{"evaluation": every * (i + 1), "test_elbo": v} for i, v in enumerate(values)]
    return hvae.TrainingState(small_linear(), every * len(values), 1000, None, (), evaluations), evaluations[-1]


@pytest.mark.parametrize(
    ("values", "options", "stops"),
    [
        ([1, 2, 3, 4], dict(patience=1), False),
        ([1, 2, 2], dict(patience=1), True),  # as good as before is no gain
        ([1, 3, 2, 2.9], dict(patience=2), True),
        ([1, 3, 2], dict(patience=2), False),  # one evaluation since the best
        ([1, 3, 2, 3.1], dict(patience=2), False),
        ([1, 3, 2, 3.1], dict(patience=2, gain=0.2), True),
        ([9, 1, 2, 3], dict(patience=2), True),
        ([9, 1, 2, 3], dict(patience=2, after=10), False),  # the first, at step 10, does not count
        ([5], dict(patience=1), False),
    ],
)
def test_early_stopping_by_hand(values, options, stops):
    state, row = state_of(values)
    found = hvae.EarlyStopping(**options).on_evaluate(state, row)
    assert (found is not None) == stops
    if stops:
        best = max(v["test_elbo"] for v in state.evaluations[: -options["patience"]])
        assert f"{best:.3f} at step" in found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hvae.EarlyStopping(0), "patience must be a whole number of at least 1"),
        (lambda: hvae.EarlyStopping(gain=-1), "gain is in nats an image"),
        (lambda: hvae.EarlyStopping(gain=float("nan")), "gain is in nats an image"),
        (lambda: hvae.EarlyStopping(after=-1), "after must be a whole number"),
        (lambda: hvae.WatchPage("a.html", seconds=-1), "at least 0"),
        (lambda: fit(small_pair(), small_data(), steps=1, callbacks=[print], **QUICK), "callbacks must be a sequence"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(HVAEError, match=message):
        make()


def test_early_stopping_ends_a_run_and_a_resumed_one_at_the_same_step(tmp_path):
    """A learning rate of zero learns nothing: the first evaluation is the best there will be."""
    still = QUICK | dict(learning_rate=0.0, evaluate_every=5, checkpoint_every=5)
    whole = fit(small_pair(), small_data(), steps=100, early_stopping=2, **still)
    assert whole.step == 15 and re.search("for 2 evaluations", whole.stopped)
    fit(small_pair(), small_data(), steps=5, out=tmp_path / "run", **still)
    again = fit(small_pair(), small_data(), steps=100, out=tmp_path / "run", resume=True, early_stopping=2, **still)
    assert again.step == 15 and "early_stopping" not in (tmp_path / "run" / "config.json").read_text()


def test_a_member_of_an_ensemble_that_stops_is_what_it_would_be_alone(tmp_path):
    sizes = dict(preset="LinearVAE20")
    data = hvae.stimuli.natural_patches(20, train=400, test=30)
    options = dict(
        batch=20, learning_rate=1e-3, log_every=4, evaluate_every=6, checkpoint_every=50, progress=False, device="cpu"
    )
    ensemble = fit_ensemble(
        sizes["preset"], data, steps=12, seeds=(0, 1), compile=False,
        callbacks=lambda settings: [Told("log", 4)] if settings["seed"] == 0 else [], **options,
    )  # fmt: skip
    stopped, other = (member.run for member in ensemble.members)
    assert (stopped.step, stopped.stopped, other.step, other.stopped) == (4, "enough", 12, None)
    for seed, run, steps in ((0, stopped, 4), (1, other, 12)):
        alone = fit(hvae.build(sizes["preset"], seed=seed), data, steps=12, seed=seed, compile=False,
                    callbacks=[Told("log", steps)] if steps < 12 else [], **options)  # fmt: skip
        for p, q in zip(parameters(run), parameters(alone), strict=True):
            assert (p - q).norm() <= 1e-3 * q.norm()  # as wholes: Adam moves elements without gradient by rounding


def test_the_csv_files_hold_the_history_also_of_a_resumed_run(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    fit(small_pair(), small_data(), steps=8, out=out, callbacks=[hvae.CSVLog(log)], **QUICK)
    (log / "training.csv").open("a").write("99,0\n")  # as if more had been written after the checkpoint
    run = fit(small_pair(), small_data(), steps=24, out=out, resume=True, callbacks=[hvae.CSVLog(log)], **QUICK)
    for name, dim in (("training.csv", "step"), ("heldout.csv", "evaluation")):
        with open(log / name, newline="") as file:
            rows = list(csv.DictReader(file))
        for column in rows[0]:
            np.testing.assert_array_equal([float(r[column]) for r in rows], run.history[column].values, err_msg=column)
        assert set(rows[0]) == {dim, *(str(n) for n in run.history if run.history[n].dims == (dim,))}
    (tmp_path / "training.csv").write_text("name,age\n")
    with pytest.raises(HVAEError, match="is no log of a run"):
        hvae.CSVLog(tmp_path)


def test_tensorboard_files_hold_the_history(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra logging is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fit(small_pair(), small_data(), steps=24, callbacks=[hvae.TensorBoardLog(tmp_path)], **QUICK)
    found = EventAccumulator(str(tmp_path)).Reload()
    assert {"train/elbo", "train/kl_z2", "train/learning_rate", "heldout/elbo", "heldout/kl_z1"} <= set(
        found.Tags()["scalars"]
    )
    events = found.Scalars("heldout/elbo")
    assert [e.step for e in events] == run.history["evaluation"].values.tolist()
    np.testing.assert_allclose([e.value for e in events], run.history["test_elbo"], rtol=1e-6)


def test_without_tensorboard_it_is_said_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(HVAEError, match=r"pip install 'pyro-hvae\[logging\]'"):
        hvae.TensorBoardLog(tmp_path)


def test_the_page_shows_steps_terms_and_the_strongest_fields(tmp_path):
    file = tmp_path / "watch.html"
    fit(small_pair(), small_data(), steps=24, callbacks=[hvae.WatchPage(file, seconds=0)], **QUICK)
    text = file.read_text()
    assert "step 24 of 24, done" in text and "http-equiv" not in text and "6 strongest" in text
    assert (
        text.count("<polyline") == 4 and text.count("<circle") == 4
    )  # elbo, reconstruction, two KLs; four evaluations
    hvae.WatchPage(file)  # its own page may be drawn anew
    state, _ = state_of([1.0])
    assert 'http-equiv="refresh"' in page(state)
    for wrong, message in ((tmp_path / "page.txt", "is an .html file"), (tmp_path / "mine.html", "no page of a run")):
        wrong.write_text("mine")
        with pytest.raises(HVAEError, match=message):
            hvae.WatchPage(wrong)


def test_the_curves_are_drawn_to_scale():
    rows = [{"step": s, "elbo": float(s)} for s in range(0, 101, 50)]
    (points,) = re.findall(r'points="([^"]*)"', curves(rows, []))
    assert points == "40.0,270.0 330.0,145.0 620.0,20.0"


def test_fields_are_ordered_by_their_norm():
    A = np.diag([1.0, 3.0, 2.0, 0.5])
    shown, side = strongest_fields(A)
    assert side == 2 and shown.argmax(1).tolist() == [1, 2, 0, 3]
    assert strongest_fields(np.ones((3, 2)))[1] == 0


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    """The first process asks after step 12; all hear of it at the next step that is a multiple of ten."""
    script = tmp_path / "train.py"
    script.write_text(
        """
import os, sys, torch
import pyro_hvae as hvae
from small import small_data, small_pair
torch.set_num_threads(1)
class Stop(hvae.Callback):
    def on_log(self, state, row):
        assert os.environ["RANK"] == "0"
        return "enough" if state.step == 12 else None
run = hvae.fit(small_pair(), small_data(), steps=40, batch=20, learning_rate=1e-2, beta=1, log_every=4, objective=hvae.ELBO(),
               progress=False, device="cpu", compile=False, callbacks=[Stop()], out=sys.argv[1])
print("ended", run.step, run.stopped)
"""
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        script,
        tmp_path / "run",
    ]
    ended = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
    assert sorted(ended.stdout.split("\n")[:2]) == [
        "ended 20 a callback of the first process has asked to stop", "ended 20 enough",
    ], ended.stderr[-1500:]  # fmt: skip


def test_resume_by_the_record_has_callbacks_too(tmp_path):
    data = hvae.stimuli.natural_patches(20, train=400, test=20)
    options = dict(batch=20, learning_rate=1e-3, log_every=2, progress=False, device="cpu", out=tmp_path / "run")
    fit(hvae.build("LinearVAE20"), data, steps=2, **options)
    told = Told()
    resume(tmp_path / "run", steps=4, device="cpu", progress=False, callbacks=[told])
    assert told.heard == [("log", 4), ("evaluate", 4), ("checkpoint", 4)]
