import numpy as np
import pytest
import torch
import xarray as xr
from oracles import affine_model, joint_gaussian, simulate, softplus_model

from pyro_hvae.analysis.guide_audit import guide_audit
from pyro_hvae.errors import HVAEError
from pyro_hvae.export.audit import audit
from pyro_hvae.programs import HVAE, MeanFieldGuide, TopDownGuide
from pyro_hvae.storage.audit_file import open_audit


@pytest.fixture(scope="module")
def pair():
    """A linear-Gaussian model with correlated z1, under a factorised guide of the right means and spreads."""
    model = affine_model((4, 2), pixels=4, noise=1.0, seed=2)
    _, x = simulate(model, 3)
    guide = MeanFieldGuide(4, model.dims, families=model.families, hidden=((), ())).double()
    joint = joint_gaussian(model)
    zero, covariance = joint.posterior(np.zeros((1, 4)))
    gain = (joint.posterior(np.eye(4))[0] - zero).T
    start = 0
    with torch.no_grad():
        for dim, conditional in zip(model.dims, guide.conditionals, strict=True):
            here, head = slice(start, start := start + dim), conditional[1]
            head.weight.zero_()
            head.location_weight[:] = torch.as_tensor(gain[here])
            head.location_bias[:] = torch.as_tensor(zero[0, here])
            head.v_bias[:] = torch.as_tensor(np.log(np.diag(covariance)[here]))
    return HVAE(model, guide), x


@pytest.fixture(scope="module")
def exact(pair):
    return audit(*pair, units=4, moment_draws=50, resample=200, draws=400, seed=1)


def test_three_sources_of_one_posterior(pair, exact):
    vae, x = pair
    mean, covariance = joint_gaussian(vae.model).posterior(x.numpy())
    scale = np.sqrt(np.diag(covariance)[:4])
    correlation = covariance[:4, :4] / scale[:, None] / scale
    assert exact.attrs["reference"] == "exact"
    reference = exact["reference"]
    np.testing.assert_allclose(reference["z1_correlation"], np.broadcast_to(correlation, (2, 3, 4, 4)), atol=1e-6)
    np.testing.assert_allclose(reference["z1_mean"][0], mean[:, :4], atol=1e-6)
    np.testing.assert_allclose(reference["z2_variance"][1, 0], np.diag(covariance)[4:], atol=1e-6)
    np.testing.assert_allclose(exact["guide"]["z1_mean"][0], mean[:, :4], atol=1e-5)
    np.testing.assert_allclose(exact["guide"]["z1_variance"][0, 0], np.diag(covariance)[:4], rtol=1e-5)
    np.testing.assert_allclose(exact["guide"]["z1_correlation"].mean("half")[0], np.eye(4), atol=1e-6)
    # 2 x 400 groups of 200 proposals
    np.testing.assert_allclose(exact["resampled"]["z1_correlation"].mean(("half", "image")), correlation, atol=0.05)
    assert np.abs(correlation - np.eye(4)).max() > 0.2


def test_the_analysis_of_it(exact):
    found = guide_audit(exact)
    assert "guide: z1 is independent" in found.attrs["notes"]
    assert float(found["ceiling"][0]) == pytest.approx(1, abs=1e-5)
    resampled = found.sel(source="resampled")
    assert float(resampled["real"]) > 0.9 and float(resampled["slope"]) == pytest.approx(1, abs=0.1)
    assert float(found.sel(source="guide")["z1_log_sd_ratio"]) == pytest.approx(0, abs=1e-4)


def test_gibbs_reference_agrees_with_the_exact_one(pair, exact):
    sampled = audit(*pair, units=4, moment_draws=10, resample=2, draws=5, reference="gibbs", num_samples=250, warmup=80)
    assert sampled.attrs["reference"] == "gibbs"
    reference = sampled["reference"]
    ess = float(reference["ess"].min())
    assert ess > 200 and float(reference["r_hat"].max()) < 1.05
    found = reference["z1_correlation"].mean("half")
    assert abs(found - exact["reference"]["z1_correlation"][0]).max() < 4.5 / np.sqrt(ess)
    halves = reference["z1_correlation"]
    assert 0 < abs(halves[0] - halves[1]).max() < 2 * 4.5 / np.sqrt(ess)
    error = (reference["z1_mean"].mean("half") - exact["reference"]["z1_mean"][0]) / np.sqrt(
        reference["z1_variance"][0]
    )
    assert abs(error).max() < 4.5 / np.sqrt(ess)


def test_images_in_batches_labels_and_the_file(tmp_path, monkeypatch):
    from pyro_hvae.export import audit as module

    model = softplus_model((5, 2), spread=0.4).float()
    _, x = simulate(model, 3)
    hidden = dict(hidden_x=((4,), (4,)), hidden_z=((4,),), hidden_joint=((4,),))
    vae = HVAE(model, TopDownGuide(3, (5, 2), **hidden))
    images = xr.Dataset({"x": (("image", "pixel"), x.numpy())}, {"family": ("image", ["", "bark", "oat"])})
    monkeypatch.setattr(module, "DRAW_BYTES", 1)  # an image at a time
    options = dict(units=3, moment_draws=5, resample=3, draws=5, num_samples=20, warmup=10)
    path = tmp_path / "audit.nc"
    tree = audit(vae, images, **options, path=path)
    norms = model.A.norm(dim=0)
    assert tree["reference"].unit.values.tolist() == sorted(norms.argsort(descending=True)[:3].tolist())
    assert tree["reference"].sizes["image"] == 3 and tree["reference"]["z1_mean"].shape == (2, 3, 5)
    with open_audit(path) as opened:
        assert opened["observed_data"].family.values.tolist() == ["", "bark", "oat"]
        assert opened.attrs["reference"] == "gibbs" and opened.attrs["model"] == "MarkovModel"
        np.testing.assert_allclose(opened["observed_data"]["x"], x, rtol=1e-6)
        guide_audit(opened, max_r_hat=9)
    with pytest.raises(HVAEError, match="overwrite=True"):
        audit(vae, images, **options, path=path)


def test_errors(pair):
    with pytest.raises(HVAEError, match="must be even, got 3"):
        audit(*pair, chains=3)
    with pytest.raises(HVAEError, match="units must be a whole number of at least 2, got 1"):
        audit(*pair, units=1)
    with pytest.raises(HVAEError, match="from 0 to 3"):
        audit(*pair, units=[0, 4])
    with pytest.raises(HVAEError, match="did you mean 'nuts'"):
        audit(*pair, reference="nutz", draws=2, resample=2, moment_draws=2)
