import arviz as az
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyro_hvae.sampling import chain_statistics as module
from pyro_hvae.sampling.chain_statistics import chain_statistics, ess_of, r_hat_of, split

ARVIZ = {
    "r_hat": lambda draws: az.rhat(draws),
    "ess_bulk": lambda draws: az.ess(draws),
    "ess_tail": lambda draws: az.ess(draws, method="tail"),
    "r_hat_mean": lambda draws: az.rhat(draws, method="split"),
    "ess_mean": lambda draws: az.ess(draws, method="mean"),
}


def autoregressions(chains=4, draws=100, seed=0):
    """From strongly antithetic to hardly moving, ``(chain, draw, quantity)``."""
    rng = np.random.default_rng(seed)
    phi = np.linspace(-0.9, 0.99, 24)
    x = np.zeros((chains, draws, phi.size))
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + rng.normal(size=(chains, phi.size))
    return x


def agree(draws):
    ours = chain_statistics(draws)
    for name, arviz in ARVIZ.items():
        theirs = np.array([arviz(draws[..., q]) for q in range(draws.shape[-1])])
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("draws", [100, 101])
def test_the_same_as_arviz(draws):
    x = autoregressions(draws=draws)
    x[:2, :, 3] += 2  # chains apart
    x[..., 4] = np.round(x[..., 4])  # ties
    x[..., 5] **= 3  # heavy tails
    agree(x)
    agree(x.astype(np.float32))
    agree(x[:2])


@settings(max_examples=25, deadline=None)
@given(arrays(np.float64, (2, 12, 1), elements=st.integers(-3, 3)).filter(lambda x: x.std(1).min() > 0))
def test_the_same_as_arviz_on_few_values(draws):
    ours = chain_statistics(draws)
    for name in ("ess_bulk", "ess_tail", "ess_mean", "r_hat_mean"):
        np.testing.assert_allclose(ours[name], ARVIZ[name](draws[..., 0]), rtol=1e-6, err_msg=name)


def test_known_answers():
    """Antithetic, independent and correlated chains: (1 - phi) / (1 + phi) effective draws a draw."""
    x = autoregressions(chains=4, draws=4000)[..., [6, 11, 18]]
    phi = np.linspace(-0.9, 0.99, 24)[[6, 11, 18]]
    np.testing.assert_allclose(ess_of(x) / 16_000, (1 - phi) / (1 + phi), rtol=0.25)


def test_chains_apart_are_seen():
    x = np.random.default_rng(0).normal(size=(4, 200, 2))
    x[0, :, 1] += 1
    r_hat = r_hat_of(split(x))
    assert r_hat[0] < 1.02 and r_hat[1] > 1.1


def test_what_does_not_vary():
    found = chain_statistics(np.ones((2, 20, 3)))
    assert np.isnan(found["r_hat"]).all() and (found["ess_mean"] == 40).all()


def test_blocks_make_no_difference(monkeypatch):
    x = autoregressions(draws=60).reshape(4, 60, 6, 4)
    whole = chain_statistics(x)
    monkeypatch.setattr(module, "BLOCK", 4 * 60 * 5)
    parts = chain_statistics(x)
    assert whole["r_hat"].shape == (6, 4)
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])
