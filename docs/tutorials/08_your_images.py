# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Train on your own images
#
# A folder of photographs is a source: PNG, JPEG, TIFF, van Hateren's `.iml`/`.imc`, arrays in `.npy`. Here a folder is made of photographs that scikit-image ships.

# %%
from pathlib import Path

from skimage import data as photographs
from skimage import io

import pyro_hvae as hvae

Path("photos").mkdir(exist_ok=True)
for name in ("camera", "coins", "moon", "brick"):
    io.imsave(f"photos/{name}.png", getattr(photographs, name)(), check_contrast=False)
data = hvae.stimuli.natural_patches(20, "photos", train=10_000, test=500)
data.train["source"].to_series().value_counts()

# %% [markdown]
# A file is a photograph, of which some are held out entirely or in part, so that no test patch shares a pixel with a training patch. What was done is in `data.provenance`, and a digest of the sources with it.

# %%
data.save("patches.nc", overwrite=True)
print(
    {k: data.provenance[k] for k in ("kind", "train", "test")},
    "->",
    data.transform.dims,
    "dimensions kept of",
    data.size**2,
)

# %%
vae = hvae.build("LinearVAE20", recipe="fast", data=data)
run = hvae.fit(vae, data, steps=200, out="runs/photos", overwrite=False, progress=False)
print(f"held-out ELBO {float(run.history['test_elbo'][-1]):.1f} nats an image after {run.step} steps")

# %% [markdown]
# How good is that? Yardsticks: what simpler densities reach on the very same patches.

# %%
found = hvae.yardsticks(
    data.train.isel(image=slice(6000)), data.test.isel(image=slice(200)), sigma=float(vae.model.sigma)
)
found["log_density"].mean("image").to_series().round(1)

# %% [markdown]
# From the command line:
#
#     pyro-hvae train LinearVAE20 --recipe fast --images photos --out runs/photos
#     pyro-hvae yardstick runs/photos
#
# [Where images come from](../project/data.md) says which files are read and how; [stimuli](../stimuli.md) has contrasts, masks and selections. Images that move to another place: `--resume --images
# NEWPLACE`.
