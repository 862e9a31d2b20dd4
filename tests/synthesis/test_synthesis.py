"""Texture synthesis, and patches of what was synthesised. Tiny images and few steps."""

import builtins
import json
import tracemalloc

import numpy as np
import pytest
from skimage.io import imsave

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import PatchData, natural_patches, synthesised_patches
from pyro_hvae.stimuli.examples import EMBEDDED_CROPS, dominant_period, texture_examples
from pyro_hvae.stimuli.synthesised import SynthesisedImage, image_path, synthesised_images, write_image
from pyro_hvae.synthesis import families as families_module
from pyro_hvae.synthesis import (
    portilla_simoncelli,
    portilla_simoncelli_loss,
    random_features,
    random_linear,
    synthesise,
    synthesised_textures,
)
from tests.stimuli.conftest import photograph

SIZE = 8
OPTIONS = {"method": "random_linear", "steps": 3, "side": 64, "size": SIZE, "progress": False}


@pytest.fixture(scope="module")
def transform():
    return natural_patches(SIZE, np.stack([photograph(i) for i in range(4)]), train=2_000, test=100).transform


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "textures"
    folder.mkdir()
    for n, family in enumerate(("oat", "soil")):
        imsave(folder / f"{family}.png", (photograph(20 + n) * 500).astype(np.uint16), check_contrast=False)
    return folder


@pytest.fixture
def few_maps(monkeypatch):
    """Random features with 4 maps a filter instead of 128."""

    def small(example, *, steps, seed):
        return random_features(example, steps=steps, seed=seed, rectify=False, maps=4, filters=(3, 5))

    monkeypatch.setitem(families_module.METHODS, "random_linear", (small, 3))


def gratings_and_spots(kind: str, side: int = 64) -> np.ndarray:
    """Examples between 0 and 1 whose statistics are far apart."""
    noise = np.random.default_rng(0).random((side, side))
    if kind == "stripes":
        return (0.4 + 0.3 * np.cos(2 * np.pi * np.arange(side) / 8) + 0.2 * noise).astype(np.float32)
    return (noise**4).astype(np.float32)


# Examples


@pytest.mark.parametrize(("period", "expected"), [(10.0, 1.0), (30.0, 1.5), (80.0, 2.0)])
def test_an_example_is_subsampled_until_its_period_fits_a_patch(tmp_path, period, expected):
    """A grating of 30 pixels on a 128-pixel photograph, patches of 20: by 1.5; one of 80 cannot fit above 64 pixels."""
    y, x = np.mgrid[:128, :128]
    grating = 100 * (1 + 0.5 * np.cos(2 * np.pi * (x + 0.3 * y) / np.hypot(1, 0.3) / period))
    imsave(tmp_path / "a.png", (grating * 100).astype(np.uint16), check_contrast=False)
    imsave(tmp_path / "b.png", (grating.T * 50).astype(np.uint16), check_contrast=False)
    one, _ = texture_examples(tmp_path, size=20, side=64)
    found = dominant_period(grating)
    if period < 128 / 3:
        assert found == pytest.approx(period, rel=0.1)
    assert one.factor == pytest.approx(min(max(found / 20, 1), 2)) == pytest.approx(expected, rel=0.15)
    assert one.fits(20) == (period < 40)
    assert one.image.shape == (64, 64) and one.image.max() == 1 and one.image.min() >= 0
    if one.factor > 1 and one.fits(20):
        assert dominant_period(one.image) == pytest.approx(20, rel=0.2)


def test_embedded_examples():
    examples = texture_examples(side=64)
    assert [e.family for e in examples] == ["brick", "grass", "gravel", *EMBEDDED_CROPS]
    assert all(e.image.shape == (64, 64) for e in examples)
    assert len({e.sha256 for e in examples}) == 5
    assert [e.family for e in texture_examples(side=64, families=["wood", "brick"])] == ["wood", "brick"]


def test_channel(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = np.stack([rng.integers(1, 200, (64, 64)), np.full((64, 64), 9), rng.integers(1, 9, (64, 64))], -1)
        imsave(tmp_path / f"{name}.png", pixels.astype(np.uint8), check_contrast=False)
    red = texture_examples(tmp_path, side=64, channel="red", gamma="linear")[1].image
    np.testing.assert_allclose(red, pixels[..., 0] / pixels[..., 0].max(), rtol=1e-6)
    with pytest.raises(HVAEError, match="every pixel is 9"):
        texture_examples(tmp_path, side=64, channel="green", gamma="linear")
    with pytest.raises(HVAEError, match="is grey, so it has no red channel"):
        texture_examples(side=64, channel="red")


def test_photographs_that_are_no_examples(tmp_path, source, monkeypatch):
    """Grey without structure, tiny, huge, holding NaN, not an image, alone."""
    with pytest.raises(HVAEError, match="side is 60; expected a multiple of 16 from 64"):
        texture_examples(source, side=60)
    with pytest.raises(HVAEError, match="oat.png: 96×128 pixels; a patch has 256×256"):
        texture_examples(source)
    with pytest.raises(HVAEError, match="unknown family 'oats'; did you mean 'oat'"):
        texture_examples(source, side=64, families=["oats"])
    with pytest.raises(HVAEError, match="one photograph; expected two or more"):
        texture_examples(source, side=64, families=["oat"])
    with monkeypatch.context() as small_limit:
        small_limit.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(HVAEError, match="oat.png: too large to be read .*crop it, or make it smaller"):
            texture_examples(source, side=64)
    (source / "note.png").write_text("not an image")
    with pytest.raises(HVAEError, match="note.png: not an image, or a damaged one"):
        texture_examples(source, side=64)
    (source / "note.png").unlink()
    imsave(source / "grey.png", np.full((100, 100), 77, np.uint8), check_contrast=False)
    with pytest.raises(HVAEError, match=r"grey.png: every pixel is .*leave it out"):
        texture_examples(source, side=64)
    (source / "grey.png").unlink()
    with_hole = np.stack([photograph(3), photograph(4)])
    with_hole[1, 5, 5] = np.nan
    np.save(tmp_path / "hole.npy", with_hole)
    with pytest.raises(HVAEError, match="holds NaN"):
        texture_examples(tmp_path / "hole.npy", side=64)


# Synthesis


def test_portilla_simoncelli_takes_over_statistics():
    """The loss of the synthesised image against its own example is well below that of noise and of the other example."""
    pytest.importorskip("plenoptic", reason="needs plenoptic: pip install 'pyro-hvae[textures]'")
    stripes, spots = gratings_and_spots("stripes"), gratings_and_spots("spots")
    made = portilla_simoncelli(stripes, steps=3, seed=1)
    assert made.image.shape == (64, 64) and made.image.dtype == np.float32
    own, other, noise, itself = portilla_simoncelli_loss(
        stripes, [made.image, spots, np.random.default_rng(1).random((64, 64)), stripes]
    )
    assert itself == 0
    assert own == pytest.approx(made.losses[-1], abs=0.2 * made.losses[-1] + 1e-3)  # that one holds the range penalty
    assert own < 0.5 * min(other, noise, made.losses[0])
    again, same, another = (portilla_simoncelli(stripes, steps=1, seed=s).image for s in (1, 1, 2))
    assert np.array_equal(again, same) and not np.array_equal(again, another)


def test_without_plenoptic(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith("plenoptic"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(HVAEError, match=r"pip install 'pyro-hvae\[textures\]'"):
        portilla_simoncelli(gratings_and_spots("stripes"))


def test_linear_random_features_keep_the_spectrum_and_rectified_ones_more():
    """Without ReLU the Gram matrix is a function of the autocovariance, so a linear bank that spans all offsets of a
    3×3 window fixes the second moments of neighbours, and leaves the third ones of a skewed image alone.
    """
    example = gratings_and_spots("spots", 48)
    made = {
        rectify: random_features(example, steps=150, seed=1, rectify=rectify, maps=32, filters=(3,)).image.astype(float)
        for rectify in (False, True)
    }

    def neighbours(image):
        rolled = [np.roll(image, shift, (0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]
        return np.array([(image * other).mean() for other in rolled])

    for image in made.values():
        np.testing.assert_allclose(neighbours(image), neighbours(example.astype(float)), rtol=0.1)
        assert image.min() >= 0 and image.max() <= 1

    def skewness(image):
        return ((image - image.mean()) ** 3).mean() / image.std() ** 3

    assert abs(skewness(made[True]) - skewness(example)) < 0.5 * abs(skewness(made[False]) - skewness(example))


def test_random_features_refuse():
    with pytest.raises(HVAEError, match="goes from 0 to 2"):
        random_features(np.linspace(0, 2, 64 * 64).reshape(64, 64))
    with pytest.raises(HVAEError, match=r"no filter of \(55,\) is at most a third"):
        random_features(gratings_and_spots("stripes"), filters=[55])
    one = random_linear(gratings_and_spots("stripes", 16), steps=1, seed=0)
    assert one.losses[-1] <= one.losses[0]


# Families


def test_interrupted_synthesis_goes_on_where_it_stopped(tmp_path, source, few_maps, monkeypatch):
    whole = synthesise(source, folder=tmp_path / "whole", images=2, **OPTIONS)
    original, default = families_module.METHODS["random_linear"]
    calls = []

    def interrupted(example, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(example, **options)

    monkeypatch.setitem(families_module.METHODS, "random_linear", (interrupted, default))
    with pytest.raises(KeyboardInterrupt):
        synthesise(source, folder=tmp_path / "part", images=2, **OPTIONS)
    with pytest.raises(HVAEError, match=r"2 of 4 images are not there yet \(oat-001, soil-001"):
        synthesised_images(tmp_path / "part")
    synthesise(source, folder=tmp_path / "part", images=2, **OPTIONS)
    assert len(calls) == 5  # two, the interrupted one, and the two that were missing
    images = synthesised_images(tmp_path / "part")
    assert [image.name for image in images] == ["oat-000", "oat-001", "soil-000", "soil-001"]
    for image in images:
        np.testing.assert_array_equal(image.luminance(), np.load(whole / image.path.name)["image"])
        assert len(image.losses()) >= 2
    assert not list((tmp_path / "part").glob(".*partial"))
    with pytest.raises(HVAEError, match="holds images made with other options"):
        synthesise(source, folder=tmp_path / "part", images=2, **OPTIONS, seed=1)
    synthesise(source, folder=tmp_path / "part", images=3, **OPTIONS)
    assert len(synthesised_images(tmp_path / "part")) == 6


def test_options_of_synthesis(tmp_path, source):
    with pytest.raises(HVAEError, match="unknown synthesis method 'portilla'; did you mean 'portilla_simoncelli'"):
        synthesise(source, folder=tmp_path / "x", method="portilla")
    with pytest.raises(HVAEError, match="images must be a whole number of at least 1, got 0"):
        synthesise(source, folder=tmp_path / "x", images=0)
    with pytest.raises(HVAEError, match="no folder of synthesised images; give another path"):
        synthesise(source, folder=source, **OPTIONS)


def write_folder(folder, images: int, side: int = 64, families=("oat", "soil")):
    """A folder as synthesis leaves it, of noise."""
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"families": list(families), "images": images, "options": {}}))
    for n, family in enumerate(families):
        for number in range(images):
            image = photograph(100 * n + number, (side, side))
            write_image(image_path(folder, family, number), image / image.max(), [1.0, 0.1])
    return folder


def test_patches_are_balanced_and_test_images_are_others(tmp_path, transform):
    folder = write_folder(tmp_path / "images", 3)
    path = synthesised_patches(
        folder, out=tmp_path / "p.nc", transform=transform, size=SIZE, train=403, test=100, intensity="natural"
    )
    data = PatchData.load(path)
    for dataset, total, sources in ((data.train, 402, 4), (data.test, 100, 2)):
        assert dataset.sizes["image"] == total
        assert len(set(np.unique(dataset["family"], return_counts=True)[1])) == 1
        names, counts = np.unique(dataset["source"], return_counts=True)
        assert len(names) == sources and np.ptp(counts) <= 1
        assert len(set(dataset["family"].values[:30])) == 2  # shuffled
    assert not set(data.train["source"].values) & set(data.test["source"].values)
    one = data.test.isel(image=5)
    image = SynthesisedImage(folder / f"{one['source'].item()}.npz", "", 0).luminance()
    matched = transform.match_intensity(image)
    row, column = one["row"].item(), one["column"].item()
    patch = (matched - matched.mean())[row : row + SIZE, column : column + SIZE]
    np.testing.assert_allclose(transform(patch).ravel(), one["x"], atol=1e-4)
    places = np.stack(
        [data.train[n] for n in ("row", "column")] + [np.unique(data.train["source"], return_inverse=True)[1]]
    )
    assert len(np.unique(places, axis=1).T) == 402
    np.testing.assert_array_equal(data.transform.components, transform.components)


def test_seed_and_control(tmp_path, transform):
    folder = write_folder(tmp_path / "images", 2)

    def made(name, **options):
        out = tmp_path / f"{name}.nc"
        synthesised_patches(folder, out=out, transform=transform, size=SIZE, train=200, test=100, **options)
        return PatchData.load(out).train

    one, same, other, scrambled = made("a"), made("b"), made("c", seed=1), made("d", control="spectrum")
    assert one.identical(same) and one["x"].values.tobytes() != other["x"].values.tobytes()
    np.testing.assert_array_equal(one["row"], scrambled["row"])
    assert abs(np.corrcoef(one["x"].values.ravel(), scrambled["x"].values.ravel())[0, 1]) < 0.1
    assert made("e", control="spectrum").identical(scrambled)


def test_memory_does_not_grow_with_patches(tmp_path, transform, monkeypatch):
    monkeypatch.setattr("pyro_hvae.stimuli.synthesised.CHUNK", 1024)
    folder = write_folder(tmp_path / "images", 2, side=160)
    peaks = []
    for n, train in enumerate((2_048, 2_048, 32_768)):  # the first also loads modules
        tracemalloc.start()
        synthesised_patches(folder, out=tmp_path / f"{n}.nc", transform=transform, size=SIZE, train=train, test=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    bytes_of_patches = 32_768 * SIZE**2 * 4
    assert peaks[2] - peaks[1] < 0.35 * bytes_of_patches  # positions of patches: 12 of 256 bytes, and their permutation


def test_folders_that_do_not_serve(tmp_path, transform):
    with pytest.raises(HVAEError, match="not a folder of synthesised images"):
        synthesised_patches(tmp_path, out=tmp_path / "p.nc", transform=transform, size=SIZE)
    folder = write_folder(tmp_path / "images", 2)
    options = {"out": tmp_path / "p.nc", "transform": transform, "size": SIZE}
    with pytest.raises(HVAEError, match="synthesise more images, or ask for fewer"):
        synthesised_patches(folder, **options)
    with pytest.raises(HVAEError, match="train=1 is less than one patch for each of 2"):
        synthesised_patches(folder, **options, train=1, test=2)
    with pytest.raises(HVAEError, match="size is 9, and the transform is for 8"):
        synthesised_patches(folder, **options | {"size": 9})
    image_path(folder, "oat", 0).write_bytes(b"truncated")
    with pytest.raises(HVAEError, match=r"oat-000.npz: not a synthesised image, or a damaged one"):
        synthesised_patches(folder, **options, train=100, test=100)
    assert not (tmp_path / "p.nc").exists()


def test_one_call_for_all(tmp_path, source, transform, few_maps, capsys):
    out = tmp_path / "set.nc"
    options = {key: value for key, value in OPTIONS.items() if key != "progress"}
    synthesised_textures(source, out=out, transform=transform, images=2, train=100, test=60, **options)
    data = PatchData.load(out)
    assert data.provenance["synthesis"]["options"]["method"] == "random_linear"
    assert data.provenance["synthesis"]["examples"][0]["family"] == "oat" and data.train.sizes["image"] == 100
    assert "4/4 soil-001: loss" in capsys.readouterr().err
    with pytest.raises(HVAEError, match="exists"):
        synthesised_textures(source, out=out, transform=transform, images=2, train=100, test=60, **options)
    # The images are there already; only the patches differ.
    options |= {"intensity": "natural", "overwrite": True}
    synthesised_textures(source, out=out, transform=transform, images=2, train=100, test=60, **options)
    assert "loss" not in capsys.readouterr().err
    assert PatchData.load(out).test.attrs["texture_intensity"] == "natural"
    with pytest.raises(HVAEError, match="unknown intensity 'naturell'; did you mean 'natural'"):  # before any synthesis
        synthesised_textures(source, out=tmp_path / "new.nc", transform=transform, intensity="naturell")
    assert not (tmp_path / "new.nc.images").exists()


def test_options_of_synthesis_and_of_cutting_are_those_of_the_command_that_does_both():
    """Written out in its signature, which the command line reads, and passed on by name."""
    from inspect import Parameter, signature

    from pyro_hvae.stimuli.synthesised import synthesised_patches
    from pyro_hvae.synthesis.families import synthesise, synthesised_textures

    both = signature(synthesised_textures).parameters
    parts = [*signature(synthesise).parameters.values(), *signature(synthesised_patches).parameters.values()]
    named = {p.name: (p.default, p.annotation) for p in parts if p.name not in ("folder", "progress")}
    assert named["images"][0] is Parameter.empty  # the folder of them, which the command makes of `out`
    named["images"] = (6, "int")
    assert named.pop("out")[1] == both["out"].annotation
    assert {name: (p.default, p.annotation) for name, p in both.items() if name != "out"} == named
