"""The start from energies: z2 sees what z1 cannot, and z1 stays as it was learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro import poutine
from sklearn.linear_model import LogisticRegression

from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import GUIDES, HVAE, LinearModel, MarkovModel, MeanFieldGuide, SkipModel
from pyro_hvae.starts import start_from_energies, start_in_linear_regime

PIXELS, Z1, Z2 = 36, 40, 4
GUIDE_OPTIONS = {
    "top_down": dict(hidden_x=((48,), (40, 20)), hidden_z=((20, 48),), hidden_joint=((48,),)),
    "bottom_up": dict(hidden=((48,), (40, 20))),
    "mean_field": dict(hidden=((48,), (40, 20))),
}


def settled(guide: str, model: str = "markov", family: str = "laplace") -> HVAE:
    """A pair whose guide inverts its A, as after training z1."""
    torch.manual_seed(0)
    sizes = dict(pixels=PIXELS, dims=(Z1, Z2), families=(family, "normal"))
    cls = {"markov": MarkovModel, "skip": SkipModel}[model]
    options = {"skip_hidden": (20, 30)} if model == "skip" else {}
    vae = HVAE(cls(**sizes, hidden=((30,),), **options), GUIDES[guide](**sizes, **GUIDE_OPTIONS[guide]))
    return start_in_linear_regime(vae)


def filters(vae: HVAE) -> torch.Tensor:
    """What each unit of z1 reads, ``(z1, pixel)``."""
    eye = torch.eye(PIXELS)
    return 0.5 * (q(vae, eye)["z1"].mean - q(vae, -eye)["z1"].mean).T


def families(vae: HVAE, n: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Images of four families, in each of which other units of z1 have most of the energy: their means tell nothing."""
    family = torch.arange(n) % 4
    scale = 0.3 + 1.7 * (torch.arange(Z1)[None, :] % 4 == family[:, None])
    causes = torch.randn(n, Z1, generator=torch.Generator().manual_seed(seed)) * scale
    return causes @ filters(vae), family.numpy()


def q(vae: HVAE, x: torch.Tensor):
    torch.manual_seed(5)
    with torch.no_grad():
        nodes = poutine.trace(vae.guide).get_trace(x).nodes
    return {site: nodes[site]["fn"].base_dist for site in ("z1", "z2")}


PAIRS = [("top_down", "markov"), ("bottom_up", "markov"), ("mean_field", "markov"), ("top_down", "skip")]


@pytest.mark.parametrize(("guide", "model"), PAIRS)
def test_z2_tells_families_that_differ_in_energy_alone_and_before_it_did_not(guide, model):
    vae = settled(guide, model)
    (train, labels), (test, truth) = families(vae, 3000, 1), families(vae, 1500, 2)
    accuracy = []
    for seed in (None, 1, 2, 3):  # not restarted, then with random sums of energies
        if seed is not None:
            torch.manual_seed(seed)
            start_from_energies(vae, train)
        means = [q(vae, x)["z2"].mean.numpy() for x in (train, test)]
        accuracy.append(LogisticRegression(max_iter=500).fit(means[0], labels).score(means[1], truth))
    chance, spread = 0.25, np.sqrt(0.25 * 0.75 / 1500)
    # Bottom-up, z2 is inferred from a draw of z1, whose noise it sees as well.
    assert accuracy[0] < chance + 8 * spread
    assert np.median(accuracy[1:]) > (0.5 if guide == "bottom_up" else 0.7), accuracy


@pytest.mark.parametrize(("guide", "model"), PAIRS)
def test_z2_is_even_in_the_image_standardised_and_z1_stays(guide, model):
    vae = settled(guide, model)
    x, _ = families(vae, 3000, 1)
    before, A = q(vae, x)["z1"], vae.model.A.detach().clone()
    torch.manual_seed(3)
    start_from_energies(vae, x)
    after, mirrored = q(vae, x), q(vae, -x)
    one, other = after["z2"].mean, mirrored["z2"].mean
    torch.testing.assert_close(one.mean(0), torch.zeros(Z2), atol=0.5, rtol=0)
    torch.testing.assert_close(one.std(0), torch.ones(Z2), atol=0.35, rtol=0)
    for d in range(Z2):
        assert np.corrcoef(one[:, d], other[:, d])[0, 1] > (0.3 if guide == "bottom_up" else 0.9)
    assert torch.equal(vae.model.A, A)
    difference = (after["z1"].mean - before.mean).square().mean() / before.mean.var()
    assert difference < 0.02, float(difference)


@pytest.mark.parametrize("family", ["laplace", "normal"])
def test_the_prior_of_z1_starts_as_z1_is(family):
    vae = settled("top_down", family=family)
    x, _ = families(vae, 3000, 1)
    z1 = q(vae, x)["z1"]
    start_from_energies(vae, x)
    with torch.no_grad():
        p = poutine.trace(vae.model).get_trace(x).nodes["z1"]["fn"].base_dist
    wanted = (z1.mean.var(0) + z1.variance.mean(0)).sqrt()
    ratio = p.variance.mean(0).sqrt() / wanted
    assert float(ratio.min()) > 0.85 and float(ratio.max()) < 1.15


def test_an_odd_number_of_units_and_a_single_layer():
    torch.manual_seed(0)
    sizes = dict(pixels=PIXELS, dims=(Z1, Z2))
    guide = GUIDES["mean_field"](**sizes, hidden=((48,), (41,)))
    vae = start_in_linear_regime(HVAE(MarkovModel(**sizes, hidden=((30,),)), guide))
    x, _ = families(vae, 2000, 1)
    start_from_energies(vae, x)
    one, other = q(vae, x)["z2"].mean, q(vae, -x)["z2"].mean
    assert np.corrcoef(one[:, 0], other[:, 0])[0, 1] > 0.9
    assert all(p.isfinite().all() for p in vae.parameters())


def test_refusals():
    vae = settled("top_down")
    with pytest.raises(HVAEError, match=r"at least 1000 images of 36 pixels.*got \(10, 36\)"):
        start_from_energies(vae, torch.zeros(10, PIXELS))
    with pytest.raises(HVAEError, match="has 1 layers, expected 2|not LinearModel"):
        start_from_energies(
            HVAE(LinearModel(PIXELS, (Z1,)), MeanFieldGuide(PIXELS, (Z1,), hidden=((8,),))), torch.randn(1000, PIXELS)
        )
    with torch.no_grad():
        vae.model.to_image.weight.zero_()
    with pytest.raises(HVAEError, match="no unit of z1 is active yet"):
        start_from_energies(vae, torch.randn(1000, PIXELS))
    bare = GUIDES["mean_field"](PIXELS, (Z1, Z2), hidden=((48,), ()))
    with pytest.raises(HVAEError, match="needs a hidden layer"):
        start_from_energies(HVAE(settled("mean_field").model, bare), torch.randn(1000, PIXELS))
