"""Every option of training, from each place where it can be given to the loop: a new field of Training is one edit."""

import argparse
import inspect
import typing
from dataclasses import asdict, fields, make_dataclass, replace
from typing import get_args

import pytest
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.cli import parser
from pyro_hvae.cli.parsing import add_options, given
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.pair import GUIDES
from pyro_hvae.published.options import GuideName, Options, PairOptions, Training, metadata, option
from pyro_hvae.sweeps.design import Settings
from pyro_hvae.training.config import _CLASSES, FitConfig, fill_in
from pyro_hvae.training.ensemble import fit_ensemble
from pyro_hvae.training.fit import fit, fit_with
from pyro_hvae.training.run_directory import RunDirectory

#: Every option with a value that is not its default. Written by hand: a new option is refused here until it stands here.
OTHER = dict(
    steps=7, batch=5, learning_rate="0:0.5,3:0.25", beta=0.75, train="guide", clip=1.5, skip=2.5, log_every=2,
    evaluate_every=3, evaluate_images=4, checkpoint_every=6, early_stopping=11, seed=8, precision="bfloat16", compile=False,
    objective="renyi", particles=9, gradient="dreg", alpha=0.5,
)  # fmt: skip
SMALL = dict(pixels=16, dim_z1=6, dim_z2=3)


def test_the_values_of_these_tests_are_of_all_options_and_none_is_a_default():
    assert set(OTHER) == {f.name for f in fields(Training)}
    assert all(OTHER[f.name] != f.default for f in fields(Training))


@pytest.mark.parametrize(
    ("function", "apart"),
    [
        # An objective is an object here, which has particles, gradient and alpha of its own.
        (fit, {"objective", "particles", "gradient", "alpha"}),
        # seeds and particles are sequences, one a member; what is stacked is always traced.
        (fit_ensemble, {"seed", "particles", "steps", "compile"}),
    ],
)
def test_signatures_that_are_written_out_agree_with_the_options(function, apart):
    signature, hints = inspect.signature(function).parameters, typing.get_type_hints(function)
    of_options = typing.get_type_hints(Training)
    for f in fields(Training):
        if f.name not in apart:
            assert f.name in signature, f"{function.__name__} lacks {f.name}"
            assert (signature[f.name].default, hints[f.name]) == (f.default, of_options[f.name]), f.name


class Reached(Exception):
    """What the loop was about to train with."""


@pytest.fixture
def reached(monkeypatch):
    """The configuration and the objective that reach the loop of a run, by a call that is to begin one."""

    def prepare(vae, data, objective, config, *arguments, **options):
        raise Reached(config, objective)

    monkeypatch.setattr("pyro_hvae.training.fit.prepare", prepare)
    monkeypatch.setattr("pyro_hvae.training.ensemble.prepare", prepare)

    def of(call):
        with pytest.raises(Reached) as caught:
            call()
        return caught.value.args

    return of


def check(config, objective, apart=()):
    assert isinstance(config, FitConfig)
    assert (type(objective).__name__, objective.num_particles, objective.gradient, objective.alpha) == (
        "RenyiELBO", 9, "dreg", 0.5,
    )  # fmt: skip
    assert str(config.learning_rate) == OTHER["learning_rate"]
    assert {site: str(schedule) for site, schedule in config.beta.items()} == {"z1": "0.75", "z2": "0.75"}
    for name in OTHER.keys() - {"learning_rate", "beta", "objective", "particles", "gradient", "alpha", *apart}:
        assert getattr(config, name) == OTHER[name], name


def test_every_option_reaches_the_loop_from_fit(reached):
    options = {
        name: value for name, value in OTHER.items() if name not in ("objective", "particles", "gradient", "alpha")
    }
    objective = hvae.RenyiELBO(0.5, 9, gradient="dreg")
    check(*reached(lambda: fit(small_pair(), small_data(), objective=objective, device="cpu", **options)))
    check(*reached(lambda: fit_with(small_pair(), small_data(), Training(**OTHER), device="cpu")))


def test_every_option_reaches_the_loop_from_an_ensemble(reached):
    options = OTHER | {"seeds": [8], "particles": [9]}
    del options["seed"], options["compile"]
    check(*reached(lambda: fit_ensemble("TDVAE20", small_data(), device="cpu", **options)))


def test_every_option_reaches_the_loop_from_a_sweep(reached):
    settings = Settings(preset="TDVAE20", **SMALL, **OTHER)
    assert {f.name: getattr(settings, f.name) for f in fields(Training)} == OTHER
    assert Settings(**asdict(settings)) == settings, "what workers are sent"
    vae = settings.build()
    check(*reached(lambda: fit_with(vae, small_data(), settings.training(), recipe=settings.recipe, device="cpu")))
    assert settings.training().beta == 0.75
    assert replace(settings, beta=None, beta_z2=0.5).training().beta == {"z2": 0.5}
    with pytest.raises(HVAEError, match="beta_z2 that of one; give one of them"):
        replace(settings, beta_z2=0.5)


def words(but=()):
    values = {
        f"--{name.replace('_', '-')}": (str(value).lower() if value is False else str(value))
        for name, value in OTHER.items()
        if name not in but
    }
    return [word for option in values.items() for word in option]


def test_every_option_reaches_the_loop_from_the_command_line_of_train(reached, tmp_path):
    arguments = ["train", "TDVAE20", "--pixels", "16", "--dim-z1", "6", "--dim-z2", "3", "--train-patches", "50"]
    arguments += ["--test-patches", "10", "--device", "cpu", "--out", str(tmp_path / "run")]
    parsed = parser().parse_args([*arguments, *words(["beta"]), "--beta", "z1=0.75", "--beta", "z2=0.75"])
    check(*reached(lambda: parsed.run(parsed)))


def test_every_option_is_read_by_the_command_line_of_sweep(monkeypatch, tmp_path):
    found = {}
    monkeypatch.setattr("pyro_hvae.sweeps.run.sweep", lambda settings, *a, **o: found.update(settings) or (_ for _ in ()).throw(
        KeyboardInterrupt))  # fmt: skip
    parsed = parser().parse_args(["sweep", "TDVAE20", "--axis", "dim_z2", "5", "--out", str(tmp_path), *words()])
    parsed.run(parsed)
    assert found == OTHER | {"preset": "TDVAE20"}


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_help_of_both_commands_is_that_of_the_options(command, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    shown = "".join(capsys.readouterr().out.split())
    for name, about in (metadata(Training) | metadata(PairOptions)).items():
        if (command, name) != ("train", "beta"):  # by site there
            assert "".join(about["help"].split()) in shown, name


def test_a_new_field_is_an_option_by_that_alone():
    Longer = make_dataclass(
        "Longer", [("patience", int, option(3, "evaluations without gain", least=1))], bases=(Training,), frozen=True,
        kw_only=True,
    )  # fmt: skip
    ours = argparse.ArgumentParser()
    add_options(ours, Longer)
    assert "evaluations without gain (3)" in " ".join(ours.format_help().split())
    assert given(ours.parse_args(["--patience", "4"]), Longer) == {"patience": 4}
    assert given(ours.parse_args([]), Longer) == {}
    with pytest.raises(HVAEError, match="patience must be a whole number of at least 1, got 0"):
        Longer(patience=0)


def test_names_that_need_no_torch_are_those_of_what_does():
    assert set(get_args(GuideName)) == set(GUIDES)
    assert set(get_args(typing.get_type_hints(Training)["objective"])[0].__args__) == set(_CLASSES)
    assert issubclass(Training, Options)


def test_an_option_that_came_later_does_not_keep_older_runs_from_going_on(tmp_path):
    """Their record lacks it: they were trained as it is by default, and their checkpoints carry the digest of that record."""
    import json

    from pyro_hvae.training.recorded import fingerprint
    from pyro_hvae.training.run_directory import Checkpoint

    options = dict(batch=20, learning_rate=1e-2, beta=1, checkpoint_every=5, progress=False, device="cpu")
    whole = fit(small_pair(), small_data(), steps=20, objective=hvae.ELBO(), **options)
    out = tmp_path / "run"
    fit(small_pair(), small_data(), steps=10, objective=hvae.ELBO(), out=out, **options)
    config = json.loads((out / "config.json").read_text())
    for name in ("skip", "precision"):
        del config["fit"][name]
    (out / "config.json").write_text(json.dumps(config))
    for file in RunDirectory.open(out).checkpoints():
        file.write_bytes(replace(Checkpoint.read(file), configuration=fingerprint(config)).bytes())
    with pytest.raises(HVAEError, match="another configuration .fit.skip: 3.0 given, None in the run"):
        fit(small_pair(), small_data(), steps=20, objective=hvae.ELBO(), out=out, resume=True, skip=3.0, **options)
    for steps in (15, 20):
        run = fit(small_pair(), small_data(), steps=steps, objective=hvae.ELBO(), out=out, resume=True, **options)
    assert all((p == q).all() for p, q in zip(run.vae.parameters(), whole.vae.parameters(), strict=True))


def test_the_record_of_a_run_is_as_it_always_was():
    """config.json and with it the fingerprint of every run there is."""
    config = fill_in(hvae.build("TDVAE20", **SMALL), Training(steps=100))
    assert config.to_dict() == {
        "steps": 100, "batch": 128, "learning_rate": "0:0.0001,50:0.0001,50:5e-05,74.962962963:5e-05,74.962962963:2.5e-05",
        "beta": {"z1": "1", "z2": "1"}, "train": "both", "clip": None, "skip": None, "log_every": 50, "evaluate_every": 1000,
        "evaluate_images": 2000, "checkpoint_every": 1000, "seed": 0, "precision": "float32",
    }  # fmt: skip
    assert FitConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    with pytest.raises(HVAEError, match="unknown training field 'epochs'"):
        FitConfig.from_dict(config.to_dict() | {"epochs": 3})
