"""Programs as users write them: what they may contain, and what is refused, with the reason, when a pair is made of them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from small import small_data
from torch import nn
from user_programs import Guide, Model

import pyro_hvae as hvae
from pyro_hvae import HVAE, HVAEError

OBJECTIVES = [
    hvae.ELBO(),
    hvae.ELBO(3),
    hvae.ImportanceWeightedELBO(3),
    hvae.ImportanceWeightedELBO(3, gradient="dreg"),
]


def seeded(make):
    torch.manual_seed(0)
    return make()


class Recording(Model):
    """Notes the mean of the image, and something of the whole batch."""

    event_dim: int | None = 1

    def image_mean(self, z):
        pyro.deterministic("norm", z.norm(dim=-1), event_dim=0)
        return pyro.deterministic("mean", super().image_mean(z), event_dim=self.event_dim)


class NotingGuide(Guide):
    def forward(self, x):
        pyro.deterministic("seen", x.mean())
        return super().forward(x)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_deterministic_sites_change_nothing(objective):
    x = torch.from_numpy(small_data().test["x"].values[:6])
    bounds = []
    for make in (lambda: HVAE(Model(), Guide()), lambda: HVAE(Recording(), NotingGuide())):
        pair = seeded(make)
        torch.manual_seed(1)
        bounds.append(objective.evaluate(pair.model, pair.guide, x).bound.detach())
        assert pair.sites == ("z1",)
    assert torch.equal(*bounds)


def test_pairs_with_deterministic_sites_train_export_and_have_evidence():
    plain, recording = seeded(lambda: HVAE(Model(), Guide())), seeded(lambda: HVAE(Recording(), NotingGuide()))
    results = []
    for vae in (plain, recording):
        hvae.fit(vae, small_data(), steps=3, batch=20, device="cpu", progress=False)
        x = small_data().test["x"].values[:3]
        results.append((
            hvae.export_posterior(vae, x, moment_draws=8, prior_samples=1)["bound"].elbo.values.tolist(),
            hvae.evidence_importance_sampling(vae, x, 40, seed=0).log_evidence.values.tolist(),
            hvae.evidence_ais(vae.model, x, num_temperatures=5, num_chains=4, seed=0).log_evidence.values.tolist(),
        ))  # fmt: skip
    assert results[0] == results[1]


def function_model(x=None):
    weight = pyro.param("weight", torch.zeros(4, 16))
    with pyro.plate("image", len(x), dim=-1):
        z = pyro.sample("z1", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight, 0.5).to_event(1), obs=x)


OUTSIDE = nn.Linear(16, 16)


class FromParam(Model):
    def image_mean(self, z):
        return super().image_mean(z) * pyro.param("gain", torch.ones(()))


class FromModule(Model):
    def image_mean(self, z):
        return pyro.module("outside", OUTSIDE)(super().image_mean(z))


class FixedPlate(Model):
    """The plate of a data set of 60 images, whatever it is given."""

    def forward(self, x=None):
        with pyro.plate("image", 60, dim=-1) as i:
            z = pyro.sample("z1", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.linear(z), 0.5).to_event(1), obs=x[i])


class PlateOfTwo(Model):
    """Right for the two images of a first check alone."""

    def forward(self, x=None):
        with pyro.plate("image", 2, dim=-1) as i:
            z = pyro.sample("z1", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.linear(z), 0.5).to_event(1), obs=x[i])


class OneByOne(Model):
    def forward(self, x=None):
        for i in pyro.plate("image", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample(f"x{i}", dist.Normal(self.linear(z), 0.5).to_event(1), obs=x[i])


class Broken(Model):
    def image_mean(self, z):
        raise KeyError("no such\nlayer")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: function_model, r"the model must be an nn.Module .*got function.*pyro.param.*nn.Parameters"),
        (FromParam, "FromParam takes the parameter 'gain' from pyro.param"),
        (FromModule, r"FromModule takes the parameter 'outside\$\$\$weight' from pyro.param or pyro.module"),
        (
            FixedPlate,
            r"FixedPlate cannot be run on 2 images.*IndexError.*subsample_size=len\(x\), dim=-1\), without x\[i\]",
        ),
        (PlateOfTwo, r"site z1 of PlateOfTwo has batch shape \(2,\) for 3 images|PlateOfTwo cannot be run on 3 images"),
        (OneByOne, "must observe the image at one site named 'x'"),
        (Broken, r"Broken cannot be run on 2 images.*KeyError: 'no such\\nlayer'"),
    ],
)
def test_what_cannot_be_trained_is_refused_when_the_pair_is_made(model, message):
    pyro.clear_param_store()
    with pytest.raises(HVAEError, match=message):
        HVAE(model(), Guide(), pixels=16)


def test_a_guide_that_is_a_function_is_refused():
    with pytest.raises(HVAEError, match="the guide must be an nn.Module"):
        HVAE(Model(), lambda x: None)


class Registered(Model):
    """Its own network, announced by pyro.module as Pyro's tutorials do."""

    def forward(self, x=None):
        pyro.module("decoder", self.linear)
        return super().forward(x)


def test_a_network_of_the_programs_own_may_be_announced_by_pyro_module():
    pyro.clear_param_store()
    for _ in range(2):  # the store holds the first pair's parameters when the second is made
        vae = HVAE(Registered(), Guide())
        before = [p.detach().clone() for p in vae.parameters()]
        hvae.fit(vae, small_data(), steps=2, batch=20, device="cpu", progress=False)
        assert not any(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))


def test_the_check_of_a_pair_teaches_it_nothing():
    """BatchNorm layers would learn the check's empty images."""
    model, guide = Model(), Guide(nn.BatchNorm1d(8))
    mean = guide.net[1].running_mean.clone()
    state = torch.get_rng_state()
    HVAE(model, guide)
    assert torch.equal(guide.net[1].running_mean, mean) and guide.training
    assert torch.equal(torch.get_rng_state(), state)
