"""A planted split of the gap comes back by part, with its standard errors, its sentence and its warnings."""

import numpy as np
import pytest
from planted import add_gap

from pyro_hvae.analysis.inference_gap import inference_gap, plot_inference_gap
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import open_posterior


def test_planted_parts_come_back_with_their_errors(planted, edit):
    with open_posterior(edit(planted.path, add_gap)) as tree:
        found = inference_gap(tree)
    assert found["set"].values.tolist() == ["natural"]  # the gap was split for natural images only
    np.testing.assert_allclose(found["gap"].sel(set="natural"), [0.5, 3.0, 0.25, 1.0], rtol=1e-6)
    # values are 0 or twice the mean, half of each: standard deviation = mean x sqrt(40 / 39)
    np.testing.assert_allclose(found["gap_se"].sel(set="natural"), np.array([0.5, 3.0, 0.25, 1.0]) / 39**0.5, rtol=1e-6)
    assert found["total"].item() == pytest.approx(4.75) and found["total_se"].item() == pytest.approx(4.75 / 39**0.5)
    assert (found["gap_n"] == 40).all() and found["total_n"].item() == 40
    expected = "Of 4.8 nats between the ELBO and log p(x), 3.0 are due to the amortisation of the layers above."
    assert found.attrs["verdict"] in (expected, expected.replace("4.8", "4.7"))
    picture = plot_inference_gap(found)
    assert "n = 40 natural images" in picture.caption and found.attrs["verdict"] in picture.caption
    widths = sorted(bar.get_width() for bar in picture.figure.axes[0].patches)
    np.testing.assert_allclose(widths, [0.25, 0.5, 1.0, 3.0], rtol=1e-6)


def test_natural_and_texture_images_stand_apart(planted, edit):
    def change(tree):
        add_gap(tree, images=tree["bound"].sizes["image"])
        tree["gap"]["family_z1"] = tree["gap"]["family_z1"] + 7.0 * (
            np.arange(tree["bound"].sizes["image"]) >= planted.natural
        )

    with open_posterior(edit(planted.path, change)) as tree:
        found = inference_gap(tree)
    assert found["set"].values.tolist() == ["natural", "texture"]
    assert found["gap"].sel(part="family_z1").values == pytest.approx([0.25, 7.25])


def test_what_cannot_be_trusted_or_split_is_said(planted, edit):
    def change(tree):
        add_gap(tree)
        tree["gap"]["pareto_k"][:3] = [0.71, 1.2, np.inf]
        tree["gap"].attrs["family"] = "merged in family_z1"

    with open_posterior(edit(planted.path, change)) as tree:
        notes = inference_gap(tree).attrs["notes"]
    assert "Pareto k-hat is not below 0.7 for 3 of 40 images" in notes and "not split by layer" in notes

    def none(tree):
        add_gap(tree, images=0)

    with open_posterior(edit(planted.path, none, "none.nc")) as tree, pytest.raises(HVAEError, match="--gap N"):
        inference_gap(tree)
