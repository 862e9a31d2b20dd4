"""The benchmark's peers compute what pyro_hvae's objectives compute: a peer that does something else is no peer."""

import copy
import importlib.util
import math
import sys
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from small import small_linear, small_pair
from torch.utils.flop_counter import FlopCounterMode

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError

_spec = importlib.util.spec_from_file_location("peers", Path(__file__).parents[1] / "benchmarks" / "peers.py")
peers = sys.modules["peers"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(peers)

BETA = {"z1": 0.7, "z2": 0.3}
K = 3


def pair(seed=0):
    """Double precision, away from the start: heads wide enough that every term matters."""
    vae = small_pair(seed=seed).double()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed + 100)
        for parameter in vae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return vae


def images(count=7, seed=1):
    return torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layers(vae):
    """The pair's layers in the order in which the hand-written module copies them."""
    model, guide = vae.model, vae.guide
    trunk, head = model.conditionals[0]
    a, b = guide.bottom_up
    d = guide.joint[0]
    return [*a.layers, *b.layers, guide.heads[1], *guide.top_down[0].layers, d.first, *d.rest.layers, guide.heads[0],
            *trunk.layers, head, model.to_image]  # fmt: skip


def theirs(module):
    return [m for m in module.modules() if isinstance(m, torch.nn.Linear)]


def assert_same(peer, vae, objective, x, rtol=1e-10):
    """Value and every gradient, under the same random numbers."""
    torch.manual_seed(5)
    loss = peer.loss(x)
    loss.backward()
    torch.manual_seed(5)
    # The pair is checked, with random numbers of its own, at the first evaluation.
    evaluation = objective.evaluate(vae.model, vae.guide, x)
    expected = -evaluation.bound.mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=0)
    ours, copies = layers(vae), theirs(peer.module)
    assert len(ours) == len(copies) and sum(p.numel() for p in vae.parameters()) == sum(
        p.numel() for p in peer.module.parameters()
    )
    for mine, copied in zip(ours, copies, strict=True):
        for name in ("weight", "bias"):
            a, b = getattr(copied, name).grad, getattr(mine, name).grad
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))
            assert b.abs().max() > 0


def with_beta(peer):
    peer.module.beta1.fill_(BETA["z1"])
    peer.module.beta2.fill_(BETA["z2"])
    return peer


def test_hand_written_elbo_is_ours():
    vae = pair()
    assert_same(with_beta(peers.HandWritten(vae)), vae, hvae.ELBO(beta=BETA), images())


@pytest.mark.parametrize("sharing", peers.SHARING)
def test_hand_written_importance_weighted_bound_is_ours(sharing):
    vae = pair()
    peer = with_beta(peers.HandWritten(vae, particles=K, sharing=sharing))
    assert_same(peer, vae, hvae.ImportanceWeightedELBO(K, beta=BETA), images())


def test_single_precision_agrees_to_rounding():
    vae = pair().float()
    assert_same(peers.HandWritten(vae), vae, hvae.ELBO(), images().float(), rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("particles", [None, K])
def test_compiled_is_eager(particles):
    """With the random numbers of eager, which torch keeps for this purpose."""
    vae = pair()
    objective = hvae.ELBO(beta=BETA) if particles is None else hvae.ImportanceWeightedELBO(K, beta=BETA)
    with torch._inductor.config.patch(fallback_random=True):
        assert_same(
            with_beta(peers.HandWritten(vae, particles=particles, compiled=True)), vae, objective, images(), rtol=1e-9
        )


def test_a_step_is_a_step_of_adam_and_leaves_the_pair_alone():
    vae = pair()
    before = copy.deepcopy(vae.state_dict())
    peer = peers.HandWritten(vae, learning_rate=1e-2)
    torch.manual_seed(5)
    peer.step(images())
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    torch.manual_seed(5)
    (-hvae.ELBO().evaluate(vae.model, vae.guide, images()).bound.mean()).backward()
    optimizer.step()
    for mine, copied in zip(layers(vae), theirs(peer.module), strict=True):
        torch.testing.assert_close(copied.weight, mine.weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("objective", "particles"),
    [
        (Trace_ELBO(), 1),  # one draw: log w itself
        (TraceMeanField_ELBO(), None),
        (RenyiELBO(alpha=0, num_particles=K, vectorize_particles=True, max_plate_nesting=1), K),
    ],
    ids=["trace", "mean_field", "renyi"],
)
def test_pyros_own_objectives_give_the_hand_written_loss(objective, particles):
    pyro.clear_param_store()  # of whoever was here before
    vae, x = pair(), images()
    written = peers.HandWritten(vae, particles=particles)
    svi = peers.PyroSVI(vae, objective)
    torch.manual_seed(5)
    loss = svi.svi.loss_and_grads(svi.vae.model, svi.vae.guide, x)
    torch.manual_seed(5)
    expected = written.loss(x)
    expected.backward()
    assert loss / len(x) == pytest.approx(float(expected.detach()), rel=1e-10)
    for mine, copied in zip(layers(svi.vae), theirs(written.module), strict=True):
        torch.testing.assert_close(mine.weight.grad / len(x), copied.weight.grad, rtol=1e-8, atol=1e-9)
    before = copy.deepcopy(svi.vae.state_dict())
    svi.step(x)
    assert all(not torch.equal(before[name], p) for name, p in svi.vae.named_parameters())
    assert not torch.equal(svi.vae.model.A, vae.model.A) and len(pyro.get_param_store()) == 0


def test_sharing_saves_the_work_that_it_should():
    """TDVAE20, K = 10, batch 400. Two flops a multiplication, backward twice the forward, without gradients of the images."""
    vae = hvae.build("TDVAE20")
    x = torch.empty(400, 400, device="meta")
    counted = {}
    for sharing in peers.SHARING:
        peer = peers.HandWritten(vae, particles=10, sharing=sharing)
        peer.module.to("meta")
        with FlopCounterMode(display=False) as counter:
            peer.loss(x).backward()
        counted[sharing] = counter.get_total_flops() / 1e9
    once = 400 * 500 + 500 * 300 + 300 * 100 + 100 * 40  # x → L_x → q(z2 | x)
    assert counted["none"] - counted["bottom_up"] == pytest.approx(
        3 * 2 * once * 400 * 9e-9 - 2 * 400 * 500 * 400 * 9e-9
    )
    assert counted["bottom_up"] - counted["split"] == pytest.approx(3 * 2 * 500 * 500 * 400 * 9e-9)
    assert {name: round(value, 1) for name, value in counted.items()} == {
        "none": 50.1,
        "bottom_up": 43.3,
        "split": 37.9,
    }


def test_pairs_without_a_counterpart_are_refused():
    with pytest.raises(HVAEError, match="MarkovModel of Laplace"):
        peers.HandWritten(small_pair("bottom_up"))
    with pytest.raises(HVAEError, match="fixed observation noise"):
        peers.HandWritten(small_pair(learn_noise=True))
    with pytest.raises(HVAEError, match="did you mean 'split'"):
        peers.HandWritten(small_pair(), particles=2, sharing="splt")


def test_pythae_is_our_one_layer_vae():
    if (reason := peers.pythae_missing()) is not None:
        with pytest.raises(HVAEError, match=r"pip install"):
            peers.PythaeLoop(small_linear())
        pytest.skip(reason)
    sizes = dict(pixels=16, dims=(6,), families=("normal",))
    vae = hvae.HVAE(hvae.LinearModel(**sizes, noise=1.0), hvae.MeanFieldGuide(**sizes, hidden=((8,),)))
    x = images().float()
    peer = peers.PythaeLoop(vae, learning_rate=1e-2)
    torch.manual_seed(5)
    loss = peer.module({"data": x}).loss
    loss.backward()
    torch.manual_seed(5)
    expected = -hvae.ELBO().evaluate(vae.model, vae.guide, x).bound.mean()
    expected.backward()
    torch.testing.assert_close(loss + 8 * math.log(2 * math.pi), expected, rtol=1e-6, atol=0)
    trunk, head = vae.guide.conditionals[0]
    ours, copies = (
        [*trunk.layers, head, vae.model.to_image],
        [*theirs(peer.module.encoder), *theirs(peer.module.decoder)],
    )
    for mine, copied in zip(ours, copies, strict=True):
        torch.testing.assert_close(copied.weight.grad, mine.weight.grad, rtol=1e-4, atol=1e-6)
        assert torch.equal(copied.weight, mine.weight)
    peer.step(x)
    assert all(
        not torch.equal(copied.weight, mine.weight) for mine, copied in zip(ours, theirs(peer.module), strict=True)
    )
