# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Texture representations
#
# Does z2 know more of a patch than its contrast? Texture families are decoded from pixels, from contrast alone and from posterior means; what z2 says beyond contrast is what beats the second.

# %%
import pyro_hvae as hvae
from pyro_hvae.analysis.texture_decoding import plot_texture_decoding

name = "TDVAE20-ladder"
vae = hvae.load_reference(name)
transform = hvae.stimuli.read_transform(hvae.references()[name])
textures = hvae.stimuli.texture_patches(20, transform=transform, train=450, test=450)
textures.train["family"].to_series().value_counts()

# %% [markdown]
# Three photographs of scikit-image: brick, grass, gravel. A folder of images of yours works the same (`source="my/textures"`), each file a family. Training and test patches share no pixel.

# %%
images = hvae.stimuli.concatenate(textures.train, textures.test)
tree = hvae.export_posterior(vae, images, transform=transform, moment_draws=16, prior_samples=1, receptive_fields=0)
decoded = hvae.analysis.decode_family(tree)
decoded["accuracy"].to_series().round(3)

# %%
plot_texture_decoding(decoded)

# %% [markdown]
# `norm` is contrast alone (log norm and its square). Where z2 does not beat it, z2 has learnt no more than contrast, however high the ELBO.
#
# ## Is it the spectrum?
#
# The same patches of noise with each family's own spectrum: what is decoded from those is not of higher order.

# %%
noise = hvae.stimuli.texture_patches(20, transform=transform, train=450, test=450, control="spectrum")
control = hvae.export_posterior(
    vae,
    hvae.stimuli.concatenate(noise.train, noise.test),
    transform=transform,
    moment_draws=16,
    prior_samples=1,
    receptive_fields=0,
)
for feature in ("pixels", "norm", "z1_mean", "z2_mean"):
    values = [float(d["accuracy"].sel(feature=feature)) for d in (decoded, hvae.analysis.decode_family(control))]
    print(f"{feature:8s} textures {values[0]:.2f}, noise of their spectra {values[1]:.2f} (chance 0.33)")

# %% [markdown]
# Here noise of the same spectra is told apart no worse than the textures: what this pair says of these three families is in their spectra.
#
# [Stimuli](../stimuli.md#texture-families) has synthesised families and other controls; `pyro-hvae physiology` measures texture modulation as physiologists do.
