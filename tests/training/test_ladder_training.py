"""The ladder guide reads the model's own parameters, whatever is done with the pair."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from small import small_data, small_pair

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.export.refinement import elbo
from pyro_hvae.programs import LadderGuide, LinearModel, MarkovModel, SkipModel
from pyro_hvae.training.ensemble import fit_ensemble
from pyro_hvae.training.run_directory import load

QUICK = dict(steps=30, batch=20, learning_rate=1e-3, log_every=10, evaluate_every=30, checkpoint_every=10, progress=False,
             device="cpu", clip=100.0)  # fmt: skip
CLOSED = hvae.ELBO(gradient="rao_blackwell")


def ladder(**options) -> hvae.HVAE:
    torch.manual_seed(0)
    return small_pair().with_guide("ladder", hidden_x=((8,), (5,)), **options)


def moved(a: torch.nn.Module, b: torch.nn.Module) -> dict[str, bool]:
    theirs = dict(b.named_parameters())
    return {name: not torch.equal(p, theirs[name]) for name, p in a.named_parameters()}


def test_no_parameter_is_held_twice():
    vae = ladder()
    assert not {id(p) for p in vae.guide.parameters()} & {id(p) for p in vae.model.parameters()}
    assert not any("model" in name for name in vae.guide.state_dict())
    assert vae.guide.model is vae.model
    assert len(vae.state_dict()) == len(vae.model.state_dict()) + len(vae.guide.state_dict())


@pytest.mark.parametrize("train", ["guide", "model", "both"])
def test_training_a_part_leaves_the_other_as_it_is(train):
    before, vae = ladder(), ladder()
    hvae.fit(vae, small_data(), objective=CLOSED, train=train, **QUICK)
    changed = {part: any(moved(getattr(vae, part), getattr(before, part)).values()) for part in ("model", "guide")}
    assert changed == {"model": train != "guide", "guide": train != "model"}
    if train == "guide":
        assert not any(moved(vae.model, before.model).values())
        assert all(p.requires_grad for p in vae.model.parameters()), "frozen for the training alone"


def test_what_q_reads_follows_the_model():
    """q(z1 | x, z2) is the model's p(z1 | z2) times a Normal: change p(z1 | z2), and it changes."""
    vae, x = ladder(), torch.from_numpy(small_data().test["x"].values[:5])
    other = vae.with_guide(vae.guide)
    with torch.no_grad():
        vae.model.conditionals[0][-1].bias += 0.7
    fresh = LadderGuide(vae.model, hidden_x=((8,), (5,)), reads=vae.guide.reads)
    fresh.load_state_dict(vae.guide.state_dict())
    bounds = []
    for guide in (vae.guide, other.guide, fresh):
        torch.manual_seed(1)
        bounds.append(hvae.ELBO().evaluate(vae.model, guide, x).bound)
    assert torch.equal(bounds[0], bounds[1]) and torch.equal(bounds[0], bounds[2])


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))], ids=["deepcopy", "pickle"]
)
def test_a_copy_reads_its_own_model(copied):
    vae = ladder()
    other = copied(vae)
    assert other.guide.model is other.model and other.model is not vae.model
    x = torch.from_numpy(small_data().test["x"].values[:5])
    before = elbo(vae, x, 4, 0)[0]
    with torch.no_grad():
        for p in other.model.parameters():
            p.add_(1.0)
    assert torch.equal(elbo(vae, x, 4, 0)[0], before) and not torch.equal(elbo(other, x, 4, 0)[0], before)


def test_a_run_is_loaded_resumed_and_swapped(tmp_path):
    vae = ladder()
    hvae.fit(vae, small_data(), objective=CLOSED, out=tmp_path / "run", **QUICK)
    x = torch.from_numpy(small_data().test["x"].values)
    found = load(tmp_path / "run")
    assert found.guide.model is found.model
    assert torch.equal(elbo(found, x, 3, 0)[0], elbo(vae, x, 3, 0)[0])
    half = ladder()
    hvae.fit(half, small_data(), objective=CLOSED, out=tmp_path / "half", **QUICK | {"steps": 20})
    hvae.fit(half, small_data(), objective=CLOSED, out=tmp_path / "half", resume=True, **QUICK)
    assert not any(moved(half, vae).values())
    # another guide and back: the very same model, under a new ladder guide with a copy of q(z2 | x)
    back = found.with_guide("top_down", hidden_x=((8,), (5,)), hidden_z=((5,),), hidden_joint=((8,),)).with_guide(
        "ladder", hidden_x=((8,), (5,))
    )
    assert back.model is found.model and back.guide.model is found.model
    ours, theirs = load(tmp_path / "run", vae=ladder()), found
    assert not any(moved(ours, theirs).values())


def test_members_of_an_ensemble_read_their_own_models():
    original = hvae.build
    with pytest.MonkeyPatch.context() as patch:
        small = lambda name, **given: original(name, **given | {"pixels": 16, "dim_z1": 6, "dim_z2": 3})  # noqa: E731
        patch.setattr("pyro_hvae.training.ensemble.build", small)
        ensemble = fit_ensemble("TDVAE20", small_data(), seeds=[0, 3], guide="ladder", beta=1.0, compile=False, **QUICK)
    for member in ensemble.members:
        seed = member.settings["seed"]
        alone = hvae.fit(
            small("TDVAE20", guide="ladder", seed=seed), small_data(), seed=seed, beta=1.0, compile=False, **QUICK
        )
        np.testing.assert_allclose(member.run.history.bound, alone.history.bound, rtol=1e-3)
        assert member.run.vae.guide.model is member.run.vae.model


def orthogonal(model: torch.nn.Module) -> None:
    """Fields that do not overlap, of different length; z2 sees something."""
    with torch.no_grad():
        Q, _ = torch.linalg.qr(torch.randn(16, model.dims[0]))
        model.to_image.weight.copy_(Q * torch.linspace(0.5, 2.0, model.dims[0]))


@pytest.mark.parametrize("learn_noise", [False, True])
@pytest.mark.parametrize("kind", ["linear", "markov", "skip"])
def test_on_a_trained_pair_it_is_better_at_once(kind, learn_noise):
    """A guide of the published kind, trained for a while, against the ladder in closed form with nothing trained."""
    torch.manual_seed(4)
    options = dict(pixels=16, noise=0.4, learn_noise=learn_noise)
    model = {
        "linear": lambda: LinearModel(dims=(6,), **options),
        "markov": lambda: MarkovModel(dims=(6, 3), hidden=((7,),), **options),
        "skip": lambda: SkipModel(dims=(6, 3), hidden=((7,),), skip_hidden=(5,), **options),
    }[kind]()
    orthogonal(model)
    data = small_data()
    if kind == "linear":
        vae = hvae.HVAE(model, hvae.MeanFieldGuide(pixels=16, dims=(6,), families=model.families, hidden=((8,),)))
    else:
        vae = hvae.HVAE(model, small_pair().guide)
    hvae.fit(vae, data, objective=CLOSED, beta=1.0, **QUICK | {"steps": 300, "learning_rate": 3e-3})
    swapped = vae.with_guide("ladder", **({} if kind == "linear" else {"hidden_x": ((8,), (5,))}))
    x = torch.from_numpy(data.test["x"].values)
    (before, se), (after, se2) = elbo(vae, x, 200, 0), elbo(swapped, x, 200, 0)
    assert float(after.mean() - before.mean()) > 4 * float(
        (se.square().mean() + se2.square().mean()).sqrt() / len(x) ** 0.5
    )
    if kind != "linear":  # q(z2 | x) is the trained one
        assert swapped.guide.reads == "image"
        assert torch.equal(swapped.guide.top.weight, vae.guide.heads[-1].weight)
        assert swapped.guide.top.weight is not vae.guide.heads[-1].weight


def test_another_models_ladder_is_refused():
    with pytest.raises(HVAEError, match=r'build it for this model: vae.with_guide\("ladder"\)'):
        hvae.HVAE(small_pair().model, ladder().guide)
