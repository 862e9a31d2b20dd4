"""Each member of an ensemble is what it would have become alone."""

import numpy as np
import pytest
import torch
from small import small_data

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.published import build
from pyro_hvae.training.ensemble import fit_ensemble
from pyro_hvae.training.run_directory import load

QUICK = dict(steps=30, batch=20, learning_rate="0:1e-2,30:1e-3", log_every=10, evaluate_every=20, checkpoint_every=10,
             progress=False, device="cpu")  # fmt: skip


@pytest.fixture(autouse=True)
def _small_presets(monkeypatch):
    """Presets of their published architecture over 4×4 patches."""
    original = build

    def small(name, **options):
        given = {k: v for k, v in options.items() if v is not None}
        return original(name, pixels=16, dim_z1=6, **{"dim_z2": 3} | given)

    monkeypatch.setattr("pyro_hvae.training.ensemble.build", small)
    return small


def alone(build, seed, dim=3, particles=1, **options):
    vae = build("TDVAE20", seed=seed, dim_z2=dim)
    objective = hvae.ImportanceWeightedELBO(particles) if particles > 1 else hvae.ELBO()
    return hvae.fit(vae, small_data(), **QUICK | options, seed=seed, objective=objective, compile=False)


def assert_same(member, run):
    np.testing.assert_allclose(member.run.history.bound, run.history.bound, rtol=1e-3)
    np.testing.assert_allclose(member.run.history.test_elbo, run.history.test_elbo, rtol=3e-3)
    # Adam moves an element whose gradient is nothing but rounding by the learning rate either way: parameters are compared as
    # wholes: other batches and draws would make them differ by 7 to 110 per cent here.
    for (name, p), (_, q) in zip(run.vae.named_parameters(), member.run.vae.named_parameters(), strict=True):
        assert (q - p).norm() <= 0.03 * p.norm() + 1e-3, (name, float((q - p).norm() / p.norm()))


@pytest.mark.parametrize("compile", [False, True])
def test_members_of_other_seeds_and_betas_equal_the_runs_alone(_small_presets, compile):
    betas = [1, "0:0,20:1.25"]
    ensemble = fit_ensemble("TDVAE20", small_data(), seeds=[0, 5], betas=betas, compile=compile, **QUICK)
    assert [m.settings for m in ensemble.members] == [{"seed": s, "beta_z2": b} for s in (0, 5) for b in betas]
    for member in ensemble.members:
        seed, beta = member.settings["seed"], member.settings["beta_z2"]
        assert_same(member, alone(_small_presets, seed, beta={"z2": beta}))
    bounds = ensemble.history.bound
    assert bounds.dims == ("member", "step") and len(np.unique(bounds[:, -1])) == 4
    assert list(ensemble.history.seed.values) == [0, 0, 5, 5]


@pytest.mark.slow
def test_members_of_other_shapes_are_trained_group_by_group(_small_presets):
    ensemble = fit_ensemble("TDVAE20", small_data(), seeds=[0, 1], dims=[2, 4], compile=False, **QUICK)
    assert {m.name for m in ensemble.members} == {f"seed={s}-dim_z2={d}" for s in (0, 1) for d in (2, 4)}
    for member in ensemble.members:
        assert member.run.vae.latents["z2"] == member.settings["dim_z2"]
        assert_same(member, alone(_small_presets, member.settings["seed"], member.settings["dim_z2"]))


def test_particles(_small_presets):
    ensemble = fit_ensemble(
        "TDVAE20", small_data(), seeds=[3], particles=[2, 4], objective="importance_weighted", compile=False, **QUICK
    )
    for member in ensemble.members:
        assert_same(member, alone(_small_presets, 3, particles=member.settings["particles"]))


def test_members_are_clipped_and_skipped_one_by_one(_small_presets):
    """Where one member skips a step the other does not."""
    options = dict(clip=120.0, skip=200.0, log_every=5)
    ensemble = fit_ensemble("TDVAE20", small_data(), seeds=[0, 1], compile=False, **QUICK | options)
    counts = []
    for member in ensemble.members:
        run = alone(_small_presets, member.settings["seed"], **options)
        assert_same(member, run)
        np.testing.assert_array_equal(member.run.history.skipped, run.history.skipped)
        np.testing.assert_array_equal(member.run.history.clipped, run.history.clipped)
        counts.append((tuple(run.history.skipped.values), tuple(run.history.clipped.values)))
    assert counts[0] != counts[1], counts


def test_every_member_has_a_run_directory_that_goes_on_alone(_small_presets, tmp_path):
    ensemble = fit_ensemble("TDVAE20", small_data(), seeds=[0, 1], out=tmp_path / "e", compile=False, **QUICK)
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"seed=0", "seed=1"}
    longer = alone(_small_presets, 1, steps=40, evaluate_every=40)
    vae = load(tmp_path / "e" / "seed=1")
    for p, q in zip(ensemble.members[1].run.vae.parameters(), vae.parameters(), strict=True):
        assert torch.equal(p, q)
    options = QUICK | dict(steps=40)
    resumed = hvae.fit(
        vae, small_data(), **options, seed=1, objective=hvae.ELBO(), out=tmp_path / "e" / "seed=1", resume=True
    )
    assert (resumed.vae.model.A - longer.vae.model.A).norm() <= 0.03 * longer.vae.model.A.norm()


def test_a_member_that_fails_does_not_stop_the_others(_small_presets, monkeypatch):
    from pyro_hvae.training import ensemble as module

    class OneBad(module.Stack):
        def __call__(self, images, noise):
            if int(self.tally[0, self.steps[0].function.tally.index("step")]) == 12:
                images = [images[0] * torch.inf, *images[1:]]
            super().__call__(images, noise)

    monkeypatch.setattr(module, "Stack", OneBad)
    with pytest.warns(UserWarning, match="a member of the ensemble .seed 0. ends here: step 12: not finite"):
        bad, good = fit_ensemble("TDVAE20", small_data(), seeds=[0, 1], compile=False, **QUICK).members
    assert "step 12: not finite" in bad.error and bad.run.step < 30
    assert good.error is None
    assert_same(good, alone(_small_presets, 1))
    assert all(p.isfinite().all() for p in bad.run.vae.parameters())


def test_a_member_that_has_stalled_stays_as_it_was_when_it_was_given_up(_small_presets, monkeypatch):
    from pyro_hvae.training import ensemble as module

    class Huge(module.Stack):
        """Steps 0 to 9 of the first member have gradients that are skipped; later ones would be taken."""

        def __call__(self, images, noise):
            step = int(self.tally[0, self.steps[0].function.tally.index("step")])
            super().__call__([images[0] * (1e5 if step < 10 else 1.0), *images[1:]], noise)

    monkeypatch.setattr(module, "Stack", Huge)
    with pytest.warns(UserWarning, match="all of the last 10 steps were skipped"):
        stalled, good = fit_ensemble(
            "TDVAE20", small_data(), seeds=[0, 1], compile=False, **QUICK | dict(skip=1e10, log_every=10)
        ).members
    assert stalled.run.step == 10 and good.run.step == 30
    untouched = _small_presets("TDVAE20", seed=0)
    for p, q in zip(untouched.parameters(), stalled.run.vae.parameters(), strict=True):
        assert torch.equal(p, q)


def test_members_have_storage_of_their_own_afterwards():
    members = fit_ensemble("TDVAE20", small_data(), seeds=[0, 1], compile=False, **QUICK | dict(steps=1)).members
    for member in members:
        for p in member.run.vae.parameters():
            assert p.untyped_storage().nbytes() == p.numel() * p.element_size() and p.grad is None


def test_a_missing_compiler_is_named(monkeypatch):
    def without(graph):
        def run(*arguments):
            raise RuntimeError("No working C++ compiler found")

        return run

    monkeypatch.setattr("pyro_hvae.training.ensemble.compile_graph", without)
    with pytest.raises(HVAEError, match=r"RuntimeError: No working C\+\+ compiler.*compile=False trains without"):
        fit_ensemble("TDVAE20", small_data(), **QUICK)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(HVAEError, match="dim_z2 of an ensemble must be given without repetition.*5, 5"):
        fit_ensemble("TDVAE20", small_data(), dims=[5, 5], **QUICK)
    with pytest.raises(HVAEError, match="betas sets beta of z2 member by member"):
        fit_ensemble("TDVAE20", small_data(), betas=[1], beta=1, **QUICK)
    with pytest.raises(HVAEError, match="seed of an ensemble.*at least one"):
        fit_ensemble("TDVAE20", small_data(), seeds=[], **QUICK)
    with pytest.raises(HVAEError, match="TDVAE2"):
        fit_ensemble("TDVAE21", small_data(), **QUICK)
