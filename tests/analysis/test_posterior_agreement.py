"""Guides with planted errors against a planted sampler: every number is known from how the files were made."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis import chain_convergence, posterior_agreement, trust
from pyro_hvae.analysis.chain_convergence import plot_chain_convergence
from pyro_hvae.analysis.posterior_agreement import plot_posterior_agreement
from pyro_hvae.errors import HVAEError
from pyro_hvae.report.registry import ANALYSES

IMAGES, Z1, Z2, UNITS, SE = 60, 30, 4, 16, 0.2
PAIRS = np.triu_indices(UNITS, 1)


def matrices(values):
    made = np.zeros((*values.shape[:-1], UNITS, UNITS))
    made[..., PAIRS[0], PAIRS[1]] = made[..., PAIRS[1], PAIRS[0]] = values
    made[..., range(UNITS), range(UNITS)] = 1
    return made


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(IMAGES, 9)),
        "z1": (rng.normal(size=(IMAGES, Z1)), np.exp(rng.normal(size=(IMAGES, Z1)))),
        "z2": (rng.normal(size=(IMAGES, Z2)), np.exp(rng.normal(size=(IMAGES, Z2)))),
        "r": 0.1 * rng.normal(size=(IMAGES, len(PAIRS[0]))),
    }


def tree(truth, name, *, offset=0.0, ratio=1.0, slope=1.0, noise=0.0, share=0.3, half_noise=None, seed=1, r_hat=None):
    """A guide's file, or a sampler's where ``half_noise`` is given."""
    rng = np.random.default_rng(seed)
    moments = {}
    for site in ("z1", "z2"):
        mean, variance = truth[site]
        dims = ("image", f"{site}_dim")
        se = SE * np.sqrt(variance) if half_noise is not None else 0.0
        signs = rng.choice([-1, 1], size=mean.shape)
        moments[f"{site}_mean"] = (dims, mean + signs * offset * np.sqrt(variance) + se * rng.normal(size=mean.shape))
        moments[f"{site}_variance"] = (dims, ratio**2 * variance)
        if half_noise is not None:
            moments[f"{site}_mean_se"] = (dims, np.broadcast_to(se, mean.shape))
    moments["z1_variance_from_z2"] = (("image", "z1_dim"), share * ratio**2 * truth["z1"][1])
    r = slope * truth["r"] + noise * rng.normal(size=truth["r"].shape)
    if half_noise is not None:
        halves = truth["r"][:, None] + half_noise * rng.normal(size=(IMAGES, 2, truth["r"].shape[1]))
        moments["z1_correlation_half"] = (("image", "half", "unit", "unit_bis"), matrices(halves))
        r = halves.mean(1)
    moments["z1_correlation"] = (("image", "unit", "unit_bis"), matrices(r))
    units = np.arange(UNITS)
    groups = {
        "posterior_moments": xr.Dataset(moments, {"unit": units, "unit_bis": units}),
        "observed_data": xr.Dataset({"x": (("image", "pixel"), truth["x"])}),
    }
    if half_noise is not None:
        r_hat = np.full(IMAGES, 1.002) if r_hat is None else r_hat
        per_image = dict.fromkeys(("ess_mean", "ess_bulk", "ess_tail"), np.full(IMAGES, 800.0))
        per_image |= {"r_hat": r_hat + 0.01, "r_hat_mean": r_hat, "converged": (r_hat < 1.01).astype(np.int8)}
        per_image |= {"divergences": np.zeros(IMAGES, np.int32), "acceptance_rate": np.full(IMAGES, 0.8)}
        groups["sample_stats"] = xr.Dataset({name: ("image", values) for name, values in per_image.items()})
    made = xr.DataTree.from_dict(groups)
    made.attrs |= {"file": f"{name}.nc", "guide": "HMC" if half_noise is not None else "TopDownGuide"}
    return made


def test_planted_errors_are_found(truth):
    sampler = tree(truth, "hmc", half_noise=0.08)
    guides = [
        tree(truth, "exact"),
        tree(truth, "narrow", offset=0.5, ratio=0.5, slope=0.25, noise=0.025, share=0.1, seed=2),
        tree(truth, "opposed", slope=-1.0, seed=3),
    ]
    found = posterior_agreement([guides[0], sampler, *guides[1:]])
    assert found["guide"].values.tolist() == ["exact", "narrow", "opposed"]
    # SE is of each mean of the sampler: what is left of it after its square is taken off
    assert (found["mean_error"].sel(guide="exact") < 0.1).all()
    np.testing.assert_allclose(found["mean_error"].sel(guide="narrow"), 0.5, atol=0.05)
    np.testing.assert_allclose(
        found["log_sd_ratio"].sel(guide=["exact", "narrow"]), [[0, 0], [np.log(0.5)] * 2], atol=1e-6
    )
    # narrow: 0.25 r + 0.025 noise with sd(r) = 0.1: half of its variance is real
    for name, real, slope in (("exact", 1.0, 1.0), ("narrow", 0.5, 0.25), ("opposed", -1.0, -1.0)):
        at = found.sel(guide=name)
        assert abs(float(at["real"]) - real) < 4 * float(at["real_se"]) + 0.01
        assert abs(float(at["slope"]) - slope) < 4 * float(at["slope_se"]) + 0.01
        # the sampler's own noise, 0.08 / sqrt(2) against 0.1, attenuates what is not freed of it
        attenuated = np.sign(real) * np.sqrt(abs(real) / (1 + 0.08**2 / 2 / 0.1**2))
        assert abs(float(at["agreement"]) - attenuated) < 4 * float(at["agreement_se"]) + 0.02
    np.testing.assert_allclose(found["from_z2"], [0.3, 0.3, 0.1, 0.3], atol=1e-6)
    picture = plot_posterior_agreement(found)
    assert f"n = {IMAGES} images" in picture.caption and len(picture.figure.axes) == 4


def test_images_that_did_not_converge_do_not_count(truth):
    r_hat = np.where(np.arange(IMAGES) < 10, 1.2, 1.0)
    spoilt = tree(truth, "guide")
    spoilt["posterior_moments"]["z2_mean"][:10] += 100
    found = posterior_agreement([spoilt, tree(truth, "hmc", half_noise=0.01, r_hat=r_hat)])
    assert found.attrs["images"] == 50 and "10 of 60 images left out" in found.attrs["notes"]
    assert (found["mean_error"] < 0.1).all()
    with pytest.raises(HVAEError, match="converged for no image"):
        posterior_agreement([spoilt, tree(truth, "hmc", half_noise=0.01, r_hat=np.full(IMAGES, 1.1))])


def test_what_cannot_be_compared_is_said(truth):
    sampler = tree(truth, "hmc", half_noise=0.01)
    with pytest.raises(HVAEError, match="no file is of a sampler"):
        posterior_agreement([tree(truth, "a"), tree(truth, "b")])
    other = tree(truth | {"x": truth["x"] + 1}, "other")
    with pytest.raises(HVAEError, match="other left out: its images are others"):
        posterior_agreement([sampler, other])
    without = tree(truth, "without")
    without["posterior_moments"] = without["posterior_moments"].to_dataset().drop_vars("z1_correlation")
    found = posterior_agreement([sampler, without, other])
    assert np.isnan(found["agreement"]).all() and "without: the sampler's file" in found.attrs["notes"]
    assert plot_posterior_agreement(found).caption


def test_convergence_of_a_file(truth):
    r_hat = np.where(np.arange(IMAGES) < 15, 1.2, 1.0)
    sampler = tree(truth, "hmc", half_noise=0.01, r_hat=r_hat)
    found = chain_convergence(sampler)
    assert (
        float(found["converged"].sel(set="natural")) == 0.75
        and "75% of the 60 natural images" in found.attrs["verdict"]
    )
    assert "not converged: images 0, 1, 2" in found.attrs["notes"]
    assert plot_chain_convergence(found).caption.startswith("The chains of the sampler have met for 75%")
    with pytest.raises(HVAEError, match="no weights"):
        trust(sampler)
    with pytest.raises(HVAEError, match="of a guide"):
        chain_convergence(tree(truth, "guide"))
    assert ANALYSES["chain_convergence"].missing(tree(truth, "guide")) == ["sample_stats/converged"]
