"""Neurons whose dependence on the images is planted: what predicts them, their ceilings, and no leak where there is nothing."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis import neural_prediction, read_responses
from pyro_hvae.analysis.neural_prediction import gabor_energies, mean_and_ceiling, plot_neural_prediction
from pyro_hvae.cli import main
from pyro_hvae.errors import HVAEError

IMAGES, UNITS, REPEATS, NOISE = 300, 12, 8, 1.5


@pytest.fixture(scope="module")
def posterior():
    rng = np.random.default_rng(0)
    z = rng.laplace(size=(IMAGES, UNITS))
    x = rng.normal(size=(IMAGES, 100))
    moments = {
        "z1_mean": (("image", "z1_dim"), z), "z1_variance": (("image", "z1_dim"), np.exp(rng.normal(size=z.shape))),
        "z1_kl": (("image", "z1_dim"), 0 * z),
    }  # fmt: skip
    return xr.DataTree.from_dict({
        "posterior_moments": xr.Dataset(moments), "observed_data": xr.Dataset({"x": (("image", "pixel"), x)}),
    })  # fmt: skip


def noisy(signal, rng, repeats=REPEATS):
    signal = (signal - signal.mean(0)) / signal.std(0)
    return signal[:, None] + NOISE * rng.normal(size=(len(signal), repeats, signal.shape[1]))


def test_neurons_linear_in_z1_reach_their_ceiling_from_z1_and_nothing_from_pixels(posterior):
    rng = np.random.default_rng(1)
    z = posterior["posterior_moments"]["z1_mean"].values
    found = neural_prediction(posterior, noisy(z @ rng.normal(size=(UNITS, 20)), rng))
    assert found["ceiling"].item() == pytest.approx((1 + NOISE**2 / REPEATS) ** -0.5, abs=0.02)
    assert found["normalised"].sel(features="z1_mean").item() == pytest.approx(1, abs=0.04)
    assert abs(found["correlation"].sel(features="pixels").item()) < 0.15
    assert (found["correlation_n"] == 20).all() and "20 neurons" in plot_neural_prediction(found).caption


def test_magnitudes_and_energies_are_predicted_by_what_holds_them(posterior):
    rng = np.random.default_rng(2)
    z, x = posterior["posterior_moments"]["z1_mean"].values, posterior["observed_data"]["x"].values
    signal = np.concatenate([np.abs(z[:, :5]), gabor_energies(x)[:, 50:55]], 1)
    found = neural_prediction(posterior, noisy(signal, rng))
    each = found["neuron_correlation"].values / found["neuron_ceiling"].values
    by = dict(zip(found["features"].values, each, strict=True))
    assert by["moments"][:5].min() > 0.85 and np.abs(by["z1_mean"][:5]).max() < 0.5
    assert by["gabor_energy"][5:].min() > 0.7 and np.abs(by["pixels"][5:]).max() < 0.4


def test_neurons_that_answer_nothing_are_not_predicted(posterior):
    """Choosing a penalty among the training images alone, no correlation is left: nested cross-validation leaks nothing."""
    rng = np.random.default_rng(3)
    found = neural_prediction(posterior, rng.normal(size=(IMAGES, 4, 60)))
    mean = found["neuron_correlation"].mean("neuron")
    # folds that predict their own mean make correlations a little negative, never positive
    assert (mean < 3 * found["neuron_correlation"].std("neuron") / np.sqrt(60)).all()
    assert "ceiling under 0.1" in found.attrs["notes"]


def test_ceilings_are_unbiased_with_missing_repeats():
    rng = np.random.default_rng(4)
    responses = noisy(rng.normal(size=(4000, 6)), rng)
    responses[rng.random(responses.shape) < 0.3] = np.nan
    n = np.isfinite(responses).sum(1)
    truth = (1 + NOISE**2 * (1 / np.maximum(n, 1))[n > 0].mean()) ** -0.5
    np.testing.assert_allclose(mean_and_ceiling(responses)[1], truth, atol=0.015)
    assert np.isnan(mean_and_ceiling(responses[:, :1])[1]).all()  # one repeat says nothing of noise


def test_missing_responses_are_left_out_neuron_by_neuron(posterior):
    rng = np.random.default_rng(5)
    z = posterior["posterior_moments"]["z1_mean"].values
    responses = noisy(z[:, :4], rng)
    responses[:100, :, 0] = np.nan
    responses[:290, :, 1] = np.nan
    responses[:, :, 2] = 7.0
    found = neural_prediction(posterior, responses)
    row = found["neuron_correlation"].sel(features="z1_mean").values
    assert row[0] > 0.8 and row[3] > 0.8 and np.isnan(row[1:3]).all()
    assert "2 neurons left out" in found.attrs["notes"]


def test_sparse_regression_finds_the_one_unit(posterior):
    rng = np.random.default_rng(6)
    z = posterior["posterior_moments"]["z1_mean"].values
    few = posterior.isel(image=slice(120), missing_dims="ignore")
    found = neural_prediction(few, noisy(z[:120, :1], rng), method="lasso", folds=2)
    assert found["normalised"].sel(features="z1_mean").item() == pytest.approx(1, abs=0.05)


def test_files_of_responses_are_read_and_others_refused(posterior, tmp_path):
    values = np.random.default_rng(7).normal(size=(IMAGES, 2, 3))
    np.savez(tmp_path / "r.npz", responses=values)
    array = xr.DataArray(values.transpose(2, 0, 1), dims=("neuron", "image", "repeat"))
    array.to_dataset(name="responses").to_netcdf(tmp_path / "r.nc")
    for name in ("r.npz", "r.nc"):
        np.testing.assert_array_equal(read_responses(tmp_path / name), values)
    np.savez(tmp_path / "other.npz", rates=values)
    np.savez(tmp_path / "flat.npz", responses=values[0])
    (tmp_path / "damaged.npz").write_bytes(b"PK nothing")
    for name, message in (
        ("other.npz", "no 'responses'"), ("flat.npz", "must be numbers"), ("damaged.npz", "cannot be read"),
        ("absent.nc", "no such file"),
    ):  # fmt: skip
        with pytest.raises(HVAEError, match=message):
            read_responses(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": np.zeros((5, 2, 3))}, "the responses are to 5 images"),
        ({"responses": np.zeros((IMAGES, 3))}, "axes"),
        ({"method": "forest"}, "method"),
        ({"folds": 1}, "folds"),
        ({"responses": np.full((IMAGES, 2, 3), np.nan)}, "no neuron"),
    ],
)
def test_what_cannot_be_predicted_is_refused(posterior, change, message):
    given = {"responses": np.random.default_rng(0).normal(size=(IMAGES, 2, 3))} | change
    with pytest.raises(HVAEError, match=message):
        neural_prediction(posterior, **given)


def test_the_command_prints_what_the_function_finds(planted, tmp_path, capsys):
    from pyro_hvae.storage.posterior_file import open_posterior

    with open_posterior(planted.path) as tree:
        n = tree["observed_data"].sizes["image"]
    np.savez(tmp_path / "r.npz", responses=np.random.default_rng(0).normal(size=(n, 3, 4)))
    arguments = ["predict", str(planted.path), str(tmp_path / "r.npz"), "--out", str(tmp_path / "p.png")]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "correlation of predicted and mean response, pixels" in printed.out and (tmp_path / "p.png").is_file()
    assert main(arguments) == 2 and "exists" in capsys.readouterr().err
