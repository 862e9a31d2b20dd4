"""What the command line shows of itself: examples that work, completion, the doctor."""

import re
import shlex
import subprocess
import warnings

import numpy as np
import pytest
from cli_shim import with_command

from pyro_hvae.cli import main, parser
from pyro_hvae.cli.doctor import compiler, device, problems, run, slowness, system, threads
from pyro_hvae.cli.examples import EXAMPLES, START

EVERY = [*START, *(line for lines in EXAMPLES.values() for line in lines)]


def test_every_command_has_an_example_that_its_help_shows(capsys):
    (subparsers,) = (action for action in parser()._actions if hasattr(action, "choices") and action.choices)
    assert set(subparsers.choices) == set(EXAMPLES)
    for name, command in subparsers.choices.items():
        shown = command.format_help().splitlines()
        for line in EXAMPLES[name]:
            assert f"  {line}" in shown, "an example stands on a line of its own"


@pytest.mark.parametrize("line", EVERY)
def test_examples_parse(line):
    words = shlex.split(line.split(" > ")[0])
    assert words[0] == "pyro-hvae"
    parser().parse_args(words[1:])


def test_without_a_command_it_says_how_to_begin(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for line in START:
        assert line in shown


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_examples_work_as_they_stand(tmp_path):
    """In the order in which they are listed: some go on with what others made."""
    (tmp_path / "bin").mkdir()
    environment = with_command(tmp_path / "bin")
    rng = np.random.default_rng(0)
    for line in EVERY:
        if line.startswith("pyro-hvae predict"):  # a user's own measurement of the images of that file
            from pyro_hvae.storage.posterior_file import open_posterior

            with open_posterior(tmp_path / "runs/first/posterior.nc") as tree:
                images = tree["observed_data"].sizes["image"]
            np.savez(tmp_path / "responses.npz", responses=rng.poisson(3.0, (images, 4, 2)).astype(float))
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"
        assert "ArviZ is undergoing" not in done.stderr, line


def test_the_notice_of_arviz_is_not_shown():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with warnings.catch_warnings():
            main(["references", "TDVAE20"])
            warnings.warn("\nArviZ is undergoing a major refactor", FutureWarning, stacklevel=1)
            warnings.warn("something else", FutureWarning, stacklevel=1)
    assert [str(w.message) for w in heard] == ["something else"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_commands_and_options(shell, capsys):
    pytest.importorskip("shtab", reason="pip install shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("yardstick", "physiology", "--early-stopping", "--resample"):
        assert word in script
    if shell == "bash":
        done = subprocess.run(
            ["bash", "-c", f"{script}\nCOMP_WORDS=(pyro-hvae yar); COMP_CWORD=1; _shtab_pyro_hvae; echo ${{COMPREPLY[@]}}"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.split() == ["yardstick"], done.stderr


def test_completion_without_shtab_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err


def test_a_run_is_watched_and_stopped_early(tmp_path, capsys):
    """A learning rate of zero gains nothing: the second evaluation ends the run."""
    run, page = tmp_path / "run", tmp_path / "watch.html"
    arguments = [
        "train",
        "LinearVAE20",
        "--train-patches",
        "400",
        "--test-patches",
        "20",
        "--batch",
        "20",
        "--device",
        "cpu",
    ]
    arguments += [
        "--steps",
        "9",
        "--learning-rate",
        "0",
        "--evaluate-every",
        "2",
        "--log-every",
        "2",
        "--early-stopping",
        "1",
    ]
    assert main([*arguments, "--watch", str(page), "--out", str(run)]) == 0
    assert "stopped at step 4: the held-out ELBO has not grown for 1 evaluations" in capsys.readouterr().out
    assert "step 4 of 9" in page.read_text() or "step 2 of 9" in page.read_text()


# -- the doctor


def found(**changes):
    as_here = {
        "system": {"name": "Linux x86_64", "cores": 8, "memory": 16.0, "bfloat16": True},
        "threads": {"setting": None, "torch": 8},
        "compiler": {"path": "/usr/bin/g++", "problem": ""},
        "device": {"name": "a GPU", "cuda": True},
    }
    return {part: as_here[part] | changes.get(part, {}) for part in as_here}


def test_the_doctor_finds_this_machine(capsys):
    assert run(None) == 0
    shown = capsys.readouterr().out
    for word in ("pyro_hvae", "torch", "numpy", "cores", "threads", "compiler", "device"):
        assert re.search(rf"^ *{word}\b", shown, re.MULTILINE), word
    assert system()["cores"] >= 1 and threads()["torch"] >= 1 and isinstance(device()["cuda"], bool)


def test_a_machine_with_everything_is_not_slow():
    assert slowness(found()) == [] and problems(found()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"compiler": {"path": ""}}, "not compiled: that needs a C.. compiler"),
        ({"compiler": {"problem": "cannot compile"}}, "not compiled"),
        ({"threads": {"torch": 16}}, "16 threads where 8 cores may be used: export OMP_NUM_THREADS=8"),
        ({"threads": {"torch": 1}}, "1 of 8 cores"),
        ({"device": {"cuda": False}}, "no GPU"),
        ({"device": {"cuda": False}, "system": {"bfloat16": False}}, "no bfloat16 products"),
        ({"system": {"memory": 1.5}}, "1.5 GiB of memory free"),
    ],
)
def test_what_would_be_slow_is_said_with_what_to_do(changes, said):
    assert re.search(said, "\n".join(slowness(found(**changes))))


def test_a_compiler_is_tried_and_not_just_looked_for(tmp_path, monkeypatch):
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'fatal error: omp.h: No such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert compiler() == {
        "path": str(broken),
        "problem": "cannot compile a program with OpenMP: fatal error: omp.h: No such file",
    }
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert compiler() == {"path": "", "problem": ""}
