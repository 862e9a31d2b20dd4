"""Planted bounds come back, each set on its own."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis import bound_terms, collect
from pyro_hvae.analysis.bound_terms import plot_bound_terms
from pyro_hvae.storage.posterior_file import open_posterior


def test_terms_of_each_set_are_the_planted_ones(planted):
    with open_posterior(planted.path) as tree:
        found = bound_terms(tree)
        elbo = tree["bound"]["elbo"].values.astype(float)[: planted.natural]
    for name, mean in (("natural", -100.0), ("texture", -130.0)):
        here = found.sel(set=name, term="reconstruction")
        assert abs(here["bound"] - mean) < 4 * here["bound_se"]
        assert here["bound_se"].item() == pytest.approx(5 / np.sqrt(300), rel=0.2)
    here = found.sel(set="natural", term="elbo")
    assert here["bound"].item() == pytest.approx(elbo.mean())
    assert here["bound_se"].item() == pytest.approx(elbo.std(ddof=1) / np.sqrt(300))
    assert list(found["term"].values) == ["elbo", "reconstruction", "z1_kl", "z2_kl"]
    np.testing.assert_allclose(found["imbalance"], 0, atol=1e-3)


def test_terms_that_do_not_add_up_show(planted, edit):
    def spoil(tree: xr.DataTree) -> None:
        tree["bound"]["elbo"] = tree["bound"]["elbo"] + 2.0

    with open_posterior(edit(planted.path, spoil)) as tree:
        np.testing.assert_allclose(bound_terms(tree)["imbalance"], 2.0, atol=1e-3)


def test_unlabelled_images_count_as_natural(plant):
    with open_posterior(plant(labels=False).path) as tree:
        assert list(bound_terms(tree)["set"].values) == ["natural"]


def test_evidence_stands_beside_the_bound(planted, edit):
    """Evidence 3 nats above the ELBO of every other image, k-hat below 0.7 for half of those."""

    def add(tree):
        elbo = tree["bound"]["elbo"].values
        known = np.arange(elbo.size) % 2 == 0
        k = np.where(np.arange(elbo.size) % 4 == 0, 0.5, 0.9)
        evidence = {"log_evidence": elbo + 3.0, "standard_error": 0.1 + 0 * elbo, "ess": 50 + 0 * elbo, "pareto_k": k}
        rows = {name: ("image", np.where(known, values, np.nan)) for name, values in evidence.items()}
        attrs = {"estimator": "importance sampling", "num_particles": 500, "images": int(known.sum())}
        tree["evidence"] = xr.DataTree(xr.Dataset(rows, attrs=attrs))

    with open_posterior(edit(planted.path, add)) as tree:
        found = bound_terms(tree)
        elbo = tree["bound"]["elbo"].values[: planted.natural : 2].astype(float)
    np.testing.assert_allclose(found["evidence_gap"], 3.0, atol=1e-4)
    assert found["evidence"].sel(set="natural").item() == pytest.approx(elbo.mean() + 3.0, rel=1e-6)
    np.testing.assert_array_equal(found["evidence_n"], [150, 150])
    np.testing.assert_allclose(found["evidence_trusted"].sel(set="natural"), 0.5)
    assert "log evidence of 300 images by importance sampling (500 samples an image)" in found.attrs["notes"]
    assert "not below 0.7 for 150 of 300 images; there it is only a lower bound" in found.attrs["notes"]
    names = {entry["name"] for entry in collect(found)}
    assert {"bound[natural, elbo]", "evidence[texture]", "evidence_trusted[natural]"} <= names
    caption = plot_bound_terms(found).caption
    assert "Dash: log evidence, of 300 images, a lower bound only for 150 of them" in caption
