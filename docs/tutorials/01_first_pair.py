# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A first pair and a first report
#
# From photographs to a report in two minutes of one core: cut and whiten patches, train a two-layer pair for a little while, save its
# posteriors, read the report.

# %%
import json

import pyro_hvae as hvae

data = hvae.stimuli.natural_patches(20, train=8_000, test=500)
data.train["x"].sizes, data.size

# %% [markdown]
# Five photographs come with scikit-image and scikit-learn. `natural_patches` matches their intensities to a unit normal, cuts patches of 20×20
# pixels and whitens them; the transform is fitted on the training part alone and kept as `data.transform`.
#
# The pair is TDVAE20 (z2 → z1 → x) under the ladder guide. `recipe="fast"` starts z1 at the independent components of the patches.

# %%
vae = hvae.build("TDVAE20", guide="ladder", recipe="fast", data=data)
run = hvae.fit(vae, data, steps=300, out="runs/first", progress=False)
run.history[["test_elbo", "test_reconstruction", "test_kl_z1", "test_kl_z2"]].to_dataframe().round(1)

# %% [markdown]
# Terms are nats an image, on patches that were held out. 300 steps are few: the recipe's own number is 8000, some ten minutes of a core.
# `runs/first` holds everything needed to go on: `hvae.fit(..., steps=8000, out="runs/first", resume=True)`.
#
# Next the posteriors of 300 held-out patches, as one labelled file.

# %%
few = data.test.isel(image=slice(300))
tree = hvae.export_posterior(
    vae, few, transform=data.transform, moment_draws=16, evidence=200, evidence_images=100, path="posterior.nc"
)
print({group: dict(tree[group].sizes) for group in ("posterior_moments", "bound", "evidence")})

# %%
report = hvae.analysis.analyse("posterior.nc", out="report")
found = json.loads((report.parent / "results.json").read_text())
for file in found["files"].values():
    for sentence in file["findings"]:
        print("-", sentence if isinstance(sentence, str) else sentence.get("text", sentence))

# %% [markdown]
# These sentences head `report/report.html`; the numbers behind them follow there. From the command line the same is
#
#     pyro-hvae train TDVAE20 --guide ladder --recipe fast --steps 300 --out runs/first
#     pyro-hvae export runs/first --evidence 200 --out posterior.nc
#     pyro-hvae analyse posterior.nc --out report
#
# The strongest fields of z1, as they are after so few steps:

# %%
from pyro_hvae.analysis.projective_fields import plot_projective_fields

plot_projective_fields(hvae.analysis.projective_fields(tree))

# %% [markdown]
# Next: [swap the guide](02_swap_the_guide.py), or [train on your own images](08_your_images.py).
