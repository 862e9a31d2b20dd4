"""Optima whose image is known, and texture responses that are those of the pair."""

import numpy as np
import pytest
from physiology.planted_units import ORIENTATION, SIZE, planted_pair

from pyro_hvae.analysis import exciting_images, texture_modulation
from pyro_hvae.errors import HVAEError
from pyro_hvae.physiology import measure_physiology
from pyro_hvae.stimuli import natural_patches, patch_dataset

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(40, SIZE**2))


@pytest.fixture(scope="module")
def found():
    return {
        kind: measure_physiology(planted_pair(kind), images=IMAGES, draws=2, parts=["optima"])
        for kind in ("gabor", "energy")
    }


def test_the_most_exciting_image_of_a_gabor_is_the_gabor(found):
    """For response w·x at a fixed norm it is w, from every start; the least exciting one -w; the response is norm · |w|."""
    group, w = found["gabor"]["optima"], planted_pair("gabor").guide.even.numpy()
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    norm = group.attrs["norm"]
    assert norm == pytest.approx(np.median(np.linalg.norm(IMAGES, axis=1)))
    for which, sign in (("most", 1), ("least", -1)):
        images = group[f"z1_{which}"].values
        np.testing.assert_allclose(np.linalg.norm(images, axis=2), norm, rtol=1e-4)
        np.testing.assert_allclose(np.einsum("usp,up->us", images, unit) / norm, sign, atol=4e-3)
        np.testing.assert_allclose(
            group[f"z1_{which}_response"], np.tile(sign * norm * np.linalg.norm(w, axis=1)[:, None], 8), rtol=4e-3
        )
    result = exciting_images(found["gabor"])
    np.testing.assert_allclose(result["z1_similarity"], 1, atol=5e-3)
    np.testing.assert_allclose(result["z1_dimensions"], 1, atol=1e-2)
    assert result["reached"].item() == 1 and result["gain"].item() > 2  # noise images drive no unit as its own does


def test_the_optima_of_an_energy_fill_the_plane_of_its_two_gabors(found):
    """Even and odd have nearly the same norm, so every phase is within 5% of the best; random starts find any of them."""
    group, guide = found["energy"]["optima"], planted_pair("energy").guide
    for row in range(len(ORIENTATION)):
        plane = np.linalg.qr(np.stack([guide.even[row].numpy(), guide.odd[row].numpy()]).T)[0]
        images = group["z1_most"].values[row]
        shares = ((images @ plane) ** 2).sum(1) / (images**2).sum(1)
        np.testing.assert_allclose(shares, 1, atol=5e-3)
    result = exciting_images(found["energy"])
    assert np.median(result["z1_dimensions"]) > 1.4 and (result["z1_dimensions"] < 2.05).all()
    assert result["similarity"].item() < 0.5


def test_optima_lie_in_the_subspace_that_whitening_keeps():
    photographs = np.random.default_rng(0).gamma(2, size=(3, 60, 60))
    data = natural_patches(SIZE, photographs, train=800, test=20)
    tree = measure_physiology(planted_pair("gabor"), images=data, draws=2, parts=["optima"], units=2)
    images = tree["optima"]["z1_most"].values.reshape(-1, SIZE**2)
    np.testing.assert_allclose(data.transform.project(images), images, atol=1e-4 * np.abs(images).max())
    assert tree["optima"].sizes["z1_optimum"] == 2


def patches(x, family):
    return patch_dataset(x, split="test", source="made", family=np.array(family))


def test_texture_responses_are_those_of_the_pair_by_family():
    family = ["a"] * 10 + ["b"] * 12
    textures, noise = (patches(RNG.normal(size=(22, SIZE**2)), family) for _ in range(2))
    pair = planted_pair("energy")
    tree = measure_physiology(pair, textures=textures, noise=noise, draws=2, parts=["texture"])
    group = tree["texture"]
    assert group["z1_texture_mean"].sizes == {"family": 2, "patch": 10, "z1_unit": 6}
    import torch

    for name, dataset in (("texture", textures), ("noise", noise)):
        x = torch.from_numpy(dataset["x"].values[10:20]).float()
        np.testing.assert_allclose(group[f"z1_{name}_mean"].sel(family="b"), pair.guide.mean(x), rtol=1e-4)


def test_a_unit_that_answers_textures_three_times_as_much_has_an_index_of_a_half():
    """Energies are quadratic: textures √3 times as strong as noise give 3 : 1, so (3 - 1) / (3 + 1)."""
    family = ["a"] * 60 + ["b"] * 60
    noise = patches(RNG.normal(size=(120, SIZE**2)), family)
    strong = np.concatenate([np.sqrt(3) * RNG.normal(size=(60, SIZE**2)), RNG.normal(size=(60, SIZE**2))])
    tree = measure_physiology(
        planted_pair("energy"), textures=patches(strong, family), noise=noise, draws=2, parts=["texture"]
    )
    result = texture_modulation(tree)
    for name, truth in (("a", 0.5), ("b", 0.0)):
        at = result.sel(layer="z1", family=name)
        low, high = at["modulation_interval"].values
        assert low < truth < high or at["modulation"].item() == pytest.approx(truth, abs=0.06)
        assert 0.02 < high - low < 0.5
    assert result["overall"].item() == pytest.approx(0.25, abs=0.07) and result["modulated"].item() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, n: (t, None), "give both, or neither"),
        (lambda t, n: (t, n.assign_coords(family=("image", ["z"] * 4))), "same families"),
        (lambda t, n: (t, n.drop_vars("family")), "the label family"),
        (lambda t, n: (t.isel(pixel=slice(100)), n), "100 pixels"),
    ],
)
def test_textures_that_do_not_fit_are_refused(change, message):
    sets = [patches(RNG.normal(size=(4, SIZE**2)), list("aabb")) for _ in range(2)]
    textures, noise = change(*sets)
    with pytest.raises(HVAEError, match=message):
        measure_physiology(planted_pair("gabor"), textures=textures, noise=noise, draws=2, parts=["texture"])


def test_images_of_nothing_have_no_norm():
    with pytest.raises(HVAEError, match="all zero"):
        measure_physiology(planted_pair("gabor"), images=np.zeros((3, SIZE**2)), draws=2, parts=["optima"])
