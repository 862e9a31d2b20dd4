"""Linear-Gaussian hierarchies: what a structured and a factorised guide say of z1's variance, against the exact posterior."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_hvae as hvae
from pyro_hvae.analysis import layer_dependence
from pyro_hvae.analysis.layer_dependence import plot_layer_dependence
from pyro_hvae.programs import HVAE, MarkovModel
from pyro_hvae.sampling.linear_gaussian import linear_gaussian_posterior

#: s.d. of z1 given z2 → posterior variance of z1, that of the best factorised guide, and how far that guide is from the
#: posterior in nats; x = z1 + noise of s.d. 1.
KNOWN = {1.0: (0.667, 0.5, 0.144), 0.1: (0.502, 0.0099, 1.963), 0.03: (0.500, 0.0009, 3.161)}


def model(s: float) -> MarkovModel:
    made = MarkovModel(pixels=1, dims=(1, 1), families=("normal", "normal"), hidden=((),), noise=1.0)
    with torch.no_grad():
        made.to_image.weight.fill_(1.0)
        made.to_image.bias.zero_()
        head = made.conditionals[0][1]
        head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        head.bias.copy_(torch.tensor([0.0, 2 * np.log(s)]))
    return made


class Exact(nn.Module):
    """q(z2 | x) q(z1 | x, z2): the posterior itself."""

    def __init__(self, s: float):
        super().__init__()
        self.s = s

    def forward(self, x):
        s = self.s
        with pyro.plate("image", len(x), dim=-1):
            below = 1 + s**2  # variance of x given z2
            z2 = pyro.sample("z2", dist.Normal(x / (1 + below), (below / (1 + below)) ** 0.5).to_event(1))
            precision = 1 + 1 / s**2
            pyro.sample("z1", dist.Normal((x + z2 / s**2) / precision, precision**-0.5).to_event(1))


class Factorised(Exact):
    """The factorised q of least KL[q || p]: exact means, and the reciprocals of the posterior precision's diagonal."""

    def forward(self, x):
        s = self.s
        with pyro.plate("image", len(x), dim=-1):
            width = (1 + 1 / s**2) ** -0.5
            pyro.sample("z2", dist.Normal(x / (2 + s**2), width).to_event(1))
            pyro.sample("z1", dist.Normal(x * (1 + s**2) / (2 + s**2), width).to_event(1))


@pytest.mark.parametrize("s", KNOWN)
def test_what_structured_and_factorised_guides_say_is_known_exactly(s):
    true, factorised, gap = KNOWN[s]
    x = np.linspace(-2, 2, 30)[:, None].astype(np.float32)
    posterior = linear_gaussian_posterior(model(s), torch.from_numpy(x))
    covariance = posterior.covariance.numpy()
    within = 1 / np.linalg.inv(covariance)[0, 0]
    assert covariance[0, 0] == pytest.approx(true, abs=1e-3) and within == pytest.approx(factorised, abs=1e-4)
    for guide, variance, share, missing in (
        (Exact(s), true, 1 - within / covariance[0, 0], 0.0),
        (Factorised(s), factorised, 0.0, gap),
    ):
        draws = 4000
        tree = hvae.export_posterior(HVAE(model(s), guide), x, moment_draws=draws, prior_samples=1, receptive_fields=0)
        found = layer_dependence(tree)
        # a variance of n draws has the relative error √(2/n), of 30 images together √30 times less
        slack = 4 * np.sqrt(2 / draws / 30)
        assert tree["posterior_moments"]["z1_variance"].values.mean() == pytest.approx(variance, rel=slack, abs=6e-4)
        assert found["share"].item() == pytest.approx(share, abs=slack)
        assert found["share_n"].item() == 30
        elbo = tree["bound"]["elbo"].values.mean()
        loss = posterior.log_evidence.mean().item() - elbo
        assert loss == pytest.approx(missing, abs=4 * np.sqrt(2 / draws / 30) + 1e-3)
    assert "n = 30 images" in plot_layer_dependence(found).caption


def test_the_share_is_zero_to_the_last_digit_for_a_factorised_guide():
    tree = hvae.export_posterior(
        HVAE(model(0.1), Factorised(0.1)),
        np.ones((4, 1), np.float32),
        moment_draws=8,
        prior_samples=1,
        receptive_fields=0,
    )
    assert layer_dependence(tree)["share"].item() == 0
