"""Decoding reaches the best possible accuracy where families were planted, and chance where they were not."""

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_hvae.analysis import decode_family
from pyro_hvae.analysis.texture_decoding import (
    best_penalty,
    log_norm,
    log_power_spectrum,
    plot_texture_decoding,
)
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def at(dataset: xr.Dataset, feature: str) -> tuple[float, float, float]:
    here = dataset.sel(feature=feature)
    low, high = here["accuracy_interval"].values
    return here["accuracy"].item(), low, high


def test_decodable_z2_reaches_the_bayes_accuracy_and_undecodable_z1_stays_at_chance(plant):
    truth = plant(train=250, test=250, natural=2)
    with open_posterior(truth.path) as tree:
        found = decode_family(tree)
    best, chance = truth.bayes_accuracy(), 1 / 3
    value, low, high = at(found, "z2_mean")
    assert low - 0.01 < best < high + 0.01  # a trained classifier lies a little under the best one
    assert high - low < 0.1
    for feature in ("pixels", "z1_mean", "norm", "power_spectrum"):
        value, low, high = at(found, feature)
        assert low < chance < high, feature
        assert value < 0.45
    assert found.attrs["chance"] == pytest.approx(chance)
    assert found.attrs["test_images"] == 750
    assert found.attrs["train_images"] == 600
    assert found.attrs["notes"] == ""
    np.testing.assert_allclose(found["confusion"].sum("decoded"), 1)
    np.testing.assert_allclose(np.trace(found["confusion"].sel(feature="z2_mean")) / 3, at(found, "z2_mean")[0])


def test_families_that_differ_in_contrast_only_are_told_by_the_norm(plant):
    with open_posterior(plant(contrast=3.0, separation=0.0, natural=2, train=100, test=100).path) as tree:
        found = decode_family(tree, ("pixels", "norm", "z2_mean"))
    assert at(found, "norm")[0] > 0.95
    assert at(found, "pixels")[0] < 0.6
    assert found.attrs["notes"].startswith("z2_mean does not beat the patch norm")
    assert at(found, "z2_mean")[1] < 1 / 3 < at(found, "z2_mean")[2]


def test_how_the_textures_were_preprocessed_stands_beside_the_floors(planted, edit):
    def choose(tree):
        tree.attrs |= {"texture_intensity": "own_pooled", "texture_whitening": "own"}

    with open_posterior(planted.path) as tree:
        found = decode_family(tree, ["norm", "z2_mean"])
        assert "texture_intensity" not in found.attrs  # a file from before
        assert "textures: not recorded in the file." in plot_texture_decoding(found).caption
    with open_posterior(edit(planted.path, choose)) as tree:
        found = decode_family(tree, ["norm", "z2_mean"])
    assert (found.attrs["texture_intensity"], found.attrs["texture_whitening"]) == ("own_pooled", "own")
    caption = plot_texture_decoding(found).caption
    assert "pooled intensity histogram matched to the unit normal, whitening fitted to the textures." in caption


def test_the_interval_covers_chance_on_null_data(planted, edit):
    """Labels without any relation to the features: the 95% interval must hold 1/2 in about 95% of 80 files."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(80):
        n = 120
        family, split = np.array(["a", "b"])[np.arange(n) % 2], np.where(np.arange(n) < 60, "train", "test")
        moments = {"z1_mean": (("image", "z1_dim"), rng.normal(size=(n, 4)))}
        labels = {"family": ("image", family), "split": ("image", split)}
        tree = xr.DataTree.from_dict({
            "posterior_moments": xr.Dataset(moments),
            "constant_data": xr.Dataset(coords=labels),
        })  # fmt: skip
        _, low, high = at(decode_family(tree, ["z1_mean"]), "z1_mean")
        hits.append(low <= 0.5 <= high)
    assert np.mean(hits) > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 80)


def test_unbalanced_families_keep_chance_at_one_over_their_number(plant):
    """Three quarters of all images in one family: without balancing, guessing it would look like decoding."""
    truth = plant(separation=0.0, natural=2, train=80, test=80)
    with open_posterior(truth.path) as tree:
        family = tree["constant_data"]["family"].values.astype(str)
        kept = np.r_[np.flatnonzero(family == "bark"), np.flatnonzero(family == "gravel")[::8]]
        part = tree.load().map_over_datasets(lambda ds: ds.isel(image=kept) if "image" in ds.dims else ds)
        found = decode_family(part, ["z2_mean", "pixels"])
    for feature in ("z2_mean", "pixels"):
        value, low, high = at(found, feature)
        assert low < 0.5 < high
        assert abs(value - 0.5) < 0.2


def test_families_that_differ_in_noise_correlations_only(plant, edit):
    """Two families with correlations of opposite sign in a few pairs: z1 means at chance, noise correlations decode them."""
    truth = plant(separation=0.0, natural=2, train=100, test=100, families=("a", "b"))

    def opposed(tree):
        r = tree["posterior_moments"]["z1_correlation"]
        rng = np.random.default_rng(0)
        r[:] = 0.1 * rng.normal(size=r.shape)
        sign = np.where(tree["constant_data"]["family"].values.astype(str) == "a", 1.0, -1.0)
        r[:, :6, :6] += 0.05 * sign[:, None, None]

    with open_posterior(edit(truth.path, opposed)) as tree:
        found = decode_family(tree, ["z1_mean", "z1_correlation"])
    assert at(found, "z1_mean")[1] < 0.5 < at(found, "z1_mean")[2]
    value, low, _ = at(found, "z1_correlation")
    # 15 informative of 276 features, each at a distance of one s.d.: Phi(sqrt(15) / 2) = 0.974 is the best possible.
    assert low > 0.6
    assert value < 0.974 + 0.05


@pytest.mark.parametrize(("seed", "signal"), [(0, 0.3), (1, 0.3), (2, 3.0)])
def test_the_penalty_is_the_best_in_cross_validation_and_the_strongest_of_equals(seed, signal):
    """Against scikit-learn's own cross-validation; with a large signal all penalties are right, the strongest is taken."""
    rng = np.random.default_rng(seed)
    targets = np.arange(120) % 3
    inputs = rng.normal(size=(120, 40)) + signal * np.eye(3)[targets].repeat(14, axis=1)[:, :40]
    order = np.random.default_rng(7).permutation(120)
    right = []
    for penalty in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=500))
        guessed = cross_val_predict(classifier, inputs[order], targets[order], cv=StratifiedKFold(3))
        right.append((guessed == targets[order]).sum())
    expected = 10.0 ** (int(np.argmax(right)) - 4)
    assert best_penalty(inputs, targets, np.random.default_rng(7)) == pytest.approx(expected)
    assert (expected == 1e-4 and right[0] == 120) or signal < 1
    assert best_penalty(inputs[:6], targets[:6], np.random.default_rng(7)) == 1.0  # two images a family: no folds


def test_correlations_that_are_zero_by_construction_are_not_decoded(planted, edit):
    def silence(tree):
        tree["posterior_moments"]["z1_variance_from_z2"][:] = 0.0

    with open_posterior(edit(planted.path, silence)) as tree:
        with pytest.raises(HVAEError, match="z1_correlation cannot be decoded: zero noise correlation by construction"):
            decode_family(tree, ["z1_correlation"])
        found = decode_family(tree)
    assert "z1_correlation" not in found["feature"]
    assert "z1_correlation is not decoded: zero noise correlation by construction" in found.attrs["notes"]


def test_image_features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 64))
    np.testing.assert_allclose(np.exp(log_norm(x)[:, 0]), np.linalg.norm(x, axis=1))
    # A translation moves no power.
    shifted = np.roll(x.reshape(-1, 8, 8), (2, 3), (1, 2)).reshape(-1, 64)
    np.testing.assert_allclose(log_power_spectrum(x), log_power_spectrum(shifted), rtol=1e-9)


def test_the_same_seed_gives_the_same_numbers_and_another_one_does_not(planted):
    with open_posterior(planted.path) as tree:
        first, again, other = (decode_family(tree, ["z2_mean"], seed=seed) for seed in (0, 0, 1))
    xr.testing.assert_identical(first, again)
    assert not np.array_equal(first["accuracy_repeat"], other["accuracy_repeat"])


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"families": ("bark",)}, r"at least two texture families, the file has \['bark'\]"),
        ({"families": ()}, "at least two texture families, the file has none"),
        ({"test": 0}, "'bark' has 0"),
        ({"train": 1}, "at least 2 training images of every family"),
        ({"labels": False}, "labels family and split"),
    ],
)
def test_what_cannot_be_decoded_is_said(plant, truth, message):
    with open_posterior(plant(**truth).path) as tree, pytest.raises(HVAEError, match=message):
        decode_family(tree)


def test_unknown_features_and_repeats_are_refused(planted):
    with open_posterior(planted.path) as tree:
        with pytest.raises(HVAEError, match="unknown feature 'z2_means'; did you mean 'z2_mean'"):
            decode_family(tree, ["z2_means"])
        with pytest.raises(HVAEError, match="repeats is 1"):
            decode_family(tree, repeats=1)
