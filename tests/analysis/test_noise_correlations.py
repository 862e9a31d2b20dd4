"""Planted noise and signal correlations come back; independent units are found independent at the stated rate."""

import numpy as np
import pytest
import xarray as xr
from planted import BLOCK_UNITS, MOMENT_DRAWS, SHARED, gabors

from pyro_hvae.analysis import noise_correlations
from pyro_hvae.analysis.noise_correlations import _permuted, _Sample, _standard
from pyro_hvae.analysis.noise_correlations_figure import plot_noise_correlations
from pyro_hvae.analysis.posterior_correlations import (
    null_coefficients,
    posterior_correlations,
    significant,
    zero_by_construction,
)
from pyro_hvae.analysis.strongest_pairs import consistency
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior

UNITS, DRAWS = 16, 50


def structure(kind: int) -> np.ndarray:
    """Correlation matrix of blocks of four, which units make a block depending on ``kind``."""
    block = np.random.default_rng(kind).permutation(np.arange(UNITS) // 4)
    return np.where(block[:, None] == block, 0.7, 0.0) + 0.3 * np.eye(UNITS)


def file(
    noise: list[np.ndarray], signal: list[np.ndarray], n: int, rng: np.random.Generator, *, as_draws: bool = False
) -> xr.DataTree:
    """Families with noise and signal correlation matrices of their own; posterior variance 1, all of it from z2."""
    z1, z2, r, families = [], [], [], []
    for k, (nc, sc) in enumerate(zip(noise, signal, strict=True)):
        z1.append(rng.multivariate_normal(np.zeros(UNITS), sc, n))
        z2.append(rng.multivariate_normal(np.zeros(UNITS), nc, (n, DRAWS)))
        r.append(np.stack([np.corrcoef(one.T) for one in z2[-1]]))
        families += [f"family {k}"] * n
    z1, draws, total = np.concatenate(z1), np.concatenate(z2), len(families)
    ones = (("image", "z1_dim"), np.ones((total, UNITS)))
    moments = {"z1_mean": (("image", "z1_dim"), z1), "z1_variance": ones, "z1_kl": ones, "z1_variance_from_z2": ones}
    two = {f"z2_{name}": (("image", "z2_dim"), np.ones((total, 1))) for name in ("mean", "variance", "kl")}
    groups = {
        "posterior_moments": xr.Dataset(moments | two),
        "observed_data": xr.Dataset({"x": (("image", "pixel"), rng.normal(size=(total, 100)))}),
        "constant_data": xr.Dataset(
            {"A": (("pixel", "z1_dim"), gabors(10, UNITS, rng))}, {"family": ("image", families)}
        ),
    }
    if as_draws:
        groups["posterior"] = xr.Dataset({"z1": (("chain", "draw", "image", "z1_dim"), draws.transpose(1, 0, 2)[None])})
    else:
        places = {"unit": np.arange(UNITS), "unit_bis": np.arange(UNITS)}
        matrices = xr.Dataset({"z1_correlation": (("image", "unit", "unit_bis"), np.concatenate(r))}, places)
        groups["posterior_moments"] = groups["posterior_moments"].merge(matrices)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["configuration"] = f'{{"posterior": {{"draws": 0, "resample": null, "moment_draws": {DRAWS}}}}}'
    return tree


def upper(matrix: np.ndarray) -> np.ndarray:
    return matrix[..., *np.triu_indices(UNITS, 1)]


def test_planted_correlations_and_their_correspondence_come_back():
    """Signal and noise correlations of a family are the same matrix: correspondence is that of the matrices themselves."""
    planted = [structure(k) for k in range(3)]
    found = noise_correlations(file(planted, planted, 300, np.random.default_rng(0)), permutations=200)
    for k, matrix in enumerate(planted):
        # mean over 300 images of the sample correlation of 50 draws: s.d. at most 1 / sqrt(300 * 49)
        np.testing.assert_allclose(upper(found["noise"].values[k]), upper(matrix), atol=0.04)
        np.testing.assert_allclose(upper(found["signal"].values[k]), upper(matrix), atol=5 / np.sqrt(300))
    truth = np.corrcoef([upper(matrix) for matrix in planted])
    # half of the units at a time, and signal correlations from 150 images: a few per cent are lost
    within = found["correspondence"].sel(pairing="within")
    assert 0.9 < within < 1
    across = truth[np.triu_indices(3, 1)].mean()
    at = found.sel(pairing="across")
    assert abs(at["correspondence"] - across) < 4 * at["correspondence_se"] / np.sqrt(5) + 0.1
    np.testing.assert_allclose(found["p_value"], 1 / 201)
    np.testing.assert_allclose(found["matrix"], truth, atol=0.3)
    picture = plot_noise_correlations(found)
    assert "n = 900 images in all" in picture.caption


def test_half_samples_give_the_spread_over_fresh_data():
    """The s.e. must be that of the estimate over new images and units: compared over 25 fresh files, within a factor of two."""
    rng = np.random.default_rng(1)
    weak = [0.25 * structure(k) + 0.75 * np.eye(UNITS) for k in range(2)]
    runs = [noise_correlations(file(weak, weak, 40, rng), permutations=1).sel(pairing="within") for _ in range(25)]
    spread = np.std([run["correspondence"].item() for run in runs], ddof=1)
    stated = np.sqrt(np.mean([run["correspondence_se"].item() ** 2 for run in runs]))
    assert 0.5 < stated / spread < 2.5


def test_false_positive_rates_on_null_data():
    """Independent noise: p values of both tests below 0.05 in 5% of 400 sets; coefficients significant in 5%."""
    rng = np.random.default_rng(2)
    units, pairs, n, permutations = 10, 45, 12, 79
    hits = np.zeros((400, 2))
    for trial in range(400):
        signal = np.stack([np.corrcoef(rng.normal(size=(30, units)).T)[np.triu_indices(units, 1)] for _ in range(2)])
        r = [rng.normal(size=(n, pairs)).astype(np.float32) for _ in range(2)]
        sample = _Sample(np.stack([part.mean(0) for part in r]).astype(float), signal)
        hits[trial] = _permuted(sample, r, units, permutations, rng)
    rates = ((hits + 1) / (permutations + 1) <= 0.05).mean(0)
    np.testing.assert_allclose(rates, 0.05, atol=3.5 * np.sqrt(0.05 * 0.95 / 400))
    found = noise_correlations(file([np.eye(UNITS)] * 2, [structure(0)] * 2, 100, rng), permutations=20)
    share, se = found["significant_share"].item(), found["significant_share_se"].item()
    assert abs(share - 0.05) < 4 * se and se < 0.005
    highest = found["highest"].to_series()
    errors = found["highest_se"].to_series()
    for count in ("5", "10"):
        distance = highest[count] - highest[f"{count}_by_chance"]
        assert abs(distance) < 4 * np.hypot(errors[count], errors[f"{count}_by_chance"])
    for value, se in zip(found["consistency"].values, found["consistency_se"].values, strict=True):
        assert abs(value) < 4 * se


def test_noise_common_to_all_families_is_not_specific():
    """One and the same noise structure in both families follows the signal of both: a correspondence, not a specific one."""
    rng = np.random.default_rng(3)
    specific = []
    for _ in range(20):
        found = noise_correlations(file([structure(0)] * 2, [structure(0)] * 2, 40, rng), permutations=39)
        assert found["p_value"].sel(test="correspondence") <= 0.05
        specific.append(found["p_value"].sel(test="family_specific").item())
    assert np.mean(np.array(specific) <= 0.05) <= 0.2
    assert 0.3 < np.mean(specific) < 0.75


def test_consistency_of_planted_pairs_is_their_distance():
    """Pairs 2 s.d. (over pairs) above the others in every image."""
    rng = np.random.default_rng(4)
    r = rng.normal(size=(400, 1000))
    r[:, :10] += 6
    expected = (r[:, :10].mean() - r.mean()) / np.sqrt((r**2).mean() - r.mean() ** 2)
    value, se = consistency(r, 10)
    assert value == pytest.approx(expected, abs=0.1)
    assert se < 0.05


def test_draws_and_stored_matrices_give_the_same(planted):
    rng = np.random.default_rng(5)
    two = [structure(0), structure(1)]
    stored = file(two, two, 30, np.random.default_rng(6))
    drawn = file(two, two, 30, np.random.default_rng(6), as_draws=True)
    a, b = posterior_correlations(stored), posterior_correlations(drawn)
    units = np.arange(UNITS)
    chosen = np.sort(rng.permutation(60)[:20])
    np.testing.assert_allclose(a.pairs(chosen, units), b.pairs(chosen, units), atol=1e-5)
    assert (a.draws, b.draws) == (DRAWS, DRAWS)
    mine, other = (noise_correlations(tree, permutations=5) for tree in (stored, drawn))
    np.testing.assert_allclose(mine["correspondence"], other["correspondence"], atol=1e-4)


def test_coefficients_of_conditional_means_are_freed_of_the_constant_part(planted):
    with open_posterior(planted.path) as tree:
        found = noise_correlations(tree, permutations=50)
        source = posterior_correlations(tree)
    assert source.conditional and source.draws == MOMENT_DRAWS
    block = np.arange(planted.units) // BLOCK_UNITS
    same = block[:, None] == block
    family = found.sel(family="bark")["noise"].values
    places = np.flatnonzero(np.isin(source.units, found["unit"].values))
    truth = np.where(same, SHARED, 0.0)[np.ix_(places, places)]
    i, j = np.triu_indices(len(places), 1)
    np.testing.assert_allclose(family[i, j], truth[i, j], atol=5 * SHARED / np.sqrt(100 * MOMENT_DRAWS))
    # all pairs within blocks differ from zero, and 5% of the others
    inside = (truth[i, j] > 0).mean()
    expected = inside + 0.05 * (1 - inside)
    here = found.sel(set="natural")
    assert abs(here["significant_share"] - expected) < 4 * here["significant_share_se"]


def test_correlations_that_are_zero_by_construction_are_not_analysed(planted, edit):
    def silence(tree):
        tree["posterior_moments"]["z1_variance_from_z2"][:] = 0.0

    with open_posterior(edit(planted.path, silence)) as tree:
        found = noise_correlations(tree)
        assert found["magnitude"].values.tolist() == [0.0, 0.0]
        assert found.attrs["notes"].startswith("zero noise correlation by construction: the guide draws every z1 unit")
        assert "No figure: zero noise correlation" in plot_noise_correlations(found).caption
        # importance resampling correlates what the guide does not
        tree.attrs["configuration"] = '{"posterior": {"draws": 30, "resample": 10, "moment_draws": 64}}'
        assert zero_by_construction(tree) == ""


def test_what_cannot_be_correlated_is_said(planted, plant):
    with (
        open_posterior(plant(units=0, draws=0).path) as tree,
        pytest.raises(HVAEError, match=r"--units 3 14 15 \.\.\."),
    ):
        noise_correlations(tree)
    with open_posterior(plant("few.nc", units=3).path) as tree, pytest.raises(HVAEError, match="3 of the 3 correlated"):
        noise_correlations(tree)
    with open_posterior(planted.path) as tree, pytest.raises(HVAEError, match="at least 2 repeats"):
        noise_correlations(tree, repeats=1)
    with open_posterior(plant("natural.nc", families=(), natural=40).path) as tree:
        found = noise_correlations(tree, permutations=5)
    assert "one set of images only (natural)" in found.attrs["notes"]
    assert np.isnan(found["correspondence"].sel(pairing="across"))
    plot_noise_correlations(found)
    with (
        open_posterior(plant("one.nc", families=(), natural=1).path) as tree,
        pytest.raises(HVAEError, match="at least 10 images"),
    ):
        noise_correlations(tree)


def test_the_t_test_of_a_coefficient_is_exact():
    r = null_coefficients((200_000,), 12, np.random.default_rng(7))
    x, y = np.random.default_rng(8).normal(size=(2, 50_000, 12))
    real = (_standard(x) * _standard(y)).sum(1)
    for values in (r, real):
        assert significant(values, 12).mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 50_000))
