# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Posteriors in ArviZ
#
# A posterior file is an `xarray.DataTree` in ArviZ's schema: it opens in ArviZ 0.23 and in 1.x. [Posterior files with ArviZ](../tutorial-arviz.md) goes through all of it; this page is the
# short way.

# %%
import warnings

warnings.filterwarnings("ignore", category=FutureWarning)
import arviz as az
import numpy as np

import pyro_hvae as hvae

vae = hvae.load_reference("TDVAE20-ladder")
data = hvae.stimuli.natural_patches(20, train=2_000, test=200)
hvae.export_posterior(vae, data.test.isel(image=slice(12)), draws=1000, path="posterior.nc").close()
tree = az.from_netcdf("posterior.nc")
print("ArviZ", az.__version__, "opens it as", type(tree).__name__)

# %% [markdown]
# Every image has a posterior of its own. Choose images and dimensions before summarising, or there are thousands of rows.

# %%
file = hvae.open_posterior("posterior.nc")
few = file["posterior"].to_dataset()[["z2"]].isel(image=[0, 1], z2_dim=[0, 1, 2])
az.summary(few, kind="stats")

# %% [markdown]
# ## When to believe them
#
# Draws of a guide are independent: R-hat says nothing. Their importance weights do, by Pareto k-hat, image by image.

# %%
log_weight = file["sample_stats"]["log_weight"]
if hasattr(az, "psislw"):  # ArviZ 0.23
    smoothed, k = az.psislw(log_weight.stack(__sample__=("chain", "draw")))
    smoothed = smoothed.unstack("__sample__")
else:  # ArviZ 1.x takes log likelihoods, which are minus log weights
    smoothed, k = (-log_weight).azstats.psislw(dim=["chain", "draw"])
print("k-hat:", np.round(k.values, 2))
corrected = (np.exp(smoothed) * file["posterior"]["z2"]).sum(("chain", "draw"))
shift = abs(corrected - file["posterior_moments"]["z2_mean"]) / np.sqrt(file["posterior_moments"]["z2_variance"])
print(f"reweighting moves a mean of z2 by {float(shift.median()):.2f} posterior s.d. (median)")

# %% [markdown]
# ## A figure
#
# What z2 of one image is, under the guide. Any plot of ArviZ takes such a selection; here with xarray alone, which looks the same under both versions.

# %%
import matplotlib.pyplot as plt

draws = file["posterior"]["z2"].isel(image=0, chain=0)
figure, axis = plt.subplots(figsize=(6, 2.6))
axis.errorbar(range(draws.sizes["z2_dim"]), draws.mean("draw"), draws.std("draw"), fmt="o", color="black", capsize=2)
axis.axhspan(-1, 1, color="#0072b2", alpha=0.15, lw=0)
axis.set(xlabel="dimension of z2", ylabel="z2")
figure.text(
    0.13, -0.08, "Dots: mean; bars: s.d. of 1,000 draws of the guide, one image. Blue: s.d. of the prior.", fontsize=8
)

# %% [markdown]
# A guide of your own that is no pair of this package: [`hvae.from_pyro`](../from-pyro.md).
