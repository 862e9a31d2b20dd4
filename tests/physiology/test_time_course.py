"""The time course of inference, against dynamics that are solved by hand."""

import numpy as np
import pytest
import torch
from planted_physiology import TIME, plant, planted_course
from small import small_pair

import pyro_hvae as hvae
from pyro_hvae.analysis import time_course
from pyro_hvae.errors import HVAEError
from pyro_hvae.physiology.time_course import langevin_means
from pyro_hvae.programs import LinearModel


def test_a_gaussian_posterior_relaxes_exponentially_unit_by_unit():
    """Orthogonal fields: E[z_t] = m + (1 - ε s² λ)^t (z_0 - m), λ = 1 + |a|² / sigma², m = a·(x - c) / (sigma² λ)."""
    torch.manual_seed(0)
    model = LinearModel(6, (3,), ("normal",), noise=0.5).double()
    with torch.no_grad():
        Q, _ = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64))
        model.to_image.weight.copy_(Q * torch.tensor([0.3, 0.8, 1.5]))
        x = torch.randn(2, 6, dtype=torch.float64)
        precision = 1 + model.A.square().sum(0) / model.sigma**2
        m = (x - model.to_image.bias) @ model.A / model.sigma**2 / precision
    chains, rate, times = 4000, 0.1, (0, 1, 3, 10, 40)
    start = {"z1": torch.full((chains, 2, 3), 1.5, dtype=torch.float64)}
    scale = {"z1": torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64)}
    found = langevin_means(model, x, start, scale, times=times, rate=rate)["z1"]
    factor = 1 - rate * scale["z1"].square() * precision
    for k, t in enumerate(times):
        expected = m + factor**t * (1.5 - m)
        variance = 2 * rate * scale["z1"].square() * (1 - factor ** (2 * t)) / (1 - factor.square())
        assert ((found[k] - expected).abs() <= 4 * (variance / chains).sqrt() + 1e-12).all(), t


def test_images_that_look_alike_to_a_unit_have_the_same_course():
    """One layer, orthogonal: what lies outside its field is nothing to a unit, and no chance stands between two images."""
    model = LinearModel(6, (3,), ("normal",), noise=0.5).double()
    with torch.no_grad():
        model.to_image.weight.copy_(torch.eye(6, 3))
    x = torch.tensor([[0.5, -1, 2, 1, 1, 1], [0.5, -1, 2, -1, -1, -1]], dtype=torch.float64)
    start = {"z1": torch.randn(8, 1, 3, dtype=torch.float64).expand(8, 2, 3)}
    found = langevin_means(model, x, start, {"z1": torch.ones(3) * 0.4}, times=(0, 5, 50), rate=0.1)["z1"]
    assert torch.equal(found[:, 0], found[:, 1]) and not torch.equal(found[1], found[2])


def test_what_is_not_finite_is_told():
    model = LinearModel(6, (3,), ("normal",), noise=0.5)
    start, scale = {"z1": torch.ones(4, 1, 3)}, {"z1": torch.ones(3)}
    with pytest.raises(HVAEError, match="z1 is not finite after 2 steps of the dynamics"):
        langevin_means(model, torch.full((1, 6), torch.nan), start, scale, times=(0, 2), rate=0.1)


def test_right_after_the_onset_no_unit_moves_farther_than_its_scale():
    model = LinearModel(6, (3,), ("normal",), noise=0.01)
    start, scale = {"z1": torch.zeros(2000, 1, 3)}, {"z1": torch.tensor([0.1, 0.2, 0.3])}
    moved = langevin_means(model, torch.full((1, 6), 100.0), start, scale, times=(0, 1), rate=0.1)["z1"][1]
    assert ((moved[0].abs() - scale["z1"]).abs() < 4 * (0.2 / 2000) ** 0.5 * scale["z1"]).all()


def test_planted_courses_are_found():
    tree = plant(40)
    for constant, induced in ((0.5, 0.5), (1.5, 0.0)):
        course = planted_course(40, np.random.default_rng(0), constant, induced)
        tree["time_course"] = course
        found = time_course(tree)
        assert found["latency"].item() == pytest.approx(constant * np.log(2), rel=0.06)
        assert found["early"].item() == pytest.approx(
            (1 - np.exp(-1 / constant)) / (1 - np.exp(-12 / constant)), rel=1e-6
        )
        assert found["induced"].item() == pytest.approx(induced, abs=1e-6)
        assert found["induced_n"].item() == 20 and TIME[0] == 0


def test_a_figure_that_is_answered_as_its_control_induces_nothing():
    tree = plant(40)
    course = planted_course(40, np.random.default_rng(0))
    illusory, rotated = (list(course["kind"].values).index(name) for name in ("illusory", "rotated"))
    course["z1_mean"][:, illusory] = course["z1_mean"][:, rotated]
    tree["time_course"] = course
    assert time_course(tree)["induced"].item() == 0


def test_it_is_a_part_of_the_measurement():
    vae = small_pair()
    images = np.random.default_rng(0).standard_normal((30, 16))
    tree = hvae.measure_physiology(vae, images=images, parts=["time_course"], draws=2)
    group = tree["time_course"]
    assert group["z1_mean"].dims == ("time", "image", "z1_unit") and group["z2_mean"].sizes["z2_unit"] == 3
    assert set(group["kind"].values) == {"natural", "illusory", "rotated", "disks", "complete", "line"}
    assert float(group["time"][0]) == 0 and np.isfinite(group["z1_mean"]).all()
    with_c = hvae.build("EA-LinearVAE20", pixels=16, dim_z1=6)
    with pytest.raises(HVAEError, match="every latent is a real number; c is positive"):
        hvae.measure_physiology(with_c, parts=["time_course"])
