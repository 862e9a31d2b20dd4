import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_hvae.sampling.decoupling import Decoupling, least_excess


@pytest.mark.parametrize(("coupling", "weights"), [(0.7, (1.0, 1.0)), (-0.3, (2.0, 0.1)), (1.5, (1e-4, 1.0))])
def test_the_least_excess_of_two_units(coupling, weights):
    """E1 E2 >= c², so w1 E1 + w2 E2 is least at E1 = |c| sqrt(w2 / w1)."""
    ratio = np.sqrt(weights[1] / weights[0])
    found = least_excess(np.array([[0, coupling], [coupling, 0]]), np.array(weights))
    np.testing.assert_allclose(found, [abs(coupling) * ratio, abs(coupling) / ratio], rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_feasible_and_no_worse_than_a_uniform_excess(dim, seed):
    rng = np.random.default_rng(seed)
    coupling = rng.normal(size=(dim, dim))
    coupling = np.tril(coupling, -1) + np.tril(coupling, -1).T
    weights = np.exp(rng.normal(size=dim))
    excess = least_excess(coupling, weights)
    assert np.linalg.eigvalsh(np.diag(excess) - coupling)[0] > -1e-2 * np.abs(coupling).max()
    scale = np.sqrt(weights)
    uniform = np.linalg.eigvalsh(coupling * scale * scale[:, None])[-1] / weights
    assert weights @ excess <= weights @ uniform * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(6, 4), (4, 7)])
def test_the_root_makes_up_what_the_diagonal_exceeds(shape):
    torch.manual_seed(0)
    A, sigma = torch.randn(shape, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    made = Decoupling.of(A, sigma, torch.full((shape[1],), 2.0))
    G = A.T @ A / sigma**2
    torch.testing.assert_close(made.root @ made.root, torch.diag(made.precision) - G)
    torch.testing.assert_close(made.to_units, A / sigma**2)
    assert 0 < made.memory < 1


def test_nothing_is_remembered_where_A_is_orthogonal():
    A = torch.linalg.qr(torch.randn(6, 4, dtype=torch.float64)).Q * torch.tensor([1.0, 2.0, 0.1, 1e-9])
    made = Decoupling.of(A, torch.tensor(0.4, dtype=torch.float64), torch.ones(4))
    assert made.memory < 1e-5
    torch.testing.assert_close(made.precision, (A / 0.4).square().sum(0), rtol=1e-4, atol=1e-4)


def test_units_pinned_by_their_prior_bear_the_excess():
    """A unit whose variance is tiny has nothing to tell, so the others' precision is hardly exceeded."""
    A = torch.tensor([[1.0, 0.5], [0.0, 0.5]], dtype=torch.float64)
    sigma = torch.tensor(1.0, dtype=torch.float64)
    told = Decoupling.of(A, sigma, torch.tensor([1.0, 1.0])).precision - A.square().sum(0)
    spared = Decoupling.of(A, sigma, torch.tensor([1.0, 1e-6])).precision - A.square().sum(0)
    assert spared[0] < 0.01 * told[0]
