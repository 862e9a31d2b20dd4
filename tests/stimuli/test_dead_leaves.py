import numpy as np
import pytest

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import dead_leaves
from pyro_hvae.stimuli.dead_leaves import _radii


def test_radii_are_those_of_leaves_that_reach_the_patch():
    """Density ∝ r⁻³ (size + 2r)²: its mean by quadrature."""
    a, b, size, n = 1.0, 50.0, 20, 100_000
    drawn = _radii(n, a, b, size, np.random.default_rng(0))
    assert drawn.min() >= a and drawn.max() <= b
    r = np.geomspace(a, b, 20_001)
    density = r**-3 * (size + 2 * r) ** 2
    mean = np.trapezoid(r * density, r) / np.trapezoid(density, r)
    assert abs(drawn.mean() - mean) < 4 * drawn.std() / np.sqrt(n)


def test_two_pixels_share_a_leaf_as_often_as_theory_says():
    """P(same leaf) at distance d: E[overlap] / (2 E[area] − E[overlap]) over radii of density ∝ r⁻³ (Lee et al. 2001)."""
    size, a, b, n = 6, 2.0, 12.0, 3000
    leaf = dead_leaves(size, count=n, smallest=a, largest=b, seed=1)["leaf"].values.reshape(n, size, size)
    r = np.geomspace(a, b, 20_001)
    for d in (1, 3, 5):
        x = np.clip(d / (2 * r), 0, 1)
        overlap = 2 * r**2 * (np.arccos(x) - x * np.sqrt(1 - x**2))
        both, area = np.trapezoid(overlap * r**-3, r), np.trapezoid(np.pi * r**2 * r**-3, r)
        expected = both / (2 * area - both)
        same = leaf[:, 0, 0] == leaf[:, 0, d]
        assert abs(same.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def test_log_luminance_and_labels():
    made = dead_leaves(16, count=300, contrast_sd=0.5, seed=2)
    x, leaf = np.log(made["x"].values), made["leaf"].values
    for image in range(5):
        assert made["leaves"].values[image] == len(np.unique(leaf[image])) == leaf[image].max() + 1
        assert all(len(np.unique(x[image][leaf[image] == k])) == 1 for k in range(leaf[image].max() + 1))
    # One pixel of each image is Normal(0, 0.5²): standard errors of mean and sd.
    assert abs(x[:, 0].mean()) < 4 * 0.5 / np.sqrt(300) and abs(x[:, 0].std() - 0.5) < 4 * 0.5 / np.sqrt(600)


def test_seed():
    one, same, other = (dead_leaves(8, count=5, seed=s) for s in (1, 1, 2))
    assert one.identical(same) and one["x"].values.tobytes() != other["x"].values.tobytes()


def test_what_does_not_fit():
    with pytest.raises(HVAEError, match="count must be a whole number of at least 1, got 0"):
        dead_leaves(8, count=0)
    with pytest.raises(HVAEError, match="smallest is 5"):
        dead_leaves(8, count=1, smallest=5, largest=4)
