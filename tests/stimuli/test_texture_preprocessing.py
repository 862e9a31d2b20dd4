"""Whose histogram and whose covariance textures are preprocessed by: planted photographs of known monotone transforms."""

import json

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import (
    IntensityMap,
    PatchData,
    concatenate,
    natural_patches,
    synthesised_patches,
    texture_patches,
)
from pyro_hvae.stimuli.synthesised import image_path, write_image
from pyro_hvae.stimuli.texture_preprocessing import INTENSITIES, WHITENINGS
from tests.stimuli.conftest import photograph
from tests.stimuli.test_command import command

SIZE, SHAPE = 8, (192, 288)
TRANSFORMED = {
    "affine": lambda luminance: 3 + 0.5 * luminance,
    "as_it_is": lambda luminance: luminance,
    "exp": np.exp,
    "exposed": lambda luminance: 40 * luminance,
    "power": lambda luminance: luminance**1.4,
}


@pytest.fixture(scope="module")
def natural():
    return natural_patches(SIZE, np.stack([photograph(i) for i in range(4)]), train=4_000, test=1_000)


def save(folder, **images):
    folder.mkdir(exist_ok=True)
    for name, luminance in images.items():
        Image.fromarray(luminance.astype(np.float32)).save(folder / f"{name}.tif")
    return folder


@pytest.fixture(scope="module")
def transformed(tmp_path_factory):
    """One photograph under five increasing maps of luminance."""
    base = photograph(50, SHAPE)
    return save(tmp_path_factory.mktemp("t"), **{name: change(base) for name, change in TRANSFORMED.items()})


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory):
    """Photographs of one statistic at three contrasts: standard deviations of log luminance of 0.15, 0.45 and 0.9."""
    powers = {"faint": 0.25, "middling": 0.75, "strong": 1.5}
    images = {name: photograph(60 + n, SHAPE) ** power for n, (name, power) in enumerate(powers.items())}
    return save(tmp_path_factory.mktemp("c"), **images)


def off_the_base(data: PatchData, natural: PatchData) -> dict[str, float]:
    """Root mean square distance of each family's test patches from those of the untransformed photograph, relative."""
    base, border = photograph(50, SHAPE), 192
    fitted = IntensityMap.fit([base[:, :border]])
    matched = fitted(base[:, border:])
    matched -= matched.mean()
    found = {}
    for family in TRANSFORMED:
        one = data.test.isel(image=data.test["family"].values == family)
        places = zip(one["row"].values, one["column"].values - border, strict=True)
        expected = natural.transform(np.stack([matched[r : r + SIZE, c : c + SIZE] for r, c in places]))
        difference = one["x"].values - expected.reshape(len(expected), -1)
        found[family] = float(np.sqrt((difference**2).mean() / (expected**2).mean()))
    return found


def median_norms(dataset: xr.Dataset) -> dict[str, float]:
    norm, family = np.linalg.norm(dataset["x"].values, axis=1), dataset["family"].values
    return {str(name): float(np.median(norm[family == name])) for name in np.unique(family)}


def test_own_histograms_undo_increasing_maps_of_luminance_and_the_natural_map_does_not(transformed, natural):
    options = {"transform": natural.transform, "train": 500, "test": 1_500}
    own = off_the_base(texture_patches(SIZE, transformed, **options), natural)
    assert max(own.values()) < 0.05  # of the map: knots 0.05 s.d. apart, straight lines beyond 3.5 s.d.
    others = off_the_base(texture_patches(SIZE, transformed, **options, intensity="natural"), natural)
    assert min(others[name] for name in ("affine", "exp", "power")) > 0.2
    # Exposure alone is undone in any case, and the natural photographs are of the same statistics.
    assert max(others["exposed"], others["as_it_is"]) < 0.05


def test_patch_norms_of_families_of_different_contrast(contrasts, natural):
    ratios = {}
    for intensity in INTENSITIES:
        data = texture_patches(
            SIZE, contrasts, transform=natural.transform, train=3_000, test=3_000, intensity=intensity
        )
        norms = median_norms(data.test).values()
        ratios[intensity] = max(norms) / min(norms)
    assert ratios["own"] < 1.1
    assert ratios["own_pooled"] > 3 and ratios["natural"] > 3  # 6 in log luminance, before the maps bend it


def test_pooled_map_is_that_of_all_training_regions(contrasts, natural):
    options = {"transform": natural.transform, "train": 3_000, "test": 300, "intensity": "own_pooled"}
    data = texture_patches(SIZE, contrasts, **options, centre=False)
    powers = enumerate((0.25, 0.75, 1.5))
    regions = [(photograph(60 + n, SHAPE) ** power)[:, :192] for n, power in powers]
    fitted = IntensityMap.fit(regions)
    np.testing.assert_allclose(data.transform.intensity.knot_log, fitted.knot_log, atol=1e-6)
    matched = np.concatenate([data.transform.match_intensity(region) for region in regions])
    assert abs(matched.mean()) < 0.01 and abs(matched.std() - 1) < 0.02
    np.testing.assert_array_equal(data.transform.components, natural.transform.components)


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_own_whitening_gives_unit_covariance_on_the_training_patches(contrasts, natural, intensity):
    options = {"transform": natural.transform, "train": 3_000, "test": 300, "intensity": intensity}
    data = texture_patches(SIZE, contrasts, **options, whitening="own")
    kept = data.transform.components
    covariance = np.cov(data.train["x"].values.T.astype(float), bias=True)
    np.testing.assert_allclose(kept @ covariance @ kept.T, np.eye(len(kept)), atol=1e-3)
    assert np.trace(covariance) == pytest.approx(len(kept), rel=1e-3)
    theirs = texture_patches(SIZE, contrasts, **options).train["x"].values
    assert abs(np.cov(theirs.T.astype(float), bias=True) - covariance).max() > 0.1
    assert data.transform.contrast == natural.transform.contrast


def test_held_out_regions_fit_nothing(tmp_path, natural):
    """Another test region leaves the training patches, and the whitening fitted to them, as they were."""
    images = {name: photograph(70 + n, SHAPE) for n, name in enumerate("ab")}
    options = {"transform": natural.transform, "train": 600, "test": 100, "whitening": "own"}
    one = texture_patches(SIZE, save(tmp_path / "one", **images), **options)
    for image in images.values():
        image[:, 192:] = 5 * image[:, 192:] ** 2
    other = texture_patches(SIZE, save(tmp_path / "other", **images), **options)
    assert one.train.identical(other.train) and not one.test.identical(other.test)
    np.testing.assert_array_equal(one.transform.mean, other.transform.mean)


def test_whitening_fitted_chunk_by_chunk_is_the_same(natural):
    x = natural.transform.inverse(natural.train["x"].values) + np.float32(0.1) * photograph(3, (4_000, 64))
    whole = type(natural.transform).fit(x, natural.transform.intensity)
    parts = type(natural.transform).fit_chunks(np.array_split(x, 7), natural.transform.intensity)
    np.testing.assert_allclose(parts.eigenvalues, whole.eigenvalues, rtol=1e-6)
    np.testing.assert_allclose(parts(x), whole(x), atol=1e-3)
    with pytest.raises(HVAEError, match="20 training patches cannot determine 50 components"):
        type(natural.transform).fit_chunks([x[:10], x[10:20]], natural.transform.intensity)


@pytest.mark.parametrize("intensity", INTENSITIES)
@pytest.mark.parametrize("whitening", WHITENINGS)
def test_the_choice_is_recorded_and_stays(tmp_path, contrasts, natural, intensity, whitening):
    options = {"train": 300, "test": 60, "intensity": intensity, "whitening": whitening}
    data = texture_patches(SIZE, contrasts, transform=natural.transform, **options)
    expected = {"texture_intensity": intensity, "texture_whitening": whitening}
    loaded = PatchData.load(data.save(tmp_path / "textures.nc"))
    joined = concatenate(natural.test, loaded.train.isel(image=slice(9)), loaded.test)
    for dataset in (loaded.train, loaded.test, joined):
        assert {name: dataset.attrs[name] for name in expected} == expected
    kept = loaded.provenance["options"]
    assert (kept["intensity"], kept["whitening"]) == (intensity, whitening)
    np.testing.assert_array_equal(loaded.transform(np.ones((1, 64))), data.transform(np.ones((1, 64))))
    if (intensity, whitening) == ("own", "natural"):
        default = texture_patches(SIZE, contrasts, transform=natural.transform, train=300, test=60)
        assert default.train.identical(data.train) and default.transform is natural.transform
        mixed = concatenate(data.test, texture_patches(SIZE, contrasts, transform=natural.transform, train=300, test=60,
                                                       intensity="natural").test)  # fmt: skip
        assert mixed.attrs == {"texture_intensity": "own and natural", "texture_whitening": "natural"}


def test_files_from_before_are_read_and_joined(tmp_path, contrasts, natural):
    data = texture_patches(SIZE, contrasts, transform=natural.transform, train=300, test=60, intensity="natural")
    provenance = json.loads(json.dumps(data.provenance))
    del provenance["options"]["intensity"], provenance["options"]["whitening"]
    before = PatchData(data.train.drop_attrs(), data.test.drop_attrs(), data.transform, SIZE, provenance)
    loaded = PatchData.load(before.save(tmp_path / "before.nc"))
    np.testing.assert_array_equal(loaded.test["x"], data.test["x"])
    assert concatenate(natural.test, loaded.test).attrs == {}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"intensity": "pooled"}, "unknown intensity 'pooled'; did you mean 'own_pooled'?"),
        ({"intensity": "naturel"}, "unknown intensity 'naturel'; did you mean 'natural'?"),
        ({"whitening": "owns"}, "unknown whitening 'owns'; did you mean 'own'?"),
        ({"whitening": "own_pooled"}, "unknown whitening 'own_pooled'.*Known: natural, own"),
    ],
)
def test_unknown_choices(tmp_path, contrasts, natural, choice, message):
    with pytest.raises(HVAEError, match=message):
        texture_patches(SIZE, contrasts, transform=natural.transform, **choice)
    with pytest.raises(HVAEError, match=message):  # before the folder is looked at
        synthesised_patches(tmp_path, out=tmp_path / "p.nc", transform=natural.transform, size=SIZE, **choice)


def test_a_family_with_few_levels_of_grey_is_named(tmp_path, natural):
    steps = np.ceil(photograph(5, SHAPE) * 2).clip(1, 4)
    folder = save(tmp_path / "f", fine=photograph(6, SHAPE), steps=steps)
    options = {"transform": natural.transform, "train": 300, "test": 60}
    with pytest.raises(HVAEError, match="intensity map of family 'steps': only 4 distinct.*use intensity='natural'"):
        texture_patches(SIZE, folder, **options)
    texture_patches(SIZE, folder, **options, intensity="natural")
    texture_patches(SIZE, folder, **options, intensity="own_pooled")


def test_command_line(tmp_path, contrasts, natural):
    saved, out = natural.save(tmp_path / "natural.nc"), tmp_path / "t.nc"
    given = ("--source", contrasts, "--transform", saved, "--train", 300, "--test", 90)
    command("textures", *given, "--intensity", "own_pooled", "--whitening", "own", "--out", out)
    expected = texture_patches(
        SIZE, contrasts, transform=natural.transform, train=300, test=90, intensity="own_pooled", whitening="own"
    )
    loaded = PatchData.load(out)
    assert loaded.train.identical(expected.train) and loaded.test.identical(expected.test)
    with pytest.raises(HVAEError, match="unknown intensity 'owned'; did you mean 'own'"):
        command("textures", *given, "--intensity", "owned", "--out", tmp_path / "u.nc")


# Synthesised images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three images each of a family of low and one of high contrast."""
    folder = tmp_path_factory.mktemp("synthesised")
    (folder / "manifest.json").write_text(json.dumps({"families": ["oat", "soil"], "images": 3, "options": {}}))
    for power, family in ((0.3, "oat"), (1.4, "soil")):
        for number in range(3):
            luminance = photograph(80 + number, (128, 128)) ** power
            write_image(image_path(folder, family, number), luminance / luminance.max(), [1.0, 0.1])
    return folder


@pytest.mark.parametrize("whitening", WHITENINGS)
def test_synthesised_images(tmp_path, images, natural, whitening, monkeypatch):
    monkeypatch.setattr("pyro_hvae.stimuli.synthesised.CHUNK", 500)
    ratios, options = {}, {"transform": natural.transform, "size": SIZE, "train": 3_000, "test": 1_000}
    for intensity in INTENSITIES:
        out = tmp_path / f"{intensity}.nc"
        data = PatchData.load(synthesised_patches(images, out=out, **options, intensity=intensity, whitening=whitening))
        assert data.test.attrs == {"texture_intensity": intensity, "texture_whitening": whitening}
        assert data.provenance["options"]["intensity"] == intensity
        norms = median_norms(data.test)
        ratios[intensity] = norms["soil"] / norms["oat"]
        kept = data.transform.components
        if whitening == "own":
            covariance = np.cov(data.train["x"].values.T.astype(float), bias=True)
            np.testing.assert_allclose(kept @ covariance @ kept.T, np.eye(len(kept)), atol=1e-3)
        else:
            np.testing.assert_array_equal(kept, natural.transform.components)
    assert abs(ratios["own"] - 1) < 0.05
    assert min(ratios["own_pooled"], ratios["natural"]) > 2


def test_the_map_of_a_family_is_fitted_on_its_training_images(tmp_path, images, natural):
    data = PatchData.load(
        synthesised_patches(images, out=tmp_path / "p.nc", transform=natural.transform, size=SIZE, train=200, test=60)
    )
    one = data.test.isel(image=7)
    family, training = one["family"].item(), [0, 1]
    reads = [np.load(image_path(images, family, number))["image"] for number in (*training, 2)]
    matched = IntensityMap.fit(reads[:2])(reads[2])
    row, column = one["row"].item(), one["column"].item()
    patch = (matched - matched.mean())[row : row + SIZE, column : column + SIZE]
    np.testing.assert_allclose(natural.transform(patch).ravel(), one["x"], atol=1e-4)
