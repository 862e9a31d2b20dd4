"""Masks, selections, controls, pixel decoding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import (
    PatchData,
    contrast_matched,
    contrast_of,
    disjoint_subsets,
    highest_contrast,
    mask_of,
    masked,
    natural_patches,
    patch_dataset,
    pixel_decoding,
    texture_patches,
)
from pyro_hvae.stimuli.controls import CONTROLS, histogram_matched, phase_scrambled
from tests.stimuli.conftest import photograph

SIZE = 8


@pytest.fixture(scope="module")
def data():
    return natural_patches(SIZE, np.stack([photograph(i) for i in range(4)]), train=2_000, test=600)


def test_masks():
    assert not mask_of(5, radius=0).all() and mask_of(5, radius=0).sum() == 24
    disk, surround = mask_of(20, "disk", radius=6), mask_of(20, "surround", radius=6)
    assert (disk ^ surround).all()
    assert (~disk).sum() == pytest.approx(np.pi * 36, rel=0.05)
    for half, sides in (("left", np.s_[:, :10]), ("right", np.s_[:, 10:]), ("top", np.s_[:10]), ("bottom", np.s_[10:])):
        expected = np.ones((20, 20), bool)
        expected[sides] = False
        np.testing.assert_array_equal(mask_of(20, half), expected)


def test_a_hidden_pixel_does_not_reach_x(data):
    """`x` is a function of the shown pixels of the matched patch alone, the hidden ones standing at the mean."""
    t = data.transform
    made = masked(data, radius=2).test
    hidden = ~mask_of(SIZE, radius=2).ravel()
    matched = t.inverse(data.test["x"].values)
    np.testing.assert_array_equal(~made["mask"].values, np.broadcast_to(hidden, matched.shape))
    matched[:, hidden] = np.nan
    np.testing.assert_allclose(made["x"], t(np.nan_to_num(matched)), atol=1e-4)


def test_masked_sets_keep_mask_and_original(data, tmp_path):
    made = masked(data, shape="left", space="whitened")
    np.testing.assert_array_equal(made.test["original"], data.test["x"])
    shown = made.test["mask"].values
    assert (made.test["x"].values[~shown] == 0).all()
    np.testing.assert_array_equal(made.test["x"].values[shown], data.test["x"].values[shown])
    made.save(tmp_path / "m.nc")
    assert PatchData.load(tmp_path / "m.nc").test.identical(made.test)
    with pytest.raises(HVAEError, match="masked already"):
        masked(made, radius=2)
    with pytest.raises(HVAEError, match="without their transform"):
        masked(replace(data, transform=None), radius=2)
    with pytest.raises(HVAEError, match="unknown mask 'disc'"):
        masked(data, shape="disc")
    with pytest.raises(HVAEError, match="hides 64 of 8×8"):
        masked(data, radius=50)


def test_highest_contrast(data):
    chosen = highest_contrast(data, count=50).test
    contrast = contrast_of(data.test)
    np.testing.assert_array_equal(chosen["contrast"], np.sort(contrast)[::-1][:50])
    np.testing.assert_array_equal(contrast_of(chosen), chosen["contrast"])
    with pytest.raises(HVAEError, match="count is 601; the test set holds 600"):
        highest_contrast(data, count=601)
    with pytest.raises(HVAEError, match="divides each by its contrast"):
        highest_contrast(replace(data, transform=replace(data.transform, contrast="unit_norm")), count=5)


def test_disjoint_subsets(data, tmp_path):
    made, same, other = (disjoint_subsets(data, subsets=5, each=100, seed=s) for s in (3, 3, 4))
    assert made.test.identical(same.test) and made.test["x"].values.tobytes() != other.test["x"].values.tobytes()
    assert len(np.unique(made.test["x"].values, axis=0)) == 500
    assert np.bincount(made.test["subset"]).tolist() == [100] * 5
    data.save(tmp_path / "d.nc")  # what is selected from a file can be saved
    disjoint_subsets(PatchData.load(tmp_path / "d.nc"), each=10).save(tmp_path / "s.nc")
    with pytest.raises(HVAEError, match="subsets × each is 1000; the test set holds 600"):
        disjoint_subsets(data)


def labelled(sd: dict[str, float], n: int = 400, mean: float = 0.0, images: int = 1) -> PatchData:
    """Families of white noise of different contrast, the first with a mean."""
    rng = np.random.default_rng(0)

    def one(split: str):
        x = (
            np.concatenate([s * rng.lognormal(0, 0.5, (n, 1)) * rng.standard_normal((n, 16)) for s in sd.values()])
            + mean * np.repeat(np.arange(len(sd)) == 0, n)[:, None]
        )
        family = np.repeat(list(sd), n)
        image = np.tile(np.arange(n) % images, len(sd)).astype(str)
        return patch_dataset(x, split=split, family=family, source=np.char.add(family, image))

    return PatchData(one("train"), one("test"), None, 4)


def test_contrast_matched():
    made = contrast_matched(labelled({"oat": 1.0, "soil": 1.6}), bins=8)
    families, counts = np.unique(made.test["family"], return_counts=True)
    assert len(families) == 2 and counts[0] == counts[1] > 50
    means = [made.test["contrast"].values[made.test["family"] == f].mean() for f in families]
    assert abs(means[0] - means[1]) < 0.1  # 0.6 of about 1.5 apart before
    with pytest.raises(HVAEError, match="no contrast bin of the train set holds patches of all 2"):
        contrast_matched(labelled({"oat": 1e-6, "soil": 1.0}), bins=2)
    with pytest.raises(HVAEError, match="has 1 families"):
        contrast_matched(labelled({"oat": 1.0}))


def test_pixel_decoding_at_chance_and_above():
    nothing = pixel_decoding(labelled({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, images=4))
    assert nothing.chance == 0.25 and nothing.low <= 0.25 <= nothing.high and nothing.images == 16
    assert 0.03 < nothing.high - nothing.low < 0.12  # binomial: 4 s.e. of 1600 patches are 0.043
    easy = pixel_decoding(labelled({"a": 1.0, "b": 1.0}, mean=1.0))
    assert easy.low > 0.8
    assert "chance 0.500" in str(easy)


def test_the_interval_of_pixel_decoding_is_over_images():
    """Half of the test images are of the other family's kind: all patches of an image are right together, or wrong."""
    data = labelled({"a": 1.0, "b": 1.0}, mean=2.0, images=4)
    odd = np.isin(data.test["source"].values, ["a0", "a1", "b0", "b1"])
    x = data.test["x"].values.copy()
    x[odd] = 2 - x[odd]
    mixed = pixel_decoding(replace(data, test=data.test.assign(x=(("image", "pixel"), x))))
    assert mixed.accuracy == pytest.approx(0.5, abs=0.05)
    # Of 8 images, each right or wrong: a standard error of 0.18, where that of 800 patches is 0.018.
    assert mixed.high - mixed.low > 0.4


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 20), columns=st.integers(2, 20), seed=st.integers(0, 1000))
def test_phase_scramble_keeps_the_spectrum(rows, columns, seed):
    image = np.random.default_rng(seed).standard_normal((rows, columns)) ** 3 + 1
    made = phase_scrambled(image, np.random.default_rng(seed + 1))
    np.testing.assert_allclose(np.abs(np.fft.fft2(made)), np.abs(np.fft.fft2(image)), atol=1e-9 * np.abs(image).sum())
    assert made.mean() == pytest.approx(image.mean(), abs=1e-9)


def test_controls_keep_what_they_say_and_nothing_else():
    sparse = np.random.default_rng(0).laplace(size=(64, 64))  # kurtosis 3 in expectation
    spectrum = np.abs(np.fft.fft2(sparse))

    def altered(name):
        return CONTROLS[name](sparse, np.random.default_rng(1))

    def mismatch(image):
        return np.linalg.norm(np.abs(np.fft.fft2(image)) - spectrum) / np.linalg.norm(spectrum)

    scrambled, shuffled, both = map(altered, ("spectrum", "histogram", "spectrum_and_histogram"))
    # Kurtosis of 4096 nearly independent Gaussian values: standard error sqrt(24/4096) = 0.077.
    assert kurtosis(sparse, None) > 2 and abs(kurtosis(scrambled, None)) < 5 * 0.077
    assert mismatch(scrambled) < 1e-9 and mismatch(shuffled) > 0.5 and mismatch(both) < 0.1
    for image in (shuffled, both):
        np.testing.assert_array_equal(np.sort(image, None), np.sort(sparse, None))
        assert abs(np.corrcoef(image.ravel(), sparse.ravel())[0, 1]) < 0.1
    assert scrambled.mean() == pytest.approx(sparse.mean())
    np.testing.assert_array_equal(histogram_matched(sparse, sparse), sparse)


def test_texture_controls_have_the_same_places_and_spectrum(data):
    sets = {
        name: texture_patches(SIZE, transform=data.transform, train=900, test=600, seed=1, control=name)
        for name in ("none", "spectrum", "spectrum_and_histogram")
    }
    for name in ("spectrum", "spectrum_and_histogram"):
        for label in ("family", "row", "column"):
            np.testing.assert_array_equal(sets[name].train[label], sets["none"].train[label])
        assert sets[name].provenance["options"]["control"] == name
    for family in ("brick", "grass", "gravel"):
        power, tail = {}, {}
        for name, made in sets.items():
            x = made.train["x"].values[made.train["family"] == family]
            power[name], tail[name] = np.var(x), kurtosis(x / x.std(1, keepdims=True), None)
        assert power["spectrum"] == pytest.approx(power["none"], rel=0.25)
    again = texture_patches(SIZE, transform=data.transform, train=900, test=600, seed=1, control="spectrum")
    assert again.train.identical(sets["spectrum"].train)
    with pytest.raises(HVAEError, match="unknown control 'phase'"):
        texture_patches(SIZE, transform=data.transform, control="phase")
