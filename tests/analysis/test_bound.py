"""Planted bounds come back, each set on its own."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis import bound_terms, open_posterior
from pyro_hvae.analysis.bound import plot_bound_terms


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
    """Evidence 3 nats above every ELBO, k-hat below 0.7 for a quarter of the images."""

    def add(tree):
        elbo = tree["bound"]["elbo"].values
        k = np.where(np.arange(elbo.size) % 4 == 0, 0.5, 0.9)
        evidence = {"log_evidence": elbo + 3.0, "standard_error": 0.1 + 0 * elbo, "pareto_k": k}
        tree["evidence"] = xr.DataTree(xr.Dataset({name: ("image", values) for name, values in evidence.items()}))

    with open_posterior(edit(planted.path, add)) as tree:
        found = bound_terms(tree)
    np.testing.assert_allclose(found["evidence_gap"], 3.0, atol=1e-4)
    np.testing.assert_allclose(found["evidence"], found["bound"].sel(term="elbo") + 3.0, rtol=1e-6)
    np.testing.assert_allclose(found["evidence_trusted"].sel(set="natural"), 0.25)
    assert "Dash: log evidence" in plot_bound_terms(found).caption
