"""What objective the words of a user mean, by the command line, a sweep and an ensemble alike."""

import pytest
from small import small_data

from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError
from pyro_hvae.sweeps.design import Settings
from pyro_hvae.training.config import default_objective
from pyro_hvae.training.ensemble import fit_ensemble

NEEDS_PARTICLES = [
    (dict(objective="importance_weighted"), "needs particles"),
    (dict(objective="importance_weighted", gradient="dreg"), "needs particles"),
    (dict(objective="renyi", alpha=0.5), "needs particles"),
    (dict(objective="importance_weighted", particles=0), "must be a whole number of at least 1"),
    (dict(particles=0), "must be a whole number of at least 1"),
    (dict(particles=-3), "must be a whole number of at least 1"),
]


@pytest.mark.parametrize(("asked", "says"), NEEDS_PARTICLES)
def test_no_bound_of_several_particles_is_trained_with_one_unasked(asked, says, tmp_path, capsys):
    words = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    out = tmp_path / "run"
    tiny = ["--train-patches", "400", "--test-patches", "40", "--batch", "20", "--steps", "1", "--device", "cpu"]
    assert main(["train", "LinearVAE20", *tiny, *words, "--out", str(out)]) == 2
    assert says in capsys.readouterr().err and not out.exists()
    with pytest.raises(HVAEError, match=says):
        Settings(preset="TDVAE20", **asked)
    if "alpha" not in asked:
        given = asked | ({"particles": [asked["particles"]]} if "particles" in asked else {})
        with pytest.raises(HVAEError, match=says):
            fit_ensemble("TDVAE20", small_data(), steps=1, **given)


@pytest.mark.parametrize(
    "option", ["--objective", "--gradient", "--images", "--start", "--guide", "--recipe", "--train"]
)
def test_an_empty_word_is_no_default(option, tmp_path, capsys):
    assert main(["train", "LinearVAE20", option, "", "--out", str(tmp_path / "run"), "--steps", "1"]) == 2
    assert "''" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_what_is_asked_for_is_made():
    made = Settings(preset="TDVAE20", objective="importance_weighted", particles=3).make_objective()
    assert (type(made).__name__, made.num_particles) == ("ImportanceWeightedELBO", 3)
    published = Settings(preset="TD-IWAE20-k4", objective="importance_weighted").make_objective()
    assert published.num_particles == 4
    one = Settings(preset="TDVAE20", objective="importance_weighted", particles=1).make_objective()
    assert one.num_particles == 1  # said in so many words
    from pyro_hvae import build

    assert default_objective(build("TD-IWAE20-k4", dim_z1=9, dim_z2=2, pixels=16)).num_particles == 4
