# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Swap the guide, and tell which to believe
#
# A guide is a claim about a model's posterior. Put two guides on the very same model, and what differs between their posteriors is theirs, not the
# model's. Three things say which to believe: the ELBO, the k-hat of importance weights, and the evidence that both must agree on.

# %%
import numpy as np

import pyro_hvae as hvae

vae = hvae.load_reference("TDVAE20-ladder")
data = hvae.stimuli.natural_patches(20, train=20_000, test=1_000)
other = vae.with_guide("top_down")
hvae.start_in_linear_regime(other, guide_only=True)
print(type(vae.guide).__name__, type(other.guide).__name__, "same model:", other.model is vae.model)

# %% [markdown]
# `train="guide"` leaves the model alone. 600 steps make a poor guide of it, which is what this page wants to be able to tell; the demo takes more.

# %%
hvae.fit(other, data, steps=600, beta=1, train="guide", learning_rate=1e-3, clip=300, progress=False)
few = data.test.isel(image=slice(60))
trees = {
    name: hvae.export_posterior(pair, few, moment_draws=16, evidence=2000, prior_samples=1, receptive_fields=0)
    for name, pair in (("ladder", vae), ("top_down", other))
}

# %%
for name, tree in trees.items():
    elbo, found = tree["bound"]["elbo"], tree["evidence"]
    trusted = float((found["pareto_k"] < 0.7).mean())
    print(
        f"{name:9s} ELBO {float(elbo.median()):8.1f}   log p(x) at least {float(found['log_evidence'].median()):8.1f} nats "
        f"(median image)   k-hat below 0.7 for {trusted:.0%}"
    )

# %% [markdown]
# The model is one, so log p(x) is one number an image. Each estimate is a lower bound in expectation, and the guide whose estimate is higher, with k-hat
# below 0.7 for more images, is nearer to the posterior. Medians are shown since a guide of few steps fails without bound on a few patches of high contrast, which
# would rule a mean. Image by image:

# %%
difference = trees["ladder"]["evidence"]["log_evidence"] - trees["top_down"]["evidence"]["log_evidence"]
low, middle, high = np.quantile(difference, [0.25, 0.5, 0.75])
above = int((difference > 0).sum())
print(
    f"ladder minus top-down: median {middle:.1f} nats, quartiles {low:.1f} and {high:.1f}; above 0 for {above} of {difference.size}"
)

# %% [markdown]
# What follows for a finding: a noise correlation or a variance that only the worse guide shows is that guide's. Before you believe either, do one of these:
#
# - reweight or resample ([weights and evidence](04_weights_and_evidence.py));
# - sample the model's own posterior, `pyro-hvae export RUN --sampler hmc`;
# - audit the guide ([noise correlations](07_noise_correlations.py)).
#
# `hvae.analysis.analyse(["ladder.nc", "top_down.nc"], out="report")` sets both side by side on one page.
