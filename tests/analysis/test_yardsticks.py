"""Planted differences to yardsticks come back, paired, and the sentence says which are beaten."""

import numpy as np
import pytest
import xarray as xr

from pyro_hvae.analysis import bound_terms, collect
from pyro_hvae.analysis.bound_terms import plot_bound_terms
from pyro_hvae.analysis.yardsticks import verdict
from pyro_hvae.storage.posterior_file import open_posterior

NAMES = ["Gaussian", "GSM", "mixture of GSMs"]
ABOVE = np.array([30.0, 0.0, -12.0])  # how far the ELBO lies above them
KNOWN = 200  # natural images, the first ones, that the yardsticks are about


def add_yardsticks(tree, evidence=False):
    elbo = tree["bound"]["elbo"].values.astype(float)
    noise = np.random.default_rng(0).normal(size=(3, elbo.size))
    noise -= noise[:, :KNOWN].mean(1, keepdims=True) * np.array([[1], [1], [0]])
    density = elbo - ABOVE[:, None] + noise
    density[:, KNOWN:] = np.nan
    tree["yardsticks"] = xr.DataTree(
        xr.Dataset({"log_density": (("yardstick", "image"), density)}, {"yardstick": NAMES}, {"sigma": 0.4})
    )
    if evidence:
        log_p = np.where(np.arange(elbo.size) % 2 == 0, elbo + 5.0, np.nan)
        rows = {"log_evidence": log_p, "standard_error": 0 * elbo + 0.1, "ess": 0 * elbo + 50, "pareto_k": 0 * elbo}
        tree["evidence"] = xr.DataTree(xr.Dataset({name: ("image", row) for name, row in rows.items()}))


def test_differences_are_paired_and_over_the_images_that_have_both(planted, edit):
    with open_posterior(edit(planted.path, add_yardsticks)) as tree:
        found = bound_terms(tree)
        density = tree["yardsticks"]["log_density"].values[:, :KNOWN].astype(float)
        difference = tree["bound"]["elbo"].values[:KNOWN].astype(float) - density
    assert list(found["yardstick"].values) == NAMES and (found["elbo_minus_yardstick_n"] == KNOWN).all()
    np.testing.assert_allclose(found["yardstick_log_density"], density.mean(1), rtol=1e-6)
    np.testing.assert_allclose(found["elbo_minus_yardstick"], difference.mean(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["elbo_minus_yardstick"], ABOVE, atol=4 / np.sqrt(KNOWN))
    # Images differ by many nats; a paired difference does not feel that.
    np.testing.assert_allclose(found["elbo_minus_yardstick_se"], 1 / np.sqrt(KNOWN), rtol=0.2)
    assert (found["yardstick_log_density_se"] > 3 * found["elbo_minus_yardstick_se"]).all()
    (note,) = (line for line in found.attrs["notes"].splitlines() if "By its ELBO" in line)
    assert note == (
        "By its ELBO (nats an image) the model beats Gaussian (+30.0 ± 0.1); does not beat mixture of GSMs "
        f"({difference[2].mean():.1f} ± 0.1); cannot be told apart from GSM (+0.0 ± 0.1) (200 images)"
    ).replace("(-", "(\u2212").replace("+0.0", "+0.0" if difference[1].mean() >= 0 else "\u22120.0")
    assert {"elbo_minus_yardstick[GSM]", "yardstick_log_density[Gaussian]"} <= {e["name"] for e in collect(found)}


def test_evidence_stands_beside_the_yardsticks(planted, edit):
    with open_posterior(edit(planted.path, lambda tree: add_yardsticks(tree, evidence=True))) as tree:
        found = bound_terms(tree)
    np.testing.assert_allclose(found["evidence_minus_yardstick"], ABOVE + 5, atol=4 / np.sqrt(KNOWN / 2))
    assert (found["evidence_minus_yardstick_n"] == KNOWN // 2).all()
    assert "By its log evidence (nats an image) the model beats Gaussian" in found.attrs["notes"]
    picture = plot_bound_terms(found)
    assert "ELBO (dots) and log evidence (diamonds) less the log density of the same natural images" in picture.caption
    labels = [label.get_text() for label in picture.figure.axes[-1].get_yticklabels()]
    assert [label.rsplit("  ", 1)[0] for label in labels] == NAMES


def test_files_without_yardsticks_are_as_they_were(planted, edit):
    def blank(tree):
        add_yardsticks(tree)
        tree["yardsticks"]["log_density"] = tree["yardsticks"]["log_density"] * np.nan

    with open_posterior(planted.path) as tree, open_posterior(edit(planted.path, blank)) as without:
        for found in (bound_terms(tree), bound_terms(without)):
            assert "yardstick" not in found.dims and "yardstick" not in found.attrs["notes"]
            assert len(plot_bound_terms(found).figure.axes) == 4


@pytest.mark.parametrize(
    ("difference", "se", "says"),
    [
        ([3.0, 2.0], [0.1, 0.1], "beats a (+3.0 ± 0.1), b (+2.0 ± 0.1)"),
        ([-3.0, 0.1], [0.1, 0.1], "does not beat a (\u22123.0 ± 0.1); cannot be told apart from b (+0.1 ± 0.1)"),
        ([1.0, 1.0], [np.nan, 0.4], "beats b (+1.0 ± 0.4); cannot be told apart from a (+1.0 ± nan)"),
    ],
)
def test_verdict(difference, se, says):
    assert (
        verdict("ELBO", ["a", "b"], np.array(difference), np.array(se))
        == f"By its ELBO (nats an image) the model {says}"
    )
