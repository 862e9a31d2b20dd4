# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Importance weights and evidence
#
# The weights w = p(x, z) / q(z | x) of draws of a guide estimate log p(x), correct moments, and say by their tail (k-hat) whether either can be believed. The reference
# LinearVAE20n has a Normal z1, so everything here can be held against the exact answer.

# %%
import math

import numpy as np
import torch

import pyro_hvae as hvae

vae = hvae.load_reference("LinearVAE20n")
data = hvae.stimuli.natural_patches(20, train=2_000, test=200)
x = torch.from_numpy(data.test["x"].values[:20])
A, c, sigma = vae.model.A.detach().double(), vae.model.to_image.bias.detach().double(), float(vae.model.sigma)
covariance = A @ A.T + sigma**2 * torch.eye(A.shape[0])  # x ~ Normal(c, A Aᵀ + σ² I)
exact = torch.distributions.MultivariateNormal(c, covariance).log_prob(x.double()).numpy()
print(f"exact log p(x): {exact.mean():.1f} nats an image")

# %% [markdown]
# ## With more draws the bound rises
#
# E log (1/K) Σ w is below log p(x), and rises with K to it.

# %%
for K in (1, 10, 100, 2000):
    if K == 1:
        with torch.no_grad():
            estimate = hvae.ELBO(200).evaluate(vae.model, vae.guide, x).elbo.numpy()
        print(f"K = {K:5d}: {estimate.mean() - exact.mean():7.2f} nats from the exact answer (the ELBO, by 200 draws)")
    else:
        found = hvae.evidence_importance_sampling(vae, x, num_particles=K, seed=0)
        gap = float((found["log_evidence"] - exact).mean())
        print(f"K = {K:5d}: {gap:7.2f} nats, k-hat at the median image {float(found['pareto_k'].median()):.2f}")

# %% [markdown]
# ## What k-hat promises
#
# Below 0.7 an estimate is near the truth within a few of its standard errors; above it the standard error itself cannot be believed.

# %%
error = (found["log_evidence"] - exact) / found["standard_error"]
for name, which in (("k-hat below 0.7", found["pareto_k"] < 0.7), ("above", found["pareto_k"] >= 0.7)):
    if int(which.sum()):
        off = error.where(which, drop=True)
        print(
            f"{name}: {int(which.sum())} images, root mean square of error / standard error {math.sqrt(float((off**2).mean())):.1f}"
        )

# %% [markdown]
# ## Without the guide
#
# Annealed importance sampling goes from the prior to the posterior and needs no guide. On images drawn from the model itself, a chain run backwards from the known causes gives an upper
# bound (bidirectional Monte Carlo): the gap between the two bounds the error of either.

# %%
annealed = hvae.evidence_ais(vae.model, x[:3], num_temperatures=100, num_chains=4, leapfrog_steps=5, seed=0)
print("AIS minus exact:", np.round(annealed["log_evidence"].values - exact[:3], 2))
both = hvae.bdmc(vae.model, num_images=3, num_temperatures=100, num_chains=4, leapfrog_steps=5, seed=0)
print(
    f"upper minus lower bound: {float(both['gap'].mean()):.2f} nats an image, 100 temperatures; more temperatures make it smaller"
)

# %% [markdown]
# 100 temperatures are far too few here, and the gap says so without knowing the exact answer: the bounds are as far apart as annealing is off. The default is 1000.
#
# ## Resampled draws
#
# `export_posterior(draws=…, resample=R)` keeps one of R proposals by its weight: draws that are nearer to the posterior the larger R is. The exact posterior mean tells how near.

# %%
precision = torch.eye(A.shape[1]) + A.T @ A / sigma**2
mean = torch.linalg.solve(precision, A.T @ (x.double() - c).T / sigma**2).T.numpy()
for R in (None, 10, 100):
    tree = hvae.export_posterior(
        vae, x.numpy(), draws=200, resample=R, moment_draws=2, prior_samples=1, receptive_fields=0
    )
    off = tree["posterior"]["z1"].mean(("chain", "draw")).values - mean
    print(f"resample={R}: root mean square error of the posterior mean {np.sqrt((off**2).mean()):.3f}")

# %% [markdown]
# 200 draws alone leave an error of the posterior s.d. over √200; with a guide that is nearly exact, resampling has little to correct. [Objectives and gradients](../gradients.md) has the
# formulas, `pyro-hvae evidence RUN RUN` the table for several runs.
