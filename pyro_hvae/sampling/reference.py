"""Posteriors to judge guides against: exact where they are known, by long sampling elsewhere.

============================================================  =============================================================
the model                                                     :func:`reference_posterior` takes
============================================================  =============================================================
jointly Gaussian (Normal sites, affine, constant scales)      :func:`linear_gaussian_posterior`: exact, independent draws
any other of ours                                             :func:`gibbs`
any Pyro model with continuous latents in one image plate     :func:`nuts`: for anything small
============================================================  =============================================================
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr
from pyro.infer import MCMC, NUTS

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs.images import Images, images_for
from pyro_hvae.programs.models import GenerativeModel
from pyro_hvae.sampling.convergence import chains_tree, convergence, seeded
from pyro_hvae.sampling.gibbs import gibbs
from pyro_hvae.sampling.hmc import check_counts
from pyro_hvae.sampling.linear_gaussian import GaussianPosterior, linear_gaussian_posterior, why_not_linear_gaussian

__all__ = [
    "METHODS", "GaussianPosterior", "convergence", "gibbs", "linear_gaussian_posterior", "nuts", "reference_posterior",
]  # fmt: skip

METHODS = ("exact", "gibbs", "nuts")


@checked
def reference_posterior(
    model: Callable,
    x: Images,
    *,
    method: str | None = None,
    num_samples: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    thin: int = 1,
    seed: int | None = None,
) -> xr.DataTree:
    """Draws of p(z | x) by the best method that applies to the model, or by the one that is named.

    :param x: images ``(image, pixel)``.
    :param method: ``"exact"``, ``"gibbs"`` or ``"nuts"``.
    :param warmup, thin: of the two samplers; exact draws need neither.
    :returns: group ``posterior`` with ``zl (chain, draw, image, zl_dim)`` and group ``sample_stats``; the attribute
        ``sampler`` says what was used.
    """
    if method is None:
        exact = not why_not_linear_gaussian(model)
        method = "exact" if exact else "gibbs" if isinstance(model, GenerativeModel) else "nuts"
    if method not in METHODS:
        raise unknown("reference method", method, METHODS)
    if method == "gibbs":
        return gibbs(model, x, num_samples=num_samples, warmup=warmup, chains=chains, thin=thin, seed=seed)
    if method == "nuts":
        return nuts(model, x, num_samples=num_samples, warmup=warmup, chains=chains, thin=thin, seed=seed)
    check_counts(num_samples=num_samples, chains=chains)
    x = images_for(model, x)
    posterior = linear_gaussian_posterior(model, x)
    with seeded(seed, x.device):
        draws = {site: z.cpu().numpy() for site, z in posterior.sample((chains, num_samples)).items()}
    return chains_tree(draws, {}, dict(sampler="exact", seed=str(seed)))


@checked
def nuts(
    model: Callable,
    x: Images,
    *,
    num_samples: int = 500,
    warmup: int = 300,
    chains: int = 2,
    thin: int = 1,
    seed: int | None = None,
) -> xr.DataTree:
    """The No-U-Turn sampler of :mod:`pyro.infer.mcmc`, image by image and chain by chain, in one process.

    Works for any Pyro model ``model(x)`` whose latents are continuous and sit in one image plate. It takes of the order
    of a second per hundred draws, so it is for small models and few images.

    :param thin: keep every thin-th of ``num_samples * thin`` draws.
    :returns: as :func:`reference_posterior`; ``sample_stats`` has ``divergences (chain, image)``. The event of a site is
        flattened to one dimension.
    """
    check_counts(num_samples=num_samples, warmup=warmup, chains=chains, thin=thin)
    x = images_for(model, x)
    kept: dict[str, np.ndarray] = {}
    divergences = np.zeros((chains, len(x)), dtype=int)
    with seeded(seed, x.device):
        for image in range(len(x)):
            for chain in range(chains):
                mcmc = MCMC(NUTS(model), num_samples * thin, warmup_steps=warmup, disable_progbar=True)
                mcmc.run(x[image : image + 1])
                divergences[chain, image] = sum(map(len, mcmc.diagnostics()["divergences"].values()))
                for site, draws in mcmc.get_samples().items():
                    values = draws[::thin].reshape(num_samples, -1).cpu().numpy()
                    shape = (chains, num_samples, len(x), values.shape[-1])
                    kept.setdefault(site, np.empty(shape, values.dtype))[chain, :, image] = values
    if not kept:
        raise HVAEError("the model has no continuous latent site for NUTS to sample")
    return chains_tree(
        kept, {"divergences": (("chain", "image"), divergences)}, dict(sampler="nuts", warmup=warmup, seed=str(seed))
    )
