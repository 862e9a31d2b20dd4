"""Sweeps and numbers of particles set the planted counts and bounds side by side."""

import numpy as np
import pytest

from pyro_hvae.analysis import active_dimensions, bound_terms
from pyro_hvae.errors import HVAEError
from pyro_hvae.report import active_by_size, bound_by_particles
from pyro_hvae.report.comparisons import plot_active_by_size, plot_bound_by_particles
from pyro_hvae.storage.posterior_file import open_posterior

SMALL = {"natural": 40, "train": 6, "test": 6, "units": 0, "draws": 0}


def results(plant, function, truths):
    found = []
    for k, truth in enumerate(truths):
        with open_posterior(plant(f"{function.__name__}-{len(truths)}-{k}.nc", **SMALL, **truth).path) as tree:
            found.append(function(tree))
    return found


def test_counts_of_a_sweep_are_the_planted_ones(plant):
    truths = [{"z2_active": a, "z2_collapsed": c, "seed": a} for a, c in ((5, 7), (3, 2), (5, 15))]
    found = active_by_size(results(plant, active_dimensions, truths))
    np.testing.assert_array_equal(found["size"], [5, 12, 20])
    np.testing.assert_array_equal(found["z2"], [3, 5, 5])
    np.testing.assert_array_equal(found["z1"], [70] * 3)
    np.testing.assert_array_equal(found["sum"], [73, 75, 75])
    assert found["label"].values.tolist() == ["MarkovModel, TopDownGuide"] * 3
    assert "n = 3 models" in plot_active_by_size(found).caption
    with pytest.raises(HVAEError, match="one size of z2"):
        active_by_size(results(plant, active_dimensions, [{}, {"seed": 1}]))


def test_several_seeds_at_one_size_are_points_with_a_line_through_their_mean(plant):
    truths = [{"z2_active": a, "z2_collapsed": c, "seed": a} for a, c in ((5, 7), (3, 2), (2, 10), (5, 15))]
    found = active_by_size(results(plant, active_dimensions, truths))
    figure = plot_active_by_size(found).figure
    for axis, expected in zip(figure.axes, ([3, 3.5, 5], [70] * 3, [73, 73.5, 75]), strict=True):
        points = next(line for line in axis.lines if line.get_marker() == "o")
        assert points.get_linestyle() == "None" and len(points.get_xdata()) == 4 and not points.get_clip_on()
        (mean,) = (line for line in axis.lines if line.get_linestyle() == "-")
        np.testing.assert_array_equal(mean.get_xdata(), [5, 12, 20])
        np.testing.assert_allclose(mean.get_ydata(), expected)
        assert axis.get_ylim()[1] > 1.05 * max(points.get_ydata())


def test_bounds_stand_at_their_number_of_particles(plant):
    each = results(
        plant, bound_terms, [{"particles": 10}, {"particles": 1, "seed": 3}, {"particles": 50, "families": ()}]
    )
    found = bound_by_particles(each)
    np.testing.assert_array_equal(found["particles"], [1, 10, 50])
    for place, source in ((0, 1), (1, 0), (2, 2)):
        at = found.isel(file=place).sel(set="natural", term="elbo")
        assert at["bound"] == each[source]["bound"].sel(set="natural", term="elbo")
        assert at["bound_se"] == each[source]["bound_se"].sel(set="natural", term="elbo")
    assert np.isnan(found["bound"].isel(file=2).sel(set="texture")).all()
    assert found["term"].values.tolist() == ["elbo", "reconstruction", "z1_kl", "z2_kl"]
    picture = plot_bound_by_particles(found)
    assert [axis.get_title() for axis in picture.figure.axes] == ["ELBO", "E[log p(x|z)]", "KL of z1", "KL of z2"]
    assert [tick.get_text() for tick in picture.figure.axes[0].get_xticklabels()] == ["1", "10", "50"]
    natural = picture.figure.axes[0].containers[0][0]
    np.testing.assert_array_equal(natural.get_xdata(), [1, 10, 50])
    np.testing.assert_allclose(
        natural.get_ydata(), [each[k]["bound"].sel(set="natural", term="elbo") for k in (1, 0, 2)]
    )
    assert "n = 3 models, up to 40 images each." in picture.caption
    with pytest.raises(HVAEError, match="one number of particles"):
        bound_by_particles(each[:1])
