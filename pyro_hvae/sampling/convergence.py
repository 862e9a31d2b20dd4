"""What all samplers of reference posteriors share: seeds, the form of their answer, convergence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.sampling.quiet_arviz import arviz as az


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from a generator of one's own, or, with None, from PyTorch's global one."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def chains_tree(
    draws: Mapping[str, np.ndarray], statistics: Mapping[str, tuple[tuple[str, ...], np.ndarray]], attrs: dict[str, Any]
) -> xr.DataTree:
    """Draws ``{site: (chain, draw, image, dim)}`` and sampler statistics as a DataTree in ArviZ's schema."""
    posterior = xr.Dataset(
        {site: (("chain", "draw", "image", f"{site}_dim"), values) for site, values in draws.items()}, attrs=attrs
    )
    posterior = posterior.assign_coords({dim: np.arange(size) for dim, size in posterior.sizes.items()})
    return xr.DataTree.from_dict({"posterior": posterior, "sample_stats": xr.Dataset(dict(statistics), attrs=attrs)})


def convergence(tree: xr.DataTree) -> xr.Dataset:
    """Rank-normalised split R-hat and bulk effective sample size of every latent, by ArviZ.

    :param tree: what :func:`~pyro_hvae.sampling.gibbs.gibbs` or :func:`~pyro_hvae.sampling.reference.nuts` returned.
    :returns: ``{site}_r_hat`` and ``{site}_ess (image, {site}_dim)``, and their worst over dims, ``r_hat`` and
        ``ess (image)``. Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021 recommend R-hat < 1.01 and ESS > 100 a chain.
    """
    if "posterior" not in tree.children:
        raise HVAEError(f"convergence needs a group 'posterior' with draws, got groups {sorted(tree.children)}")
    posterior = tree["posterior"].to_dataset()
    if posterior.sizes["chain"] < 2:
        raise HVAEError("R-hat compares chains, and there is only one; sample with chains=2 or more")
    r_hat, ess = az.rhat(posterior), az.ess(posterior)
    result = {f"{site}_r_hat": r_hat[site] for site in posterior.data_vars}
    result |= {f"{site}_ess": ess[site] for site in posterior.data_vars}
    worst = {
        "r_hat": xr.concat([r_hat[site].max(f"{site}_dim") for site in posterior.data_vars], "site").max("site"),
        "ess": xr.concat([ess[site].min(f"{site}_dim") for site in posterior.data_vars], "site").min("site"),
    }
    return xr.Dataset({str(k): v for k, v in result.items()} | worst)
