"""k-hat against weights whose tail is known; runs with arviz 0.23 and 1.x, without torch."""

import numpy as np
import pytest

from pyro_hvae.sampling.diagnostics import effective_sample_size, pareto_k, share_trusted


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9, 1.2])
def test_k_hat_finds_the_shape_of_a_pareto_tail(k):
    """Weights 1 + Pareto(1/k) have a tail of shape k; over 40 images k-hat is right within 4 standard errors and 0.1."""
    rng = np.random.default_rng(0)
    found = pareto_k(np.log1p(rng.pareto(1 / k, (4000, 40))))
    assert abs(found.mean() - k) < 4 * found.std(ddof=1) / np.sqrt(40) + 0.1
    assert share_trusted(found) == pytest.approx(np.mean(found < 0.7))


def test_weights_without_a_tail_have_no_k_hat_and_are_not_trusted_blindly():
    assert np.isnan(pareto_k(np.zeros((100, 2)))).all()
    assert np.isnan(pareto_k(np.random.default_rng(0).standard_normal((10, 2)))).all()


def test_effective_sample_size_of_equal_and_of_single_weights():
    assert effective_sample_size(np.zeros((50, 1)))[0] == pytest.approx(50)
    assert effective_sample_size(np.array([[0.0], [800.0]]))[0] == pytest.approx(1)
