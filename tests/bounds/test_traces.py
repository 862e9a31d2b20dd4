"""What a per-image bound needs of a pair, and the error that names site and mend where it is missing."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from quadrature import affine_model, images_of, linear_gaussian_posterior, near_exact_guide, tiny_pair

from pyro_hvae.bounds.objectives import ELBO, ImportanceWeightedELBO, RenyiELBO
from pyro_hvae.bounds.traces import check_layout, log_prob, log_weights, sample_sites, trace_pair
from pyro_hvae.errors import HVAEError


def normal(dim, *batch):
    return dist.Normal(torch.zeros(*batch, dim), 1.0).to_event(1)


def good_model(x):
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z", normal(2))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), 3]).to_event(1), obs=x)


def good_guide(x):
    with pyro.plate("image", len(x), dim=-1):
        pyro.sample("z", normal(2, len(x)))


def outside_model(x):
    z = pyro.sample("z", normal(2))
    with pyro.plate("image", len(x), dim=-1):
        pyro.sample("x", dist.Normal(z.sum() + torch.zeros(len(x), 3), 1.0).to_event(1), obs=x)


def outside_guide(x):
    pyro.sample("z", normal(2))


def event_model(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))
    pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, 3), 1.0).to_event(2), obs=x)


def event_guide(x):
    pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))


def event_x_model(x):
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z", normal(2))
    pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, 3), 1.0).to_event(2), obs=x)


def pixel_plate_model(x):
    with pyro.plate("image", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
        with pyro.plate("pixel", 3, dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def pixel_plate_guide(x):
    with pyro.plate("image", len(x), dim=-2):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))


def pixels_inside_model(x):
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z", normal(2))
    with pyro.plate("pixel", 3, dim=-1):
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, 3), 1.0), obs=x)


def two_plates_guide(x):
    with pyro.plate("picture", len(x), dim=-1):
        pyro.sample("z", normal(2))


def more_sites_guide(x):
    good_guide(x)
    with pyro.plate("image2", len(x), dim=-1):
        pyro.sample("y", normal(2))


def no_observation(x):
    with pyro.plate("image", len(x), dim=-1):
        pyro.sample("z", normal(2))


def sequential_model(x):
    for i in pyro.plate("image", len(x)):
        z = pyro.sample(f"z{i}", normal(2))
        pyro.sample(f"x{i}", dist.Normal(z.sum(), 1.0).expand([3]).to_event(1), obs=x[i])


def sequential_guide(x):
    for i in pyro.plate("image", len(x)):
        pyro.sample(f"z{i}", normal(2))


def eventless_model(x):
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z", normal(2))
        with poutine.scale(scale=1.0):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])


def ignores_particles_guide(x):
    with pyro.plate("image", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def ignores_particles_model(x):
    """Picks the first particle's value: right for K = 1 only."""
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z", normal(2))
        z = z if z.dim() == 2 else z.reshape(-1, 2)
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, 3), 1.0).to_event(1), obs=x)


BAD = [
    (outside_model, outside_guide, r"site z of the model is outside the image plate \(event shape \(2,\)\)"),
    (event_model, event_guide, r"site z of the model is outside the image plate.*instead of the images in the event"),
    (event_x_model, good_guide, r"site x of the model is outside the image plate"),
    (good_model, outside_guide, "site z of the guide is outside the image plate"),
    (pixel_plate_model, pixel_plate_guide, r"site z of the model is inside 'image' \(dim -2\): one plate over images"),
    (pixels_inside_model, good_guide, r"site x of the model is in plate 'pixel' of 3 images, an earlier site in 'image' of 5"),
    (good_model, two_plates_guide, r"site z of the guide is in plate 'picture' of 5 images.*one image plate"),
    (good_model, more_sites_guide, r"same latent sites; only one has y"),
    (no_observation, good_guide, "observes nothing"),
    (sequential_model, sequential_guide, "outside the image plate"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "guide", "message"), BAD, ids=lambda a: getattr(a, "__name__", ""))
@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), ImportanceWeightedELBO(4), RenyiELBO(0.5, 4)], ids=str)
def test_what_cannot_be_split_by_image_is_an_error(objective, model, guide, message):
    x = torch.randn(5, 3)
    with pytest.raises(HVAEError, match=message):
        objective.evaluate(model, guide, x)


def test_a_program_that_does_not_take_particles_is_an_error():
    x = torch.randn(5, 3)
    ELBO().evaluate(ignores_particles_model, ignores_particles_guide, x)
    with pytest.raises((HVAEError, ValueError, RuntimeError), match=r"[Ss]hape"):
        ImportanceWeightedELBO(4).evaluate(ignores_particles_model, ignores_particles_guide, x)


def test_batch_shape_that_pyro_lets_pass():
    """One value an image without event is allowed; a feature dimension to the right of the images is not."""
    x = torch.randn(5, 3)
    assert ELBO(2).evaluate(eventless_model, good_guide, x).bound.shape == (5,)

    def features_right(x):
        with pyro.plate("image", 5, dim=-1):
            z = pyro.sample("z", normal(2))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([5, 5]), obs=x @ torch.ones(3, 5))

    with (
        pyro.validation_enabled(False),
        pytest.raises(HVAEError, match=r"site x of the model has batch shape \(5, 5\), expected \(5,\) = \(image,\)"),
    ):
        ELBO().evaluate(features_right, good_guide, x)


def test_particles_are_fresh_and_images_aligned():
    vae = tiny_pair("markov", "top_down")
    x = images_of(vae, 5)
    pair = trace_pair(vae.model, vae.guide, (x,), {}, 3)
    check_layout(pair)
    assert {n: tuple(s["value"].shape) for n, s in pair.latents.items()} == {"z2": (3, 5, 1), "z1": (3, 5, 1)}
    z = pair.latents["z1"]["value"]
    assert len(z.unique()) == 15
    for name, site in sample_sites(pair.guide, observed=False).items():
        assert torch.equal(site["value"], pair.latents[name]["value"])
        assert log_prob(site).shape == (3, 5)
    assert pair.multiplier == 1.0


def test_two_observed_sites():
    def model(x):
        with pyro.plate("image", len(x), dim=-1):
            z = pyro.sample("z", normal(2))
            pyro.sample("left", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x[:, :1])
            pyro.sample("right", dist.Normal(z, 1.0).to_event(1), obs=x[:, 1:])

    evaluation = ELBO().evaluate(model, good_guide, torch.randn(5, 3))
    assert set(evaluation.terms) == {"left", "right", "z"}


def test_log_weights_are_the_importance_weights():
    """E w = p(x), and each is log p(x, z) - log q(z | x) of its own draw."""
    model = affine_model(2, seed=4)
    guide = near_exact_guide(model, inflation=1.3)
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        log_w = log_weights(model, guide, x, 20_000)
    assert log_w.shape == (20_000, 3)
    evidence = torch.as_tensor(linear_gaussian_posterior(model, x)[0])
    w = (log_w - evidence).exp()
    assert ((w.mean(0) - 1).abs() < 4 * w.std(0) / 20_000**0.5).all()
    assert log_weights(model, guide, x, 1).shape == (1, 3)


def test_log_weights_check_the_layout():
    with pytest.raises(HVAEError, match="outside the image plate"):
        log_weights(outside_model, outside_guide, torch.randn(5, 3), 4)
