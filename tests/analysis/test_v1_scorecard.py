"""Similarity of distributions where it is known: the neurons' own, the farthest there is, and a planted population."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis import v1_scorecard
from pyro_hvae.analysis.v1_histograms import HISTOGRAMS, Histogram
from pyro_hvae.analysis.v1_scorecard import _bootstrap, plot_v1_scorecard, similarity

ORIENTATION = np.arange(0.0, 180, 10)
FREQUENCY = 0.45 * 2.0 ** (np.arange(-8, 1) / 2)
PHASE = np.arange(0.0, 360, 45)
DIAMETER = np.array([2.0, 3, 4, 6, 9, 13, 19, 27, 39, 57])


@pytest.mark.parametrize("histogram", HISTOGRAMS.values(), ids=HISTOGRAMS)
def test_counts_are_histograms(histogram):
    assert len(histogram.edges) == len(histogram.counts) + 1
    assert (np.diff(histogram.edges) > 0).all() and min(histogram.counts) >= 0 and histogram.source


def test_numbers_of_cells_are_those_that_the_papers_name():
    found = {name: h.n for name, h in HISTOGRAMS.items()}
    assert found == {
        "preferred_orientation": 385, "peak_frequency": 363, "frequency_selective": 87, "frequency_ratio": 73,
        "suppression": 190, "strongly_suppressed": 190, "summation": 148, "surround": 148, "surround_ratio": 148,
    }  # fmt: skip
    # Two tables of one paper agree: those selective for frequency are those with a bandwidth.
    assert HISTOGRAMS["frequency_selective"].counts[1] == HISTOGRAMS["frequency_ratio"].n
    assert HISTOGRAMS["strongly_suppressed"].counts[1] == HISTOGRAMS["summation"].n


def test_similarity_is_one_for_the_same_and_nought_for_the_farthest():
    q = np.array([0.5, 0.3, 0.2])
    assert similarity(q, q) == 1
    assert similarity(np.array([0.0, 0, 1]), q) == pytest.approx(0)  # D = 0.8, the largest there is
    assert similarity(np.array([1.0, 0, 0]), q) == pytest.approx(1 - 0.5 / 0.8)
    assert similarity(np.array([[1.0, 0, 0], [0.5, 0.3, 0.2]]), q).shape == (2,)


def test_bootstrap_of_the_neurons_is_the_ceiling_of_their_number():
    """Mean Kolmogorov-Smirnov distance of n draws from two even bins: E|B/n - 1/2| = 0.5 √(2/πn), over D_max = 1/2."""
    neurons = Histogram("x", "x", "1", "", "", (0.0, 1.0, 2.0), (200, 200))
    found = _bootstrap(np.array([0.5, 0.5]), neurons, draws=20_000)
    assert found.mean() == pytest.approx(1 - np.sqrt(2 / (np.pi * 400)), abs=4 * found.std() / np.sqrt(20_000) + 1e-4)


def test_values_beyond_the_edges_fall_into_the_outermost_bins():
    histogram = Histogram("x", "x", "1", "", "", (0.0, 1.0, 2.0), (1, 1))
    np.testing.assert_allclose(histogram.of(np.array([-5.0, 0.5, 2.0, 9.0, np.nan])), [0.5, 0.5])


def population(n: int, rng: np.random.Generator) -> xr.DataTree:
    """Units with the neurons' own preferred orientations and suppression indices, and one preferred frequency."""
    orientations, indices = (
        rng.choice(len(h.counts), n, p=np.array(h.counts) / h.n)
        for h in (HISTOGRAMS["preferred_orientation"], HISTOGRAMS["suppression"])
    )
    theta = np.deg2rad(45.0 * orientations)
    across = np.exp(4 * (np.cos(2 * (np.deg2rad(ORIENTATION) - theta[:, None])) - 1))
    tuning = np.exp(-2 * np.log2(FREQUENCY / 0.1591) ** 2)
    rate = across[:, :, None] * tuning  # an energy: alike at all phases
    suppression = 0.2 * indices + 0.1
    plateau = 1 - np.minimum(suppression, 0.999)
    size = np.where(DIAMETER <= 9, DIAMETER / 9, plateau[:, None])

    def group(values: np.ndarray, *dims: str) -> xr.Dataset:
        values = np.repeat(values[..., None], len(PHASE), -1)
        both = {
            "z1_mean": (("z1_unit", *dims, "phase"), values),
            "z1_sd": (("z1_unit", *dims, "phase"), 0 * values + 1),
        }
        return xr.Dataset(both, {"phase": PHASE})

    blank = xr.Dataset(
        {"z1_mean": ("z1_unit", np.zeros(n)), "z1_sd": ("z1_unit", np.ones(n))}, {"z1_unit": np.arange(n)}
    )
    tree = xr.DataTree.from_dict({
        "blank": blank,
        "gratings": group(rate, "orientation", "frequency").assign_coords(orientation=ORIENTATION, frequency=FREQUENCY),
        "size": group(size, "diameter").assign_coords(diameter=DIAMETER),
    })  # fmt: skip
    tree.attrs = {"response": "mean", "pixels_per_degree": 16.0}
    return tree


def test_a_population_with_the_neurons_own_values_reaches_the_ceiling_in_these_and_not_in_others():
    found = v1_scorecard(population(4000, np.random.default_rng(0)))
    for name in ("preferred_orientation", "suppression"):
        assert found["score"].sel(property=name).item() == pytest.approx(1, abs=0.04)
    assert found["score"].sel(property="peak_frequency").item() < 0.6  # all units in one bin
    low, high = found["similarity_interval"].sel(property="suppression").values
    assert low < found["similarity"].sel(property="suppression").item() < high
    assert "16 pixels per degree" in found.attrs["notes"]
    assert "De Valois" in plot_v1_scorecard(found).caption
