# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Reading the papers' figures
#
# Which analysis makes which figure, on a pair that ships. It was trained on five photographs for a few thousand steps: read the page for how to look, and [reproduction](../reproduction.md) for which findings hold.
#
# | figure | analysis |
# |---|---|
# | Csikor et al. 2022, Fig. 2c, f: active dimensions | `active_dimensions` |
# | Fig. 2d, e: fields of z1 and z2 | `projective_fields`, `gabor_fits`, `modulation_fields` |
# | Fig. 2h: texture-selective dimensions | `texture_selectivity` |
# | Fig. 2i, 3a: decoding of texture families | `decode_family` |
# | Fig. 3d–g: noise and signal correlations | `noise_correlations` |
# | Fig. 4: illusory contours, inpainting | `inpainting` |
# | Vas 2024: bound by particles, aggregate posterior | `bound_terms`, `bound_by_particles`, `aggregate_posterior` |

# %%
import pyro_hvae as hvae
from pyro_hvae.analysis import ANALYSES

name = "TDVAE20-ladder"
vae = hvae.load_reference(name)
transform = hvae.stimuli.read_transform(hvae.references()[name])
data = hvae.stimuli.natural_patches(20, train=2_000, test=300)
textures = hvae.stimuli.texture_patches(20, transform=transform, train=300, test=300)
images = hvae.stimuli.concatenate(data.test, textures.train, textures.test)
strongest = vae.model.A.norm(dim=0).argsort(descending=True)[:40].tolist()
tree = hvae.export_posterior(vae, images, transform=transform, moment_draws=16, units=strongest, receptive_fields=0)


def figure(analysis):
    """An analysis by its name, as the report draws it."""
    entry = ANALYSES[analysis]
    return entry.plot(entry.run(tree))


# %% [markdown]
# ## Active dimensions (Fig. 2c, f)

# %%
figure("active_dimensions")

# %% [markdown]
# ## Projective fields (Fig. 2d)
#
# Columns of A are what a z1 unit adds to an image; a field of z2 is half the change of the mean image between its ends, and is drawn only where there is one.

# %%
figure("projective_fields")

# %% [markdown]
# ## Gabor functions (Fig. 2e)

# %%
figure("gabor_fits")

# %% [markdown]
# ## What z2 does to z1
#
# Where z2 sets scales and not locations, fields are the wrong thing to look at: these are the z1 units that a z2 dimension makes louder (red) or quieter (blue).

# %%
figure("modulation_fields")

# %% [markdown]
# ## Decoding (Fig. 2i, 3a)

# %%
figure("texture_decoding")

# %% [markdown]
# ## Noise correlations (Fig. 3d–g)

# %%
figure("noise_correlations")

# %% [markdown]
# `pyro-hvae analyse FILE --out report` makes all of them, with numbers and their uncertainty; the scripts in `analyses/` make one each.
