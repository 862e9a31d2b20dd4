# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Predict your own neurons
#
# You have shown images to an animal and have responses (image, repeat, neuron). How well do the posteriors of these images predict them, against pixels and a bank of Gabor energies? Here the "neurons" are made, so that
# the right answer is known: half of them follow z1, half are noise.

# %%
import numpy as np

import pyro_hvae as hvae
from pyro_hvae.analysis.neural_prediction import plot_neural_prediction

vae = hvae.load_reference("TDVAE20-ladder")
data = hvae.stimuli.natural_patches(20, train=2_000, test=300)
tree = hvae.export_posterior(vae, data.test, moment_draws=16, prior_samples=1, receptive_fields=0)

rng = np.random.default_rng(0)
z1 = abs(tree["posterior_moments"]["z1_mean"].values)
unit = z1[:, rng.choice(z1.shape[1], 3, replace=False)]
rate = np.concatenate([5 * unit / unit.std(0), np.full((len(unit), 3), 3.0)], 1)
responses = rng.poisson(rate[:, None, :], (len(unit), 6, 6)).astype(float)  # 6 repeats of 6 neurons
responses[10, 3:] = np.nan  # a trial that was cut short
np.savez("responses.npz", responses=responses)

# %% [markdown]
# Your file is this: an `.npz` with an array `responses` (image, repeat, neuron), or netCDF with a variable of these dims; NaN where there is none. Images come in the order of the posterior file. Patches of your own
# stimuli are whitened as the run's images were: `hvae.stimuli.as_patch_data`, or `natural_patches` of a folder.

# %%
found = hvae.analysis.neural_prediction(tree, hvae.analysis.read_responses("responses.npz"), folds=3)
found["normalised"].to_series().round(2)

# %%
plot_neural_prediction(found)

# %% [markdown]
# A correlation is divided by its ceiling, what a perfect model could reach given the trial-to-trial variability. The neurons of pure noise have no ceiling to speak of, so they have no normalised correlation:

# %%
print("ceilings:", np.round(found["neuron_ceiling"].values, 2))

# %% [markdown]
# From the command line: `pyro-hvae predict posterior.nc responses.npz --out neurons.png`. Penalties are chosen inside the training folds; the images that are predicted take no part.
