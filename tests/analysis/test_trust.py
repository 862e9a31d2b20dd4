"""Weights whose Pareto tail is known get the right k-hat verdict, and the sentence says so."""

import arviz
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from pyro_hvae.analysis import trust
from pyro_hvae.analysis.trust import plot_trust
from pyro_hvae.errors import HVAEError


def psis_k(log_weights: np.ndarray) -> np.ndarray:
    if hasattr(arviz, "psislw"):
        return np.asarray(arviz.psislw(log_weights.T)[1])
    from arviz_stats.base import array_stats

    return np.asarray(array_stats.psislw(-log_weights.T, axis=-1)[1])  # takes log likelihoods: the weights are 1 / p


def file(k: np.ndarray, ess: np.ndarray, draws: int, families=None, resample: int | None = None) -> xr.DataTree:
    stats_ = {"pareto_k": ("image", k), "ess": ("image", ess)}
    stats_["log_weight"] = (("chain", "draw", "image"), np.zeros((1, draws, len(k))))
    families = np.full(len(k), "") if families is None else families
    tree = xr.DataTree.from_dict({
        "sample_stats": xr.Dataset(stats_), "constant_data": xr.Dataset(coords={"family": ("image", families)}),
    })  # fmt: skip
    tree.attrs["configuration"] = f'{{"posterior": {{"draws": {draws}, "resample": {resample or "null"}}}}}'
    return tree


def test_pareto_tails_of_known_shape_are_told_apart():
    """Weights with Pareto tails of shape 0.2 (60 images) and 1.2 (40 images)."""
    rng, draws = np.random.default_rng(0), 3000
    shape = np.where(np.arange(100) < 60, 0.2, 1.2)
    log_weights = np.log(stats.genpareto.rvs(shape, size=(draws, 100), random_state=rng))
    weights = np.exp(log_weights - log_weights.max(0))
    ess = weights.sum(0) ** 2 / (weights**2).sum(0)
    found = trust(file(psis_k(log_weights), ess, draws))
    assert found["trusted"].sel(set="natural") == 0.6
    assert found["trusted_interval"].sel(set="natural").values == pytest.approx([0.502, 0.691], abs=1e-3)
    assert found.attrs["verdict"].startswith("The guide's moments can be trusted for 60% of the 100 natural images; ")
    assert found.attrs["threshold"] == 0.7
    assert found["effective_share"].item() == pytest.approx(np.median(ess) / draws)
    assert "60% of the 100 natural images" in plot_trust(found).caption


def test_few_draws_lower_the_threshold_and_sets_are_apart():
    k = np.r_[np.full(10, 0.3), np.full(10, 0.6)]
    found = trust(file(k, np.full(20, 50.0), 100, np.repeat(["", "bark"], 10)))
    assert found.attrs["threshold"] == pytest.approx(0.5)
    np.testing.assert_array_equal(found["trusted"], [1.0, 0.0])
    np.testing.assert_array_equal(found["below_07"], [1.0, 1.0])
    many = trust(file(k, np.full(20, 50.0), 100, np.repeat(["", "bark"], 10), resample=40))
    assert many.attrs["weights"] == 4000
    np.testing.assert_array_equal(many["trusted"], [1.0, 1.0])
    assert many.attrs["verdict"].startswith("The importance-resampled moments can be trusted for 100%")
    assert "resample," not in many.attrs["verdict"]


def test_constant_weights_are_trusted_and_unknown_ones_are_not():
    k = np.array([np.nan, np.nan, 0.1])
    found = trust(file(k, np.array([1000.0, 3.0, 900.0]), 1000))
    assert found["trusted"].item() == pytest.approx(2 / 3)
    assert "1 of 3 images without k-hat" in found.attrs["notes"]
    steps = plot_trust(found).figure.axes[0].lines[0]
    # constant weights stand at the left edge, the unknown ones beyond the right one
    np.testing.assert_array_equal(steps.get_xdata(), [-0.05, 0.1, np.inf])
    np.testing.assert_allclose(steps.get_ydata(), [1 / 3, 2 / 3, 1])
    with pytest.raises(HVAEError, match="no image has a Pareto k-hat: 20 draws"):
        trust(file(np.full(3, np.nan), np.full(3, 5.0), 20))


def test_a_file_without_draws_is_judged_by_the_weights_of_its_evidence():
    """Ten images, the evidence of six known: k-hat 0.3 for four of them, 0.9 for one, constant weights for one."""
    k = np.r_[np.full(4, 0.3), 0.9, np.full(5, np.nan)]
    ess = np.r_[np.full(5, 200.0), 1000.0, np.full(4, np.nan)]
    log_p = np.r_[np.full(6, -100.0), np.full(4, np.nan)]
    tree = file(k, ess, 20, np.repeat(["", "bark"], [5, 5]))
    values = {"pareto_k": k, "ess": ess, "log_evidence": log_p}
    evidence = xr.Dataset({name: ("image", row) for name, row in values.items()}, attrs={"num_particles": 1000})
    tree["evidence"] = xr.DataTree(evidence)
    del tree["sample_stats"]
    found = trust(tree)
    np.testing.assert_allclose(found["trusted"].sel(set=["natural", "texture"]), [0.8, 1.0])
    np.testing.assert_array_equal(found["trusted_n"], [5, 1])
    assert found.attrs["weights"] == 1000 and "without k-hat" not in found.attrs["notes"]
    assert found["effective_share"].sel(set="natural") == 0.2
    assert plot_trust(found).caption.endswith("n = 5 natural, 1 texture images.")
    del tree["evidence"].attrs["num_particles"]
    with pytest.raises(HVAEError, match="of how many importance weights"):
        trust(tree)
