"""Recipes by name: what they do with each preset, what is given takes precedence, and a run keeps the one it was begun with."""

from __future__ import annotations

import pytest
import torch
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError
from pyro_hvae.published import PRESETS, Training
from pyro_hvae.published.recipes import recipe, table
from pyro_hvae.published.schedules import Schedule
from pyro_hvae.training.config import default_objective, fill_in
from pyro_hvae.training.ensemble import fit_ensemble
from pyro_hvae.training.fit import resume
from pyro_hvae.training.run_directory import RunDirectory

SMALL = dict(pixels=16, dim_z1=18, dim_z2=4, seed=0)
QUICK = dict(log_every=5, evaluate_every=10, checkpoint_every=5, progress=False, device="cpu")


def config(vae, recipe=None, **options):
    return fill_in(vae, Training(**options), recipe)


@pytest.mark.parametrize("name", PRESETS)
def test_the_fast_recipe_of_every_preset(name):
    """By hand: 8000 steps of 200 patches, 4e-4 falling to 4e-5 from step 4800 on, clipped at 300."""
    p = PRESETS[name]
    found = recipe("fast", p, p.guide)
    assert found.start == (("ica", "energies") if len(p.dims) == 2 else ("ica",))
    how = found.training
    assert (how.batch, how.steps, how.clip) == (200, 8000, 300.0)
    assert how.learning_rate.knots == ((0, 4e-4), (0.6, 4e-4), (1, 4e-5))
    assert (how.objective, how.particles) == (p.training.objective, p.training.particles)
    # in closed form where z1 comes last in the guide and the objective is the ELBO
    assert how.gradient == ("standard" if "IWAE" in name or name.startswith("Chain") else "rao_blackwell")
    if len(p.dims) == 2:
        end = p.training.beta["z2"].knots[-1][1]  # 1.25 for TDVAE20125
        assert how.beta["z2"].knots == ((0, 0.1 * end), (0.5, end)) and how.beta["z1"].knots == ((0, 1.0),)
    assert recipe("fast", p, "ladder").training.gradient == "rao_blackwell"


@pytest.mark.parametrize("name", PRESETS)
def test_the_published_recipe_is_the_presets_own(name):
    p = PRESETS[name]
    assert recipe("published", p, p.guide).training == p.training and recipe("published", p, p.guide).start == ()


def test_schedules_are_stretched_to_the_steps_and_what_is_given_takes_precedence():
    vae = hvae.build("TDVAE20", recipe="fast", start="default", **SMALL)
    whole = config(vae)
    assert (whole.steps, whole.batch, whole.clip) == (8000, 200, 300.0)
    assert whole.learning_rate == Schedule(((0, 4e-4), (4800, 4e-4), (8000, 4e-5)))
    assert dict(whole.beta)["z2"] == Schedule(((0, 0.1), (4000, 1)))
    short = config(vae, steps=100)
    assert short.learning_rate == Schedule(((0, 4e-4), (60, 4e-4), (100, 4e-5)))
    assert dict(short.beta)["z2"] == Schedule(((0, 0.1), (50, 1)))
    ours = config(vae, steps=100, batch=7, learning_rate=1e-5, clip=2.0, beta={"z2": 0.5})
    assert (ours.batch, ours.clip, ours.learning_rate) == (7, 2.0, Schedule.constant(1e-5))
    assert dict(ours.beta) == {"z1": Schedule.constant(1.0), "z2": Schedule.constant(0.5)}
    assert (
        default_objective(vae).gradient == "rao_blackwell"
        and default_objective(vae, "published").gradient == "standard"
    )
    assert config(vae, recipe="published").steps == PRESETS["TDVAE20"].training.steps
    assert config(hvae.build("TDVAE20", **SMALL)).steps == PRESETS["TDVAE20"].training.steps, "published unless asked"


def test_a_pair_of_ones_own_takes_the_fast_recipe_and_has_no_published_one():
    vae = small_pair()
    found = config(vae, recipe="fast")
    assert (found.steps, found.batch) == (8000, 200) and default_objective(vae, "fast").gradient == "rao_blackwell"
    with pytest.raises(HVAEError, match="no preset to take the number of steps from"):
        config(vae, recipe="published")


def test_fast_training_from_build_to_a_resumed_run(tmp_path):
    data = small_data(train=1000)
    vae = hvae.build("TDVAE20", guide="ladder", recipe="fast", data=data, **SMALL)
    assert [s["start"] for s in vae.starts] == ["ica", "energies"]
    run = hvae.fit(vae, data, steps=20, out=tmp_path / "run", **QUICK)
    directory = RunDirectory.open(tmp_path / "run")
    assert [s["start"] for s in directory.config["starts"]] == ["ica", "energies"]
    assert directory.config["objective"]["gradient"] == "rao_blackwell"
    assert directory.config["fit"]["clip"] == 300.0
    assert float(run.history.test_elbo[-1]) > float(run.history.test_elbo[0])
    # stopped half way and gone on with by a script that builds its pair again, without the start
    half = hvae.build("TDVAE20", guide="ladder", recipe="fast", data=data, **SMALL)
    schedules = dict(learning_rate=config(vae, steps=20).learning_rate, beta=dict(config(vae, steps=20).beta))
    hvae.fit(half, data, steps=10, out=tmp_path / "half", **schedules, **QUICK)
    again = hvae.build("TDVAE20", guide="ladder", recipe="fast", start="default", **SMALL)
    gone_on = hvae.fit(again, data, steps=20, out=tmp_path / "half", resume=True, **schedules, **QUICK)
    assert all(torch.equal(p, q) for p, q in zip(run.vae.parameters(), gone_on.vae.parameters(), strict=True))
    assert [s["start"] for s in gone_on.vae.starts] == ["ica", "energies"], "the record of the start is the run's"


def test_a_loaded_pair_keeps_its_recipe(tmp_path):
    data = small_data(train=1000)
    vae = hvae.build("TDVAE20", recipe="fast", data=data, **SMALL)
    hvae.fit(vae, data, steps=5, out=tmp_path / "run", **QUICK)
    assert vae.with_guide("ladder").recipe == "fast"
    with pytest.raises(HVAEError, match="cannot be cut again"):
        resume(tmp_path / "run")


def test_members_of_an_ensemble_start_as_the_recipe_says(tmp_path):
    data = small_data(train=5000)
    options = dict(steps=6, seeds=[0, 1], recipe="fast", guide="ladder", start=("ica", "energies"))
    with pytest.MonkeyPatch.context() as patch:
        original = hvae.build
        patch.setattr(
            "pyro_hvae.training.ensemble.build",
            lambda name, **given: original(name, **given | {"pixels": 16, "dim_z1": 18, "dim_z2": 4}),
        )
        ensemble = fit_ensemble("TDVAE20", data, out=tmp_path / "members", compile=False, **options, **QUICK)
    for member in ensemble.members:
        alone = hvae.build(
            "TDVAE20", guide="ladder", recipe="fast", data=data, **SMALL | {"seed": member.settings["seed"]}
        )
        run = hvae.fit(alone, data, steps=6, seed=member.settings["seed"], compile=False, **QUICK)
        assert float(member.run.history.bound[-1]) == pytest.approx(float(run.history.bound[-1]), rel=1e-3)
        assert [s["start"] for s in member.run.vae.starts] == ["ica", "energies"]


@pytest.mark.slow
def test_sweeps_take_recipes_and_starts(tmp_path):
    settings = dict(preset="TDVAE20", guide="ladder", recipe="fast", pixels=16, dim_z1=18, dim_z2=4, steps=4, batch=50)
    results = hvae.sweep(settings, {"seed": [0, 1]}, small_data(train=1000), out=tmp_path / "s", workers=1)
    assert (results["status"] == "finished").all()
    for run in ("seed=0", "seed=1"):
        record = RunDirectory.open(tmp_path / "s" / run).config
        assert [s["start"] for s in record["starts"]] == ["ica", "energies"] and record["fit"]["clip"] == 300.0


def test_the_command_line_trains_by_the_fast_recipe(tmp_path, capsys):
    arguments = ["train", "LinearVAE20", "--guide", "ladder", "--recipe", "fast", "--dim-z1", "14", "--steps", "6"]
    arguments += ["--train-patches", "2000", "--test-patches", "40", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    record = RunDirectory.open(tmp_path / "run").config
    (start,) = record["starts"]
    assert start["start"] == "ica" and start["patches"] == 2000 and "seconds" in start
    assert record["fit"]["batch"] == 200 and record["fit"]["learning_rate"] == str(
        Schedule(((0, 4e-4), (3.6, 4e-4), (6, 4e-5)))
    )
    assert main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert "--recipe fast" in printed and "ica, energies" in printed and "rao_blackwell" in printed


def test_the_table_has_a_row_for_each_preset_under_its_guide_and_the_ladder():
    rows = table()
    assert [(r["name"], r["guide"]) for r in rows] == [(n, g) for n, p in PRESETS.items() for g in (p.guide, "ladder")]
    row = next(r for r in rows if r["name"] == "TDVAE20" and r["guide"] == "ladder")
    assert row["learning rate"] == "0.0004, 0.0004 at 60%, 4e-05 at 100%" and row["beta2"] == "0.1, 1 at 50%"


def test_unknown_recipes_are_refused_by_name():
    for call in (
        lambda: recipe("quick", "TDVAE20", "top_down"),
        lambda: hvae.build("TDVAE20", recipe="quick"),
        lambda: hvae.fit(small_pair(), small_data(), recipe="quick", **QUICK),
    ):
        with pytest.raises(HVAEError, match="unknown recipe 'quick'.*published.*fast|unknown recipe 'quick'"):
            call()
