import os
import pickle
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.io import imsave

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import natural_patches, published_patches
from pyro_hvae.stimuli.cutting import Region, halves, proportional
from pyro_hvae.stimuli.natural import _last
from pyro_hvae.stimuli.readers import read_luminance
from pyro_hvae.stimuli.sources import Photograph
from tests.stimuli.conftest import photograph

SIZE, DIMS = 8, 50


@pytest.fixture(scope="module")
def embedded():
    return natural_patches(20, train=4_000, test=800)


def small(source, **options):
    return natural_patches(SIZE, source, **{"train": 2_000, "test": 300, **options})


def test_embedded(embedded):
    assert embedded.train["x"].shape == (4_000, 400) and embedded.test["x"].shape == (800, 400)
    assert embedded.train["x"].dtype == np.float32 and embedded.transform.dims == 314
    for name, dataset in (("train", embedded.train), ("test", embedded.test)):
        assert set(dataset.coords) == {"source", "row", "column", "family", "split"}
        assert (dataset["split"] == name).all() and (dataset["family"] == "").all()
    assert set(embedded.test["source"].values) == {"coffee", "rocket"}
    assert not set(embedded.train["source"].values) & {"coffee", "rocket"}
    assert embedded.train["x"].values.var() == pytest.approx(314 / 400, rel=1e-4)
    assert [s["split"] for s in embedded.provenance["sources"]].count("test") == 2
    assert all(len(s["sha256"]) == 64 for s in embedded.provenance["sources"])
    assert embedded.provenance["options"]["downsample"] == 2
    split = natural_patches(20, train=1_000, test=50, test_fraction=1 / 6)
    assert set(split.test["source"].values) == {"rocket"}


def test_a_patch_is_the_whitened_cut_of_its_photograph(folder):
    """The labels say where a patch comes from; cutting there by hand and transforming gives the same patch."""
    data = small(folder)
    for dataset in (data.train, data.test):
        for i in (0, 17, 211):
            one = dataset.isel(image=i)
            image = read_luminance(folder / f"{one['source'].item()}.png")
            row, column = one["row"].item(), one["column"].item()
            patch = data.transform.match_intensity(image)[row : row + SIZE, column : column + SIZE]
            np.testing.assert_allclose(data.transform(patch).ravel(), one["x"].values, atol=1e-4)


def test_test_set_is_the_last_block_by_number(folder):
    data = small(folder, test_fraction=0.4)
    assert set(data.train["source"].values) == {"scene1", "scene2", "scene3", "scene4"}
    assert set(data.test["source"].values) == {"scene9", "scene10"}


def test_transform_knows_the_training_set_only(folder):
    before = small(folder)
    imsave(folder / "scene10.png", (photograph(77) * 9_000).astype(np.uint16), check_contrast=False)
    after = small(folder)
    assert after.train["x"].values.tobytes() == before.train["x"].values.tobytes()
    assert after.transform.to_dataset().identical(before.transform.to_dataset())
    assert after.test["x"].values.tobytes() != before.test["x"].values.tobytes()
    # ... and does change with a training photograph.
    imsave(folder / "scene1.png", (photograph(78) * 500).astype(np.uint16), check_contrast=False)
    assert not small(folder).transform.to_dataset().identical(before.transform.to_dataset())


def test_training_patches_do_not_depend_on_the_number_of_test_patches(folder):
    assert small(folder, test=10).train.identical(small(folder, test=500).train)


def test_seed(folder):
    one, same, other = small(folder, seed=3), small(folder, seed=3), small(folder, seed=4)
    assert one.train.identical(same.train) and one.test.identical(same.test)
    assert one.train["x"].values.tobytes() != other.train["x"].values.tobytes()
    assert one.test["row"].values.tobytes() != other.test["row"].values.tobytes()


def test_positions_are_uniform_distinct_and_shuffled(folder):
    data = small(folder, train=20_000)
    where = {tuple(p) for p in zip(*(data.train[c].values for c in ("source", "row", "column")), strict=True)}
    assert len(where) == 20_000
    # Position is uniform on 0…120 for 121 columns: standard error of the mean sqrt((121² − 1)/12/n).
    assert abs(data.train["column"].values.mean() - 60) < 5 * np.sqrt((121**2 - 1) / 12 / 20_000)
    assert data.train["column"].values.max() == 120 and data.train["row"].values.max() == 88
    _, counts = np.unique(data.train["source"].values, return_counts=True)
    assert set(counts) == {4_000}
    assert len(set(data.train["source"].values[:40])) == 5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(8, 60), st.integers(8, 60)), min_size=1, max_size=6), st.data())
def test_shares_are_proportional_and_exact(shapes, data):
    regions = [Region(Photograph("p", np.ones((1, 1))), 0, h, 0, w) for h, w in shapes]
    positions = np.array([(h - 7) * (w - 7) for h, w in shapes])
    total = data.draw(st.integers(1, int(positions.sum())))
    counts = np.array(proportional(regions, total, SIZE, "training"))
    assert counts.sum() == total and (counts <= positions).all()
    assert (np.abs(counts - total * positions / positions.sum()) < 1).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 200), st.integers(20, 200), st.floats(0.05, 0.95))
def test_halves_share_no_pixel(height, width, test_fraction):
    image = Photograph("p", np.ones((1, 1)))
    covered = np.zeros((height, width), int)
    try:
        pair = halves(image, (height, width), SIZE, test_fraction)
    except HVAEError:
        assert min(test_fraction, 1 - test_fraction) * max(height, width) < SIZE + 0.5
        return
    for region in pair:
        covered[region.top : region.bottom, region.left : region.right] += 1
        assert region.positions(SIZE) > 0
    assert (covered == 1).all()


@pytest.mark.parametrize(
    ("n", "fraction", "held"), [(2, 0.01, 1), (2, 0.99, 1), (60, 1 / 6, 10), (5, 0.5, 2), (1, 0.5, 0)]
)
def test_number_of_photographs_held_out(n, fraction, held):
    photographs = [Photograph(f"p{i:02}", np.ones((1, 1))) for i in range(n)]
    assert _last(photographs, fraction) == {f"p{i:02}" for i in range(n - held, n)}


@pytest.mark.parametrize("shape", [(96, 128), (128, 96)])
def test_one_photograph_is_split_by_region(shape):
    data = small(photograph(0, shape), train=1_000, test=200, test_fraction=0.25)
    axis = "column" if shape[1] > shape[0] else "row"
    assert data.train[axis].values.max() + SIZE <= 96 <= data.test[axis].values.min()
    assert data.provenance["sources"][0]["split"] == "both, by region"


def test_region_transform_ignores_the_test_region():
    image = photograph(0)
    changed = image.copy()
    changed[:, 107:] *= 50
    one, other = small(image), small(changed)
    assert one.train.identical(other.train) and not one.test["x"].equals(other.test["x"])


def test_the_same_photograph_twice_is_refused(folder):
    (folder / "scene11.png").write_bytes((folder / "scene2.png").read_bytes())
    with pytest.raises(HVAEError, match="same photograph more than once: scene2 = scene11"):
        small(folder)


def test_cut_patches():
    rng = np.random.default_rng(0)
    image = photograph(0, (200, 200))
    windows = np.lib.stride_tricks.sliding_window_view(image, (SIZE, SIZE))[::4, ::4].reshape(-1, SIZE, SIZE)
    patches = rng.permutation(windows)
    stack = natural_patches(SIZE, patches, test_fraction=0.25)
    assert stack.train.sizes["image"] == len(patches) * 3 // 4 + 1 and stack.transform.dims == DIMS
    # The order is random, the median that of all: a patch keeps its mean luminance.
    matched = stack.transform.inverse(stack.train["x"].values)
    assert matched.mean(axis=1).std() > 0.5
    flat = natural_patches(SIZE, patches.reshape(-1, SIZE**2), test_fraction=0.25)
    assert flat.train.identical(stack.train)
    few = natural_patches(SIZE, patches, train=300, test=20)
    assert (few.train.sizes["image"], few.test.sizes["image"]) == (300, 20)
    with pytest.raises(HVAEError, match="not downsampled"):
        natural_patches(SIZE, patches, downsample=2)
    with pytest.raises(HVAEError, match="5,000 train patches asked for"):
        natural_patches(SIZE, patches, train=5_000)


def test_options_reach_the_transform(folder):
    data = small(folder, exposure="absolute", floor=0.1, contrast="unit_norm", gamma="srgb", downsample=2)
    assert data.transform.options == {
        "size": SIZE,
        "dims": DIMS,
        "exposure": "absolute",
        "floor": 0.1,
        "reference": data.transform.intensity.reference,
        "contrast": "unit_norm",
    }
    assert data.train["row"].values.max() <= 48 - SIZE
    np.testing.assert_allclose((data.train["x"].values ** 2).sum(1), DIMS, rtol=1e-4)
    assert not data.train["x"].equals(small(folder, contrast="unit_norm", downsample=2).train["x"])  # gamma


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": "sgrb"}, "unknown gamma 'sgrb'; did you mean 'srgb'"),
        ({"exposure": "median"}, "did you mean 'image_median'"),
        ({"contrast": "norm"}, "did you mean 'unit_norm'"),
        ({"floor": -1}, "floor is -1"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
        ({"test_fraction": 0.0}, "test_fraction is 0.0"),
        ({"train": 0}, "train must be a whole number of at least 1, got 0"),
        ({"test": -5}, "test must be a whole number of at least 1, got -5"),
        ({"downsample": 30}, "pixels after downsampling by 30"),
        ({"train": 10**6}, "1,000,000 training patches asked for, and the 5 photograph"),
        ({"test": 10**6}, "1,000,000 test patches asked for, and the 1 photograph"),
        ({"seed": -1}, "seed must be a whole number of 0 to 4294967295, got -1"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"train": 30}, "cannot determine 50 components"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(HVAEError, match=message):
        small(folder, **options)
    for size in (1, 20.0):
        with pytest.raises(HVAEError, match=f"size must be a whole number.*, got {size}"):
            natural_patches(size, folder)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.where(np.arange(3_000) == 5, np.nan, 1.0).reshape(50, 60), r"bad\[1\]: holds NaN"),
        (np.ones((50, 60)), r"bad\[1\]: every pixel is 1"),
        (np.where(np.arange(3_000) < 2_000, 0.0, 1.0).reshape(50, 60), "median luminance is 0"),
    ],
)
def test_bad_photographs(tmp_path, image, message):
    np.save(tmp_path / "bad.npy", np.stack([photograph(0, (50, 60)), image, photograph(1, (50, 60))]))
    with pytest.raises(HVAEError, match=message):
        small(tmp_path / "bad.npy")


def published(**changes):
    rng = np.random.default_rng(0)
    content = {
        "train_images": rng.standard_normal((30, 64)).astype(np.float32),
        "train_labels": np.arange(30) % 3,
        "test_images": rng.standard_normal((12, 64)).astype(np.float32),
        "test_labels": np.eye(3)[np.arange(12) % 3],
    }
    return {**content, **changes}


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_published_patches(tmp_path, suffix):
    path, content = tmp_path / f"texture.{suffix}", published()
    path.write_bytes(pickle.dumps(content)) if suffix == "pkl" else np.savez(path, **content)
    for data in (published_patches(path), natural_patches(SIZE, path)):
        assert data.transform is None and data.size == SIZE
        np.testing.assert_array_equal(data.train["x"], content["train_images"])
        assert list(data.train["family"].values[:4]) == list(data.test["family"].values[:4]) == ["0", "1", "2", "0"]
        assert set(data.test["source"].values) == {"texture"} and (data.test["row"] == -1).all()
    few = published_patches(path, train=9, test=4)
    assert (few.train.sizes["image"], few.test.sizes["image"]) == (9, 4)
    assert few.train.identical(published_patches(path, train=9).train)


@pytest.mark.parametrize(
    ("labels", "families"),
    [
        (None, ["", ""]),
        ([], ["", ""]),
        (["oat", "soil"], ["oat", "soil"]),
        (np.array([b"oat", b"soil"]), ["oat", "soil"]),
        (np.array([[2.0], [3.0]]), ["2", "3"]),
        (np.array([2.5, 3.0]), ["2.5", "3.0"]),
    ],
)
def test_labels(tmp_path, labels, families):
    content = published(train_images=np.ones((2, 64), np.float32), train_labels=labels)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    assert list(published_patches(tmp_path / "a.pkl").train["family"].values) == families


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((3, 60))}, "60 pixels a patch, which is not a square number"),
        ({"test_images": np.zeros((3, 49))}, "patches of 7×7 pixels, and 8×8 expected"),
        ({"train_images": np.full((3, 64), np.nan)}, "NaN or infinite"),
        ({"train_images": np.zeros(3)}, "expected numbers"),
        ({"train_images": "images"}, "expected numbers"),
        ({"train_labels": np.arange(7)}, "train_labels: shape"),
    ],
)
def test_bad_published(tmp_path, changes, message):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(published(**changes)))
    with pytest.raises(HVAEError, match=rf"a\.pkl.*{message}"):
        published_patches(tmp_path / "a.pkl")


def test_published_refuses_what_does_not_apply(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(published()))
    with pytest.raises(HVAEError, match="already preprocessed, so exposure, contrast cannot be applied"):
        natural_patches(SIZE, path, contrast="unit_norm", exposure="absolute")
    with pytest.raises(HVAEError, match="31 asked for, 30 there"):
        published_patches(path, train=31)
    with pytest.raises(HVAEError, match="patches of 8×8 pixels, and 20×20 expected"):
        natural_patches(20, path)
    path.write_bytes(pickle.dumps({"images": 1}))
    with pytest.raises(HVAEError, match=r"holds \['images'\]; expected a dict with train_images"):
        published_patches(path)
    np.save(tmp_path / "a.npy", photograph(0))
    with pytest.raises(HVAEError, match="not a file of published patches"):
        published_patches(tmp_path / "a.npy")


@pytest.mark.shared
def test_published_scale_on_van_hateren(tmp_path):
    """640,000 + 64,000 patches of 20×20 cut, whitened and written in under 3 minutes and 8 GiB."""
    root = os.environ.get("PYRO_HVAE_SHARED_DATA")
    if not root:
        pytest.skip("set PYRO_HVAE_SHARED_DATA to the folder that holds van_hateren/")
    start = time.perf_counter()
    data = natural_patches(20, Path(root) / "van_hateren", train=640_000, test=64_000)
    data.save(tmp_path / "van_hateren.nc")
    assert time.perf_counter() - start < 180
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # KiB on Linux
    assert data.transform.dims == 314 and data.train.sizes["image"] == 640_000
    assert not set(data.train["source"].values) & set(data.test["source"].values)
    white = data.train["x"].values[:100_000] @ data.transform.components.T.astype(np.float32)
    # Patches of one photograph overlap, so 100,000 of the 640,000 do not estimate the covariance at n = 100,000.
    np.testing.assert_allclose((white**2).mean(), 1, atol=0.02)
