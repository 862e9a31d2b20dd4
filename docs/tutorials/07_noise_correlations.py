# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Noise correlations, real and imagined
#
# Two z1 units are correlated under the posterior of one image: a noise correlation. A guide can make them up, or be unable to have any. So compare what the guide says with a sampler of the same
# model.

# %%
import numpy as np

import pyro_hvae as hvae

vae = hvae.load_reference("TDVAE20-ladder")
data = hvae.stimuli.natural_patches(20, train=2_000, test=200)
few = data.test.isel(image=slice(5))
strongest = vae.model.A.norm(dim=0).argsort(descending=True)[:15].tolist()

# %% [markdown]
# The guide's own, with z2 marginalised:

# %%
guide = hvae.export_posterior(vae, few, units=strongest, moment_draws=200, prior_samples=1, receptive_fields=0)
correlation = guide["posterior_moments"]["z1_correlation"].values
upper = np.triu_indices(len(strongest), 1)
print(f"mean |r| over {len(upper[0])} pairs and {len(few.image)} images: {abs(correlation[:, *upper]).mean():.4f}")

# %% [markdown]
# The model's own posterior, by Hamiltonian Monte Carlo that starts at the guide (some seconds an image). Its file also holds the correlations of either half of the chains: how well the halves agree says
# how much of a correlation is sampling noise.

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # images whose chains have not met are marked, and counted below
    model = hvae.export_posterior(
        vae,
        few,
        units=strongest,
        sampler="hmc",
        num_samples=100,
        warmup=60,
        chains=4,
        prior_samples=1,
        receptive_fields=0,
    )
sampled = model["posterior_moments"]["z1_correlation"].values
halves = model["posterior_moments"]["z1_correlation_half"].values
print(f"mean |r| of the model's posterior: {abs(sampled[:, *upper]).mean():.4f}")


def agreement(a, b):
    """Correlation over pairs and images of two sets of noise correlations."""
    return float(np.corrcoef(a[:, *upper].ravel(), b[:, *upper].ravel())[0, 1])


print(f"half of the chains with the other half: {agreement(halves[:, 0], halves[:, 1]):.2f}")
print(f"guide with sampler: {agreement(correlation, sampled):.2f}")
print(
    f"chains met for {int(model['sample_stats']['converged'].sum())} of {len(few.image)} images, 60 + 100 transitions"
)

# %% [markdown]
# The number to compare with is the agreement of the halves: a guide cannot agree better with the sampler than the sampler does with itself (about the square root of it, if the guide were exact). Where the
# guide's agreement is near zero, its noise correlations are its own.
#
# By the package's criterion (R-hat of every mean below 1.01) no chains have met after so few transitions, so moments of this length are not to be reported; the halves of the chains agree well enough to
# answer the question of this page. `pyro-hvae export --sampler hmc` takes 150 + 350 transitions by default.
#
# A guide that reads z1 from the image alone has none by construction:

# %%
bottom_up = vae.with_guide("bottom_up")
none = hvae.export_posterior(bottom_up, few, units=strongest, moment_draws=20, prior_samples=1, receptive_fields=0)
print("bottom-up:", float(abs(none["posterior_moments"]["z1_correlation"].values[:, *upper]).max()))

# %% [markdown]
# `pyro-hvae audit RUN --out audit.nc` does this for means, variances and correlations at once, with importance resampling in between, and `pyro-hvae analyse audit.nc --out report` reads it. On textures,
# `hvae.analysis.noise_correlations(tree)` asks whether noise correlations follow the signal correlations of a family.
