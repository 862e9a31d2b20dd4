"""Files of a sampler: the exact posterior of a linear-Gaussian pair in them, and what they say of themselves."""

import logging

import numpy as np
import pytest
import xarray as xr
from oracles import GaussianGuide, affine_model, joint_gaussian, simulate
from small import small_data, small_pair

from pyro_hvae import HVAE, export_posterior
from pyro_hvae.analysis import chain_convergence, posterior_agreement
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior

SHORT = dict(sampler="hmc", num_samples=200, warmup=40, chains=4, moment_draws=4, prior_samples=2, receptive_fields=0)


@pytest.fixture(scope="module")
def exact():
    model = affine_model((4, 2), seed=2)
    _, x = simulate(model, 5)
    mean, covariance = joint_gaussian(model).posterior(x.numpy())
    vae = HVAE(model, GaussianGuide(model))
    return export_posterior(vae, x, units=[0, 1, 3], draws=40, **SHORT), mean, covariance


def test_moments_are_the_exact_ones_within_their_errors(exact):
    tree, mean, covariance = exact
    moments = tree["posterior_moments"]
    found = np.concatenate([moments[f"{s}_mean"] for s in ("z1", "z2")], -1)
    error = np.concatenate([moments[f"{s}_mean_se"] for s in ("z1", "z2")], -1)
    z = (found - mean) / error
    assert np.abs(z).max() < 4.5 and 0.5 < z.std() < 1.6  # errors neither too small nor too large
    variance = np.concatenate([moments[f"{s}_variance"] for s in ("z1", "z2")], -1)
    error = np.concatenate([moments[f"{s}_variance_se"] for s in ("z1", "z2")], -1)
    assert np.abs((variance - np.diag(covariance)) / error).max() < 5


def test_correlations_and_what_comes_through_z2(exact):
    tree, _, covariance = exact
    moments, units = tree["posterior_moments"], [0, 1, 3]
    part = covariance[np.ix_(units, units)]
    truth = part / np.sqrt(np.outer(np.diag(part), np.diag(part)))
    np.testing.assert_allclose(moments["z1_correlation"], np.broadcast_to(truth, (5, 3, 3)), atol=0.15)
    np.testing.assert_allclose(moments["z1_correlation_half"].mean("half"), moments["z1_correlation"], atol=1e-5)
    cross = covariance[:4, 4:]
    through = np.diag(cross @ np.linalg.solve(covariance[4:, 4:], cross.T))
    np.testing.assert_allclose(moments["z1_variance_from_z2"].mean("image"), through, rtol=0.35, atol=0.01)


def test_predictions_are_of_the_posterior(exact):
    tree, mean, covariance = exact
    A, c, sigma = (tree["constant_data"][name].values for name in ("A", "c", "sigma"))
    np.testing.assert_allclose(tree["posterior_predictive"]["x_mean"], mean[:, :4] @ A.T + c, atol=0.15)
    variance = np.diag(A @ covariance[:4, :4] @ A.T) + sigma**2
    np.testing.assert_allclose(tree["posterior_predictive"]["x_variance"].mean("image"), variance, rtol=0.2)


def test_the_file(exact, tmp_path):
    tree = exact[0]
    assert tree["posterior"]["z1"].shape == (4, 10, 5, 4)
    assert tree.attrs["guide"].startswith("HMC, started at ") and tree["bound"].attrs["of"].startswith("the guide")
    assert "log_weight" not in tree["sample_stats"] and "log_density" not in tree.children
    vae = small_pair()
    path = tmp_path / "hmc.nc"
    with export_posterior(vae, small_data().test.isel(image=slice(6)), path=path, **SHORT) as made:
        assert (made["sample_stats"]["divergences"] == 0).all()
    with open_posterior(path) as again:
        assert 0 <= float(chain_convergence(again)["converged"].sel(set="natural")) <= 1


def test_images_that_did_not_converge_are_named(caplog):
    vae = small_pair()
    short = SHORT | dict(num_samples=20, warmup=20, chains=2)
    with caplog.at_level(logging.WARNING):
        tree = export_posterior(vae, small_data().test.isel(image=slice(3)), **short)
    assert (tree["sample_stats"]["converged"] == 0).all()  # 40 draws are no 400 effective ones
    assert "3 of 3 images did not converge" in caplog.text and "images 0, 1, 2;" in caplog.text


def test_guide_and_sampler_of_one_exact_pair_agree(exact):
    tree = exact[0]
    model = affine_model((4, 2), seed=2)
    x = tree["observed_data"]["x"].values
    guide = export_posterior(
        HVAE(model, GaussianGuide(model)), x, moment_draws=2000, prior_samples=2, receptive_fields=0
    )
    sampler = tree.copy()
    sampler["sample_stats"]["converged"] = xr.ones_like(sampler["sample_stats"]["converged"])
    found = posterior_agreement([guide, sampler])
    assert (found["mean_error"] < 0.12).all() and (np.abs(found["log_sd_ratio"]) < 0.1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sampler="nuts"), "sampler 'nuts'"),
        (dict(sampler=None), "num_samples=200 is of a sampler"),
        (dict(chains=1), "at least 2 chains"),
        (dict(warmup=3), "of warm-up"),
        (dict(draws=10_000), "raise num_samples"),
        (dict(draws=4, resample=3), "resample=3 changes the guide's draws"),
        (dict(refine=5), "refine=5 changes the guide's draws"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(HVAEError, match=message):
        export_posterior(small_pair(), small_data().test.isel(image=slice(2)), **SHORT | options)
