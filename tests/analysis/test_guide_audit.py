"""Audits with planted truth: the guide's correlations are a known mixture of the true ones and others."""

import io
import re
import sys

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis.guide_audit import guide_audit, plot_guide_audit
from pyro_hvae.analysis.results import collect
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.audit_file import SCHEMA, SCHEMA_VERSION, open_audit, write_audit

UNITS = 12
PAIRS = UNITS * (UNITS - 1) // 2


def matrices(coefficients):
    """``(..., pair)`` to symmetric ``(..., unit, unit)`` with a diagonal of ones."""
    i, j = np.triu_indices(UNITS, 1)
    full = np.zeros((*coefficients.shape[:-1], UNITS, UNITS))
    full[..., i, j] = full[..., j, i] = coefficients
    return full + np.eye(UNITS)


def plant(
    images=60, real=0.5, size=0.6, noise=0.05, guide_noise=0.02, narrow=0.5, shift=0.3, seed=0, r_hat=None, k=0.2
):
    """True coefficients have s.d. 0.2 over pairs; the guide's are ``size`` times them, and other ones beside, such that
    ``real`` of their variance is of the truth. ``narrow`` is the guide's s.d. over the true, ``shift`` the error of its
    means in true s.d. The resampled guide is the truth."""
    rng = np.random.default_rng(seed)
    truth, other = 0.2 * rng.normal(size=(2, images, PAIRS))
    guide = size * truth + (size * np.sqrt((1 - real) / real) * other if real else 0)
    if real == 0:
        guide = size * other
    sd = {"z1": np.exp(0.3 * rng.normal(size=(images, 20))), "z2": np.exp(0.3 * rng.normal(size=(images, 3)))}
    mean = {site: rng.normal(size=s.shape) for site, s in sd.items()}
    sign = {site: rng.choice([-1, 1], size=s.shape) for site, s in sd.items()}

    def source(coefficients, noise, narrow, shift):
        halves = coefficients + noise * np.sqrt(2) * rng.normal(size=(2, *coefficients.shape))
        made = {"z1_correlation": (("half", "image", "unit", "unit_bis"), matrices(halves))}
        for site in sd:
            dims = ("half", "image", f"{site}_dim")
            both = np.broadcast_to(mean[site] + shift * sign[site] * sd[site], (2, *sd[site].shape))
            made[f"{site}_mean"] = dims, both
            made[f"{site}_variance"] = dims, np.broadcast_to((narrow * sd[site]) ** 2, both.shape)
        units = np.arange(UNITS)
        return xr.Dataset(made, {"unit": units, "unit_bis": units})

    per_image = np.ones(images)
    groups = {
        "guide": source(guide, guide_noise, narrow, shift),
        "resampled": source(truth, noise, 1, 0).assign(
            ess=("image", 50 * per_image), pareto_k=("image", k * per_image)
        ),
        "reference": source(truth, noise, 1, 0).assign(
            ess=("image", 500 * per_image), r_hat=("image", 1.001 * per_image if r_hat is None else r_hat)
        ),
        "observed_data": xr.Dataset({"x": (("image", "pixel"), rng.normal(size=(images, 9)))}),
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "model": "MarkovModel", "reference": "gibbs"}
    return tree


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.2])
@pytest.mark.parametrize("real", [0.0, 0.3, 1.0])
def test_real_share_and_size_are_those_planted_however_noisy_the_reference(real, noise):
    found = guide_audit(plant(images=200, real=real, noise=noise, guide_noise=noise / 2))
    guide = found.sel(source="guide")
    assert abs(guide["real"] - real) < 4 * guide["real_se"] + 1e-9
    assert abs(guide["slope"] - (0.6 if real else 0)) < 4 * guide["slope_se"]
    resampled = found.sel(source="resampled")
    assert (
        abs(resampled["real"] - 1) < 4 * resampled["real_se"]
        and abs(resampled["slope"] - 1) < 4 * resampled["slope_se"]
    )


def test_agreement_reaches_the_ceiling_only_without_noise_of_its_own():
    found = guide_audit(plant(images=300, real=1.0, noise=0.1, guide_noise=0.0))
    # true s.d. 0.2, noise 0.1: reliability 0.04 / 0.05
    assert float(found["reference_reliability"].mean()) == pytest.approx(0.8, abs=0.02)
    assert float(found["ceiling"][0]) == pytest.approx(0.8**0.5, abs=0.01)
    assert float(found["agreement"].sel(source="guide")) == pytest.approx(0.8**0.5, abs=0.01)
    assert float(found["agreement"].sel(source="resampled")) == pytest.approx(0.8, abs=0.02)
    assert float(found["image_reliability"].sel(source="guide").mean()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["real", "slope", "agreement"])
def test_standard_errors_are_the_spread_over_repetitions(name):
    found = [guide_audit(plant(images=40, noise=0.1, seed=seed)).sel(source="guide") for seed in range(60)]
    spread = np.std([float(f[name]) for f in found], ddof=1)
    assert spread / np.mean([float(f[f"{name}_se"]) for f in found]) == pytest.approx(1, abs=0.35)


def test_means_and_spreads():
    found = guide_audit(plant(narrow=0.5, shift=0.3)).sel(source="guide")
    for site in ("z1", "z2"):
        assert float(found[f"{site}_mean_error"]) == pytest.approx(0.3)
        assert float(found[f"{site}_log_sd_ratio"]) == pytest.approx(np.log(0.5))
    exact = guide_audit(plant()).sel(source="resampled")
    assert float(exact["z1_mean_error"]) == 0 and float(exact["z1_log_sd_ratio"]) == 0


def test_images_whose_chains_did_not_meet_are_left_out():
    r_hat = np.ones(60)
    r_hat[:20] = 1.3
    tree = plant(r_hat=r_hat)
    spoilt = tree.copy()
    group = tree["guide"].to_dataset()
    coefficients = group["z1_correlation"].values.copy()
    coefficients[:, :20] = matrices(np.random.default_rng(1).normal(size=(2, 20, PAIRS)))
    spoilt["guide"] = group.assign(z1_correlation=(group["z1_correlation"].dims, coefficients))
    found, same = guide_audit(spoilt), guide_audit(tree)
    assert found["agreement_n"][0] == 40 and "20 of 60 images left out" in found.attrs["notes"]
    xr.testing.assert_identical(found["real"], same["real"])
    assert found["converged"].sum() == 40
    with pytest.raises(HVAEError, match="converged for none of 60"):
        guide_audit(plant(r_hat=np.full(60, 1.2)))
    assert guide_audit(plant(r_hat=np.full(60, 1.2)), max_r_hat=1.3)["agreement_n"][0] == 60


def test_a_guide_without_correlations_is_said_to_have_none():
    found = guide_audit(plant(size=0.0, real=1.0, guide_noise=0.0))
    assert "guide: z1 is independent" in found.attrs["notes"]
    assert np.isnan(found["agreement"].sel(source="guide")) and np.isnan(found["real"].sel(source="guide"))
    assert float(found["slope"].sel(source="guide")) == 0
    legend = [text.get_text() for text in plot_guide_audit(found).figure.axes[5].get_legend().get_texts()]
    assert legend == ["resampled", "ceiling"]


def test_bad_weights_are_noted():
    for k in (0.9, 0.7, np.nan):
        said = "resampled: Pareto k-hat is not below 0.7 for 60 of 60 images: not to be trusted"
        assert guide_audit(plant(k=k)).attrs["notes"] == said
    assert guide_audit(plant(k=0.69)).attrs["notes"] == ""


def test_figure_and_numbers():
    found = guide_audit(plant(images=5))
    entries = {entry["name"]: entry for entry in collect(found)}
    assert entries["real[guide]"]["n"] == 5 and entries["real[guide]"]["se"] > 0
    picture = plot_guide_audit(found)
    assert re.search(r"n = 5 images, 66 pairs", picture.caption)
    buffer = io.BytesIO()
    picture.figure.savefig(buffer)
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_file_there_and_back(tmp_path):
    tree = plant(images=3)
    path = tmp_path / "audit.nc"
    write_audit(tree, path)
    with open_audit(path) as opened:
        xr.testing.assert_allclose(guide_audit(opened)["real"], guide_audit(tree)["real"])
    with pytest.raises(HVAEError, match="overwrite=True"):
        write_audit(tree, path)
    write_audit(tree, path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["audit.nc"]


def test_errors(tmp_path):
    tree = plant(images=2)
    del tree["guide"]["z1_correlation"]
    with pytest.raises(HVAEError, match="guide/z1_correlation is missing"):
        guide_audit(tree)
    with pytest.raises(HVAEError, match="is no audit"):
        guide_audit(xr.DataTree())
    with pytest.raises(HVAEError, match="no directory"):
        write_audit(plant(images=2), tmp_path / "absent" / "audit.nc")
    with pytest.raises(HVAEError, match=r"ends in \.nc"):
        write_audit(plant(images=2), tmp_path / "audit.zarr")
    (tmp_path / "damaged.nc").write_bytes(b"CDF")
    with pytest.raises(HVAEError, match="damaged"):
        open_audit(tmp_path / "damaged.nc")
    two = plant(images=2)
    for group in ("guide", "resampled", "reference"):
        two[group] = two[group].to_dataset().isel(unit=[0, 1], unit_bis=[0, 1])
    with pytest.raises(HVAEError, match="at least 3"):
        guide_audit(two)


def test_no_torch_is_imported():
    import subprocess

    code = "import sys, pyro_hvae.analysis.guide_audit; sys.exit('torch' in sys.modules or 'pyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
