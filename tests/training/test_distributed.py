"""Two processes that share each batch train as one process does with the whole of it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_data, small_pair
from user_programs import mixed

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.training.distributed import Part, Processes
from pyro_hvae.training.fit import fit
from pyro_hvae.training.run_directory import RunDirectory, load

SCRIPT = textwrap.dedent(
    """
    import os, signal, sys, torch
    import pyro_hvae as hvae
    from small import small_data, small_pair
    torch.set_num_threads(1)
    out, kind, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
    bounds = {"elbo": hvae.ELBO(), "dreg": hvae.ImportanceWeightedELBO(3, gradient="dreg"),
              "ladder": hvae.ELBO(gradient="rao_blackwell")}
    at, mine = options.pop("kill", (None, None))
    if mine is not None and int(os.environ["RANK"]) == mine:
        options["on_step"] = lambda step, x: os.kill(os.getpid(), signal.SIGTERM) if step == at else None
    vae = small_pair()
    if kind == "ladder":
        vae = vae.with_guide("ladder", hidden_x=((8,), (5,)))
    run = hvae.fit(vae, small_data(), objective=bounds[kind], out=out, **options)
    print("ended", os.environ["RANK"], run.step, run.interrupted, float(run.history.bound[-1]))
    """
)
OPTIONS = dict(steps=40, batch=20, learning_rate=1e-2, log_every=10, evaluate_every=20, checkpoint_every=10, progress=False,
               device="cpu", beta={"z2": "0:0,30:1"}, clip=100.0, compile=False)  # fmt: skip


def launch(*arguments, processes=2, program=("-c", SCRIPT)):
    """A command under torchrun, each process on its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, *program, *map(str, arguments)], env=environment, capture_output=True, text=True,
                          timeout=300)  # fmt: skip


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("script") / "train.py"
    file.write_text(SCRIPT)
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory, script):
    """A run of two processes from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = launch(out, "elbo", OPTIONS, program=(script,))
    assert ended.returncode == 0 and ended.stdout.count("ended") == 2, ended.stderr[-2000:]
    return out


def ladder_pair():
    return small_pair().with_guide("ladder", hidden_x=((8,), (5,)))


@pytest.mark.parametrize("kind", ["elbo", *(pytest.param(k, marks=pytest.mark.slow) for k in ("ladder", "dreg"))])
def test_the_course_of_two_processes_is_that_of_one(tmp_path, script, whole, kind):
    two = whole if kind == "elbo" else tmp_path / "two"
    if kind != "elbo":
        ended = launch(two, kind, OPTIONS, program=(script,))
        assert ended.stdout.count("ended") == 2, ended.stderr[-2000:]
    objectives = {
        "elbo": hvae.ELBO(),
        "dreg": hvae.ImportanceWeightedELBO(3, gradient="dreg"),
        "ladder": hvae.ELBO(gradient="rao_blackwell"),
    }
    make = ladder_pair if kind == "ladder" else small_pair
    alone = fit(make(), small_data(), objective=objectives[kind], out=tmp_path / "one", **OPTIONS)
    history = RunDirectory.open(two).history()
    np.testing.assert_allclose(history.bound, alone.history.bound, rtol=1e-3)
    np.testing.assert_allclose(history.test_elbo, alone.history.test_elbo, rtol=1e-3)
    np.testing.assert_array_equal(history.clipped, alone.history.clipped)
    for p, q in zip(load(two, vae=make()).parameters(), alone.vae.parameters(), strict=True):
        assert (q - p).norm() <= 0.03 * p.norm() + 1e-3  # as wholes: Adam moves elements without gradient by rounding


def test_a_signal_to_one_stops_both_at_the_same_step_and_the_run_goes_on(tmp_path, script, whole):
    """The signal reaches one process only; it must not leave the other waiting."""
    ended = launch(tmp_path / "two", "elbo", OPTIONS | {"kill": (13, 1)}, program=(script,))
    assert ended.stdout.count("20 SIGTERM") == 2, ended.stdout + ended.stderr[-2000:]
    ended = launch(tmp_path / "two", "elbo", OPTIONS | {"resume": True}, program=(script,))
    assert ended.stdout.count("40 None") == 2, ended.stdout + ended.stderr[-2000:]
    a, b = (load(out, vae=small_pair()) for out in (tmp_path / "two", whole))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


REFUSED = textwrap.dedent(
    """
    import os, torch, pyro
    from torch import nn
    import pyro.distributions as dist
    import pyro_hvae as hvae
    from pyro_hvae.errors import HVAEError
    from small import small_data, small_pair
    from user_programs import Guide, Model, mixed
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    options = eval(os.environ["OPTIONS"])

    def say(*words):
        with open(f"{os.environ['SAID']}-{rank}", "a") as file:  # of its own: two processes break each other's lines
            print(*words, file=file)

    class Flat(Model):
        def image_mean(self, z):
            return self.linear(z) + 0.1 * torch.randn(z.shape[0] * 16).reshape(-1, 16)

    def attempt(what, make, **changed):
        torch.manual_seed(0)
        try:
            hvae.fit(make(), changed.pop("data", None) or small_data(), **options | changed)
            say("accepted", what)
        except HVAEError as error:
            say("refused", what, error)

    torch.distributed.init_process_group("gloo")
    attempt("coupled", lambda: mixed(nn.BatchNorm1d(8, track_running_stats=False)))
    attempt("buffers", lambda: mixed(nn.BatchNorm1d(8)))
    attempt("places", lambda: hvae.HVAE(Model(lambda x: torch.arange(len(x)) < 10), Guide()))
    attempt("flat", lambda: hvae.HVAE(Flat(), Guide()))
    attempt("subsampled", lambda: hvae.HVAE(Model(full=500), Guide(nn.Dropout(0.3), full=500)))
    attempt("data", small_pair, data=small_data(seed=rank))
    torch.manual_seed(rank)  # programs that were not seeded alike
    vae = mixed()
    run = hvae.fit(vae, small_data(), **options)
    say("ended", float(run.history.bound[-1]), sum(p.detach().double().sum().item() for p in vae.parameters()))
    """
)


def test_what_is_not_the_same_in_parts_is_refused_and_processes_begin_alike(tmp_path, monkeypatch):
    file = tmp_path / "refused.py"
    file.write_text(REFUSED)
    monkeypatch.setenv("OPTIONS", repr(OPTIONS | dict(steps=10, beta=1)))
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    ended = launch(program=(file,))
    lines = [line for rank in range(2) for line in (tmp_path / f"said-{rank}").read_text().splitlines()]

    def said(what):
        return sum(what in line for line in lines)

    assert said("refused coupled data-parallel training needs a pair whose parts") == 2, (
        "\n".join(lines) + ended.stderr[-2000:]
    )
    assert said("depends on the other images of its batch") == 4
    assert said("refused buffers data-parallel training needs a pair whose parts") == 2
    assert said("guide.net.1.running_mean") == 2
    assert said("refused places") == 2
    assert said("refused flat") == 2 and said("a draw has shape (320,) for 20 images and (160,) for 10") == 2
    assert said("accepted subsampled") == 2
    assert said("refused data processes [1] were given other settings or other images than process 0") == 2
    ends = [line.partition("ended")[2] for line in lines if line.startswith("ended")]
    assert len(ends) == 2 and ends[0] == ends[1]
    torch.manual_seed(0)  # as process 0
    alone = fit(mixed(), small_data(), **OPTIONS | dict(steps=10, beta=1))
    np.testing.assert_allclose(float(ends[0].split()[0]), alone.history.bound[-1], rtol=1e-3)


def test_the_command_under_torchrun(tmp_path):
    """`torchrun -m pyro_hvae train …`: one run directory, written once, that load and --resume accept."""
    out = tmp_path / "run"
    command = ["-m", "--", "pyro_hvae", "train", "TDVAE20", "--start", "linear_regime",
               "--steps", "4", "--batch", "8", "--train-patches", "400",
               "--test-patches", "50", "--out", out]  # fmt: skip
    ended = launch(program=tuple(map(str, command)))
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("4 steps, held-out ELBO") == 1, ended.stdout
    assert load(out).record["step"] == 4


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(HVAEError, match="batch of 21 cannot be shared by 2 processes"):
        Part(Processes(0, 2), 21)


def test_parts_are_disjoint_and_complete():
    x = torch.arange(12.0).reshape(12, 1)
    parts = [Part(Processes(r, 3), 12).of(x, 0) for r in range(3)]
    assert torch.equal(torch.cat(parts), x)
