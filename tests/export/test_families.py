"""Pairs with sites of other shapes and families than ours: exported with their own moments, or refused at the start."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from small import small_data
from torch import nn
from torch.distributions import kl_divergence

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.export.posterior import export_posterior

OPTIONS = dict(moment_draws=200, prior_samples=1)


class Pair(nn.Module):
    """p(z1) = ``prior``, q(z1 | x) = ``posterior`` of four numbers read from the image; x reads four numbers of z1."""

    pixels = 16

    def __init__(self, prior, posterior, read=lambda z: z):
        super().__init__()
        self.prior, self.posterior, self.read = prior, posterior, read
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(16, 4), nn.Linear(4, 16)


class Model(Pair):
    def forward(self, x=None):
        with pyro.plate("image", len(x), dim=-1):
            z = pyro.sample("z1", self.prior(x))
            return pyro.sample("x", dist.Normal(self.decoder(self.read(z)), 0.5).to_event(1), obs=x)


class Guide(Pair):
    def forward(self, x):
        with pyro.plate("image", len(x), dim=-1):
            pyro.sample("z1", self.posterior(self.encoder(x)))


def full_form(fn):
    """As a Normal with a covariance matrix, for which torch knows all divergences."""
    covariance = getattr(fn, "covariance_matrix", None)
    return dist.MultivariateNormal(fn.mean, torch.diag_embed(fn.variance) if covariance is None else covariance)


def pair(*args):
    return hvae.HVAE(Model(*args), Guide(*args))


LOWER = torch.tensor([[1.0, 0, 0, 0], [0.4, 0.7, 0, 0], [-0.3, 0.2, 0.9, 0], [0, 0.5, -0.2, 0.6]])


def full(h):
    return dist.MultivariateNormal(h, scale_tril=LOWER)


def low_rank(h):
    return dist.LowRankMultivariateNormal(h, LOWER[:, :2].expand(*h.shape, 2), torch.ones(h.shape))


def normal(x):
    return dist.Normal(x.new_zeros(4), 1.0).to_event(1)


def correlated(x):
    return dist.MultivariateNormal(x.new_zeros(4), torch.eye(4) + 0.3)


SITES = {
    "scalar": (
        lambda x: dist.Normal(x.new_zeros(()), 1.0),
        lambda h: dist.Normal(h[..., 0], 0.3),
        lambda z: z.unsqueeze(-1) * torch.ones(4),
    ),
    "to_event(2)": (
        lambda x: dist.Laplace(x.new_zeros(2, 2), 1.0).to_event(2),
        lambda h: dist.Laplace(h.unflatten(-1, (2, 2)), 0.3).to_event(2),
        lambda z: z.flatten(-2),
    ),
    "MultivariateNormal against independent ones": (normal, full),
    "MultivariateNormal against another": (correlated, full),
    "independent ones against a MultivariateNormal": (correlated, lambda h: dist.Normal(h, 0.3).to_event(1)),
    "LowRankMultivariateNormal": (normal, low_rank),
    "Bernoulli": (lambda x: dist.Bernoulli(x.new_full((4,), 0.2)).to_event(1), lambda h: dist.Bernoulli(logits=h).to_event(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SITES))
def test_moments_and_kl_are_those_of_the_distributions(name):
    vae, images = pair(*SITES[name]), small_data().test.isel(image=slice(8))
    tree = export_posterior(vae, images, **OPTIONS, draws=3, receptive_fields=4)
    x = torch.from_numpy(images["x"].values)
    with torch.no_grad():
        q, p = vae.guide.posterior(vae.guide.encoder(x)), vae.model.prior(x)
    found = tree["posterior_moments"]
    np.testing.assert_allclose(found["z1_mean"], q.mean.reshape(8, -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["z1_variance"], q.variance.reshape(8, -1), rtol=1e-4, atol=1e-5)
    sampled = "Multi" in name or "LowRank" in name  # torch has no closed form for them against the others
    exact = (
        kl_divergence(full_form(q), full_form(p.expand(q.batch_shape)))
        if sampled
        else kl_divergence(q, p.expand(q.batch_shape))
    )
    np.testing.assert_allclose(found["z1_kl"].sum("z1_dim"), exact, rtol=1e-4, atol=0.8 if sampled else 1e-4)
    assert found["z1_kl"].shape == found["z1_mean"].shape == (8, vae.latents["z1"])
    assert tree["posterior"]["z1"].shape == (1, 3, 8, vae.latents["z1"])
    assert tree["constant_data"]["z1_receptive_field"].shape == (vae.latents["z1"], 16)
    if name != "Bernoulli":
        rows = vae.guide.encoder.weight.detach()[: vae.latents["z1"]]
        np.testing.assert_allclose(tree["constant_data"]["z1_receptive_field"], rows, atol=1e-5)


def test_a_shape_changes_nothing_but_the_shape():
    flat = pair(lambda x: dist.Laplace(x.new_zeros(4), 1.0).to_event(1), lambda h: dist.Laplace(h, 0.3).to_event(1))
    ours, theirs = (
        export_posterior(vae, small_data(), **OPTIONS, draws=3) for vae in (flat, pair(*SITES["to_event(2)"]))
    )
    for group in ("posterior_moments", "posterior", "bound", "sample_stats", "posterior_predictive"):
        assert ours[group].to_dataset().equals(theirs[group].to_dataset()), group


def test_the_sampled_kl_of_two_full_normals_is_unbiased():
    vae, images = pair(*SITES["MultivariateNormal against another"]), small_data().test.isel(image=slice(4))
    found = export_posterior(vae, images, moment_draws=20_000, prior_samples=1, receptive_fields=0)
    x = torch.from_numpy(images["x"].values)
    with torch.no_grad():
        exact = kl_divergence(vae.guide.posterior(vae.guide.encoder(x)), vae.model.prior(x))
    np.testing.assert_allclose(found["posterior_moments"]["z1_kl"].sum("z1_dim"), exact, atol=0.08)


@pytest.mark.parametrize("name", ["scalar", "to_event(2)", "MultivariateNormal against another"])
def test_they_train_and_have_evidence(name):
    vae = pair(*SITES[name])
    before = vae.guide.encoder.weight.detach().clone()
    hvae.fit(vae, small_data(), steps=3, batch=20, progress=False, device="cpu")
    assert not torch.equal(before, vae.guide.encoder.weight)
    x = small_data().test["x"].values[:4]
    annealed = hvae.evidence_ais(vae.model, x, num_temperatures=200, num_chains=6, seed=0)["log_evidence"]
    if name == "to_event(2)":
        assert annealed.notnull().all()
        return
    with torch.no_grad():
        prior = full_form(vae.model.prior(torch.zeros(1)).expand((1,))) if name != "scalar" else None
        W = vae.model.decoder.weight @ (torch.ones(4, 1) if prior is None else prior.scale_tril[0])
        exact = dist.MultivariateNormal(vae.model.decoder.bias, W @ W.T + 0.25 * torch.eye(16)).log_prob(
            torch.from_numpy(x)
        )
    np.testing.assert_allclose(annealed, exact, atol=0.6)


@pytest.mark.parametrize("name", ["scalar", "to_event(2)"])
def test_refinement_raises_their_bound(name):
    vae, x = pair(*SITES[name]), small_data().test["x"].values[:5]
    plain, refined = (
        export_posterior(vae, x, moment_draws=400, prior_samples=1, receptive_fields=0, refine=steps)[
            "bound"
        ].elbo.values
        for steps in (0, 60)
    )
    assert (refined > plain - 0.5).all() and refined.mean() > plain.mean() + 0.5


def one_hot(x):
    return dist.OneHotCategorical(x.new_ones(4))


REFUSED = {
    "Categorical": (
        lambda x: dist.Categorical(x.new_ones(4)), lambda h: dist.Categorical(logits=h),
        lambda z: nn.functional.one_hot(z, 4).float(),
    ),
    "OneHotCategorical": (one_hot, lambda h: dist.OneHotCategorical(logits=h)),
    "Cauchy": (lambda x: dist.Cauchy(x.new_zeros(4), 1.0).to_event(1), lambda h: dist.Cauchy(h, 1.0).to_event(1)),
    "Dirichlet": (lambda x: dist.Dirichlet(x.new_ones(4)), lambda h: dist.Dirichlet(h.exp())),
    "RelaxedOneHotCategorical": (
        lambda x: dist.RelaxedOneHotCategorical(torch.tensor(0.5), x.new_ones(4)),
        lambda h: dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=h),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_a_file_cannot_hold_is_refused_at_the_start(name, tmp_path, monkeypatch):
    from pyro_hvae.export.moments import Moments

    vae = pair(*REFUSED[name])
    monkeypatch.setattr(Moments, "of", lambda *a: pytest.fail("computed"))
    with pytest.raises(HVAEError, match=f"site z1 of the guide is a {name}"):
        export_posterior(vae, small_data(), path=tmp_path / "p.nc", **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_what_is_refused_can_be_trained():
    vae = pair(*REFUSED["Categorical"])
    before = vae.guide.encoder.weight.detach().clone()
    hvae.fit(vae, small_data(), steps=2, batch=20, objective=infer.Trace_ELBO(), progress=False, device="cpu")
    assert not torch.equal(before, vae.guide.encoder.weight)
    assert hvae.evidence_importance_sampling(vae, small_data().test, 50)["log_evidence"].notnull().all()


def test_an_image_without_moments_is_refused():
    class Heavy(Model):
        def forward(self, x=None):
            with pyro.plate("image", len(x), dim=-1):
                z = pyro.sample("z1", self.prior(x))
                return pyro.sample("x", dist.Cauchy(self.decoder(z), 0.5).to_event(1), obs=x)

    guide = Guide(normal, lambda h: dist.Normal(h, 0.3).to_event(1))
    with pytest.raises(HVAEError, match="site x of the model is a Cauchy"):
        export_posterior(hvae.HVAE(Heavy(normal, None), guide), small_data(), **OPTIONS)
