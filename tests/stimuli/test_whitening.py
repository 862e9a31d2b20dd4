import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import IntensityMap, Whitening, kept_components

SIZE = 6
PIXELS = SIZE**2
IDENTITY = IntensityMap(np.array([-1.0, 0.0, 1.0]), np.array([-1.0, 0.0, 1.0]))


def correlated(n, seed=0):
    """Gaussian patches of known covariance: eigenvalues 1/k² along a random basis, mean not zero."""
    r = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((PIXELS, PIXELS)))[0]
    scales = 3 / np.arange(1, PIXELS + 1)
    return (r.standard_normal((n, PIXELS)) * scales @ basis.T + 0.3).astype(np.float32), basis, scales**2


@pytest.fixture(scope="module")
def fitted():
    patches, *_ = correlated(5_000)
    return Whitening.fit(patches, IDENTITY), patches


def test_kept_components_are_the_published_ones():
    assert (kept_components(400), kept_components(1600)) == (314, 1256)


def test_training_covariance_is_the_identity_on_the_kept_subspace(fitted):
    whitening, patches = fitted
    white = whitening(patches).astype(np.float64)
    kept = white @ whitening.components.T
    np.testing.assert_allclose(kept.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(kept.T @ kept / len(kept), np.eye(kept_components(PIXELS)), atol=1e-4)
    # ... and nothing is left outside it.
    dropped = np.linalg.svd(whitening.components)[2][whitening.dims :]
    assert np.abs(white @ dropped.T).max() < 1e-3


def test_spectrum_is_the_known_one():
    patches, basis, variances = correlated(200_000)
    whitening = Whitening.fit(patches, IDENTITY)
    # The standard error of a sample variance of Gaussian data is λ sqrt(2/n).
    np.testing.assert_allclose(whitening.eigenvalues, variances, rtol=5 * np.sqrt(2 / 200_000))
    np.testing.assert_allclose(np.abs(whitening.components[0] @ basis[:, 0]), 1, atol=1e-3)
    np.testing.assert_allclose(whitening.mean, 0.3, atol=5 * np.sqrt(variances.sum() / 200_000))


def test_chunks_do_not_matter(fitted, monkeypatch):
    whitening, patches = fitted
    monkeypatch.setattr("pyro_hvae.stimuli.whitening.CHUNK", 777)
    np.testing.assert_allclose(Whitening.fit(patches, IDENTITY).eigenvalues, whitening.eigenvalues, rtol=1e-10)
    np.testing.assert_allclose(Whitening.fit(patches, IDENTITY)(patches), whitening(patches), atol=1e-3)


def test_mapped_back_to_pixels_is_zero_phase(fitted):
    """V Λ^(-1/2) Vᵀ is symmetric: of all whitenings the one closest to the pixels."""
    whitening, _ = fitted
    response = whitening(np.eye(PIXELS) + whitening.mean)
    np.testing.assert_allclose(response, response.T, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_inverse_and_projection(fitted, seed):
    whitening, _ = fitted
    x = np.random.default_rng(seed).standard_normal((7, PIXELS)).astype(np.float32) * 2
    y = whitening.project(x)
    np.testing.assert_allclose(whitening.project(y), y, atol=1e-5)  # idempotent
    np.testing.assert_allclose(whitening(whitening.inverse(x)), y, atol=2e-4)  # inverse exact on the subspace
    matched = whitening.inverse(y)
    np.testing.assert_allclose(whitening.inverse(whitening(matched)), matched, atol=2e-4)
    assert np.abs(y - x).max() > 0.01  # a subspace, not everything


def test_shapes(fitted):
    whitening, patches = fitted
    flat = whitening(patches[:3])
    assert flat.dtype == np.float32
    np.testing.assert_array_equal(whitening(patches[:3].reshape(3, SIZE, SIZE)), flat.reshape(3, SIZE, SIZE))
    np.testing.assert_allclose(whitening(patches[0]), flat[0], atol=1e-4)
    np.testing.assert_allclose(whitening(patches[:4].reshape(2, 2, PIXELS))[1, 0], whitening(patches[2]), atol=1e-4)


@pytest.mark.parametrize("method", ["__call__", "inverse", "project"])
@pytest.mark.parametrize("shape", [(3, 49), (3, 7, 7), (37,), (), (6, 5)])
def test_wrong_size(fitted, method, shape):
    with pytest.raises(HVAEError, match=r"fitted on 6×6 patches, so expected \(…, 36\)"):
        getattr(fitted[0], method)(np.zeros(shape))


def test_contrast_normalisation():
    patches, *_ = correlated(5_000)
    plain, normal = (Whitening.fit(patches, IDENTITY, contrast=c) for c in ("none", "unit_norm"))
    white = normal(patches)
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), np.sqrt(plain.dims), rtol=1e-5)
    # Only the length is changed, so the inverse recovers the patch up to its contrast.
    y = plain(patches)
    cosine = (white * y).sum(1) / np.linalg.norm(white, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)
    back = normal.inverse(white) - normal.mean
    wanted = plain.inverse(y) - plain.mean
    np.testing.assert_allclose(back * (np.linalg.norm(y, axis=1) / np.sqrt(plain.dims))[:, None], wanted, atol=1e-3)
    assert np.isfinite(normal(np.tile(normal.mean.astype(np.float32), (2, 1)))).all()  # no contrast at all


def test_mask_replaces_by_the_mean_intensity(fitted):
    whitening, patches = fitted
    mask = np.arange(PIXELS) % 3 > 0
    filled = patches[:5].copy()
    filled[:, ~mask] = 0
    np.testing.assert_array_equal(whitening(patches[:5], mask=mask), whitening(filled))
    np.testing.assert_array_equal(whitening(patches[:5], mask=np.ones((5, PIXELS), bool)), whitening(patches[:5]))


@pytest.mark.parametrize("contrast", ["none", "unit_norm"])
def test_saved_and_loaded_is_bit_identical(tmp_path, contrast):
    patches, *_ = correlated(2_000)
    intensity = IntensityMap.fit([np.exp(patches)], exposure="absolute", floor=0.013)
    whitening = Whitening.fit(patches, intensity, contrast=contrast)
    whitening.to_dataset().to_netcdf(tmp_path / "w.nc")
    loaded = Whitening.from_dataset(xr.load_dataset(tmp_path / "w.nc"))
    assert loaded.options == whitening.options
    for method in ("__call__", "inverse", "project", "match_intensity"):
        values = np.exp(patches) if method == "match_intensity" else patches
        assert getattr(loaded, method)(values).tobytes() == getattr(whitening, method)(values).tobytes()


def test_rank_and_number_of_patches():
    patches, *_ = correlated(500)
    with pytest.raises(HVAEError, match="20 training patches cannot determine 28 components"):
        Whitening.fit(patches[:20], IDENTITY)
    smooth = np.repeat(patches[:, ::2], 2, axis=1)
    with pytest.raises(HVAEError, match="vary in 18 dimensions only, and 28 of 36"):
        Whitening.fit(smooth, IDENTITY)


def test_damaged_datasets(fitted):
    dataset = fitted[0].to_dataset()
    with pytest.raises(HVAEError, match="missing components"):
        Whitening.from_dataset(dataset.drop_vars("components"))
    with pytest.raises(HVAEError, match="options of the whitening transform"):
        Whitening.from_dataset(dataset.assign(options="{"))
    with pytest.raises(HVAEError, match="not finite"):
        Whitening.from_dataset(dataset.assign(mean=dataset["mean"] * np.nan))
    with pytest.raises(HVAEError, match="do not fit a mean of 36 pixels"):
        Whitening.from_dataset(dataset.isel(kept_component=slice(3)))
    with pytest.raises(HVAEError, match="did you mean 'unit_norm'"):
        Whitening.fit(fitted[1], IDENTITY, contrast="unitnorm")
