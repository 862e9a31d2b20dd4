import numpy as np
import pytest
from skimage.io import imsave

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import natural_patches, texture_patches
from pyro_hvae.stimuli.readers import read_luminance
from tests.stimuli.conftest import photograph

SIZE = 8


@pytest.fixture(scope="module")
def transform():
    return natural_patches(SIZE, np.stack([photograph(i) for i in range(4)]), train=2_000, test=100).transform


def test_embedded_families(transform):
    data = texture_patches(SIZE, transform=transform, train=301, test=90)
    for name, dataset, each in (("train", data.train, 100), ("test", data.test, 30)):
        families, counts = np.unique(dataset["family"].values, return_counts=True)
        assert list(families) == ["brick", "grass", "gravel"] and set(counts) == {each}
        assert (dataset["split"] == name).all()
        assert len(set(dataset["family"].values[:20])) > 1  # shuffled
    # 256×256 after averaging, cut at column 171: training and test share no pixel.
    assert data.train["column"].values.max() + SIZE <= 171 <= data.test["column"].values.min()
    assert data.transform is transform
    assert data.provenance["options"]["transform"] == transform.options


def test_folder_through_the_given_transform(tmp_path, transform):
    for n, family in enumerate(("oat", "soil")):
        imsave(tmp_path / f"{family}.png", (photograph(30 + n) * 500).astype(np.uint16), check_contrast=False)
    data = texture_patches(
        SIZE, tmp_path, transform=transform, train=200, test=40, test_fraction=0.5, intensity="natural"
    )
    assert set(data.train["family"].values) == set(data.test["source"].values) == {"oat", "soil"}
    one = data.test.isel(image=3)
    image = read_luminance(tmp_path / f"{one['family'].item()}.png")[:, 64:]
    row, column = one["row"].item(), one["column"].item() - 64
    matched = transform.match_intensity(image)
    patch = (matched - matched.mean())[row : row + SIZE, column : column + SIZE]
    np.testing.assert_allclose(transform(patch).ravel(), one["x"].values, atol=1e-4)


def test_seed(transform):
    one, same, other = (texture_patches(SIZE, transform=transform, train=300, test=30, seed=s) for s in (1, 1, 2))
    assert one.train.identical(same.train) and one.test.identical(same.test)
    assert one.train["x"].values.tobytes() != other.train["x"].values.tobytes()


def test_what_does_not_fit(tmp_path, transform):
    with pytest.raises(HVAEError, match="size is 20, and the transform is for 8-pixel patches"):
        texture_patches(20, transform=transform)
    with pytest.raises(HVAEError, match="train=2 is less than one patch for each of 3 families"):
        texture_patches(SIZE, transform=transform, train=2)
    with pytest.raises(HVAEError, match="patches of each family asked for, and the test region of"):
        texture_patches(SIZE, transform=transform, test=300_000)
    with pytest.raises(HVAEError, match="test_fraction is 1"):
        texture_patches(SIZE, transform=transform, test_fraction=1)
    with pytest.raises(HVAEError, match="cannot be split into a training and a test region"):
        texture_patches(SIZE, transform=transform, test_fraction=0.01)
    imsave(tmp_path / "oat.png", (photograph(1) * 500).astype(np.uint16), check_contrast=False)
    with pytest.raises(HVAEError, match="at least two images, one family each"):
        texture_patches(SIZE, tmp_path, transform=transform)
