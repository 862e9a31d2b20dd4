# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own model and guide, in plain Pyro
#
# A pair is two Pyro programs in `nn.Module`s with the same latent sites inside one plate `image`. Here: sparse coding with a gain. Each patch has a log gain z2
# that scales independent Laplace causes z1,
#
# $$z_2 \sim N(0, 1), \qquad z_1 \mid z_2 \sim \mathrm{Laplace}(0, e^{z_2}), \qquad x \mid z_1 \sim N(A z_1, \sigma^2).$$

# %%
import pyro
import pyro.distributions as dist
import torch

import pyro_hvae as hvae


class GainModel(hvae.Program):
    """z2 → z1 → x with a gain for z2."""

    def __init__(self, pixels=100, units=64, sigma=0.4):
        super().__init__()
        self.pixels, self.units, self.sigma = pixels, units, sigma
        self.A = torch.nn.Parameter(0.1 * torch.randn(pixels, units))

    def forward(self, x=None, count=1):
        with pyro.plate("image", count if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.A.new_zeros(1), 1).to_event(1))
            z1 = pyro.sample("z1", dist.Laplace(self.A.new_zeros(self.units), z2.exp()).to_event(1))
            return pyro.sample("x", dist.Normal(z1 @ self.A.T, self.sigma).to_event(1), obs=x)


class GainGuide(hvae.Program):
    """q(z2 | x) q(z1 | x, z2): one hidden layer, and the gain joined to it."""

    def __init__(self, pixels=100, units=64, hidden=200):
        super().__init__()
        self.read = torch.nn.Sequential(torch.nn.Linear(pixels, hidden), torch.nn.Softplus())
        self.z2, self.z1 = torch.nn.Linear(hidden, 2), torch.nn.Linear(hidden + 1, 2 * units)

    def forward(self, x):
        h = self.read(x)
        with pyro.plate("image", len(x), dim=-1):
            loc, v = self.z2(h).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, (v / 2).exp()).to_event(1))
            joint = torch.cat([h.expand(*z2.shape[:-1], -1), z2], -1)  # (image, …) or (particle, image, …)
            loc, v = self.z1(joint).chunk(2, -1)
            pyro.sample("z1", dist.Laplace(loc, (v / 2).exp()).to_event(1))


torch.manual_seed(0)
vae = hvae.HVAE(GainModel(), GainGuide())
vae

# %% [markdown]
# `HVAE` has run both and checked that they fit. From here on it is a pair like those that ship: `fit` trains it, on any objective.

# %%
data = hvae.stimuli.natural_patches(10, train=20_000, test=1_000)
run = hvae.fit(vae, data, steps=1500, batch=100, learning_rate=2e-3, evaluate_every=500, progress=False)
run.history["test_elbo"].to_series().round(1)

# %% [markdown]
# Pyro's own tools take it too, since it is nothing but two programs:

# %%
x = torch.from_numpy(data.test["x"].values[:50])
svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-4}), pyro.infer.Trace_ELBO())
print("loss of one step of SVI, nats an image:", round(svi.step(x) / len(x), 1))

# %% [markdown]
# Evidence and k-hat, whatever the programs are:

# %%
found = hvae.evidence_importance_sampling(vae, data.test["x"].values[:40], num_particles=1000, seed=0)
print(
    f"log p(x) {float(found['log_evidence'].mean()):.1f} nats an image, k-hat below 0.7 for {float((found['pareto_k'] < 0.7).mean()):.0%}"
)

# %% [markdown]
# So neither this log p(x) nor posterior moments are to be believed yet: a guide of one hidden layer and 1,500 steps is far from the posterior. [What to do](../howto/k-hat-is-high.md).
#
# A posterior file. The package knows no fields of a model that it has not written, so the file is partial: it has moments, draws, bounds and evidence, and analyses say what they
# miss.

# %%
tree = hvae.export_posterior(
    vae, data.test.isel(image=slice(300)), draws=20, moment_draws=20, evidence=200, path="gain.nc"
)
print(sorted(tree.children))
gain = tree["posterior_moments"]["z2_mean"].isel(z2_dim=0)
norm = (tree["observed_data"]["x"] ** 2).sum("pixel") ** 0.5
import numpy as np

print(
    "correlation of the inferred log gain with the log norm of a patch:",
    round(float(np.corrcoef(gain, np.log(norm))[0, 1]), 2),
)

# %% [markdown]
# `hvae.analysis.analyse("gain.nc", out="report")` writes the report of what applies. A run of it is loaded with `hvae.load("runs/mine", vae=vae)`, since no record can hold your
# classes. [Guides](../models/guides.md#one-of-your-own) has the rules that programs must keep; [any Pyro guide in ArviZ](../from-pyro.md) is for pairs that keep none of
# them.
