"""Guide, importance-resampled guide and reference posterior on the same images: how much of what the guide says is so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.programs import HVAE, GenerativeModel
from pyro_hvae.programs.images import Images
from pyro_hvae.sampling.convergence import convergence
from pyro_hvae.sampling.hmc import check_counts
from pyro_hvae.sampling.linear_gaussian import linear_gaussian_posterior, why_not_linear_gaussian
from pyro_hvae.sampling.reference import METHODS, reference_posterior
from pyro_hvae.stimuli import PatchData
from pyro_hvae.storage.audit_file import SCHEMA, SCHEMA_VERSION, check_audit_target, validate_audit, write_audit
from pyro_hvae.storage.posterior_file import LABELS, ROOT_ATTRIBUTES

DRAW_BYTES = 2**28  # of reference draws held at a time
HALVES = 2


@checked
def audit(
    vae: HVAE,
    images: Images | PatchData,
    *,
    units: int | Sequence[int] = 40,
    moment_draws: int = 500,
    resample: int = 100,
    draws: int = 200,
    reference: str | None = None,
    num_samples: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    thin: int = 1,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> xr.DataTree:
    """Posterior means, variances and z1 noise correlations, three times over: by the guide, by the guide after importance
    resampling (Vas 2024, Algorithm 2), and by a reference that knows nothing of the guide.

    Every one comes in two independent halves, so that disagreement can be told from noise. The result is read by
    :func:`pyro_hvae.analysis.guide_audit`. The reference costs the most: for TDVAE20 about 7 ms of CPU time
    per image, chain and sweep, hence 40 s an image with the defaults; some tens of images are enough.

    :param images: as for :func:`~pyro_hvae.export.posterior.export_posterior`.
    :param units: z1 dimensions whose correlations are compared; a number takes the ones with the largest fields (the norm
        of their columns of A).
    :param moment_draws: draws of the guide in each half.
    :param resample, draws: each half of the resampled guide has ``draws`` groups of ``resample`` proposals.
    :param reference: ``"exact"``, ``"gibbs"`` or ``"nuts"``; by default the best that applies
        (:func:`~pyro_hvae.sampling.reference.reference_posterior`).
    :param num_samples, warmup, chains, thin: of the reference; each half is half of the chains.
    :param path: netCDF file to write as well (schema: :mod:`pyro_hvae.storage.audit_file`).
    :returns: the audit, in memory.
    :raises HVAEError: for an odd number of chains, units that do not exist, a pair without z1.
    """
    if path is not None:
        check_audit_target(path, overwrite=overwrite)
    check_counts(
        chains=chains,
        draws=draws,
        resample=resample,
        moment_draws=moment_draws,
        num_samples=num_samples,
        warmup=warmup,
        thin=thin,
    )
    if reference is not None and reference not in METHODS:
        raise unknown("reference method", reference, METHODS)
    if chains % HALVES:
        raise HVAEError(f"the reference is split into two halves by chains, so their number must be even, got {chains}")
    if "z1" not in vae.latents:
        raise HVAEError(f"an audit compares correlations of z1; this pair has the sites {', '.join(vae.latents)}")
    if isinstance(images, PatchData):
        images = images.test
    chosen = _units(vae, units)
    guide, resampled = [], []
    for half in range(HALVES):
        own = dict(units=chosen, prior_samples=1, receptive_fields=0, seed=seed + half)
        guide.append(export_posterior(vae, images, moment_draws=moment_draws, **own))
        resampled.append(export_posterior(vae, images, draws=draws, resample=resample, **own))
    x = torch.from_numpy(np.array(guide[0]["observed_data"].x.values)).to(next(vae.parameters()))
    chain = dict(num_samples=num_samples, warmup=warmup, chains=chains, thin=thin, seed=seed)
    found, method = _reference(vae, x, chosen, reference, chain)
    weights = [tree["sample_stats"] for tree in resampled]
    groups = {
        "guide": _exported(vae, guide),
        "resampled": _exported(vae, resampled).assign(
            ess=sum(w.ess for w in weights), pareto_k=xr.concat([w.pareto_k for w in weights], "half").max("half")
        ),
        "reference": found,
        "observed_data": _observed(images, guide[0]),
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {name: guide[0].attrs[name] for name in ROOT_ATTRIBUTES} | {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "moment_draws": moment_draws, "draws": draws, "resample": resample,
        "reference": method, "num_samples": num_samples, "warmup": warmup, "chains": chains, "thin": thin,
    }  # fmt: skip
    validate_audit(tree)
    if path is not None:
        write_audit(tree, path, overwrite=overwrite)
    return tree


def _units(vae: HVAE, units: int | Sequence[int]) -> list[int]:
    dim = vae.latents["z1"]
    if not isinstance(units, int):
        return list(units)  # checked by export_posterior
    whole_number("units", units, 2)  # to be correlated
    if not isinstance(vae.model, GenerativeModel):
        return list(range(min(units, dim)))
    norms = vae.model.A.detach().norm(dim=0)
    return sorted(norms.argsort(descending=True)[:units].tolist())


def _exported(vae: HVAE, halves: list[xr.DataTree]) -> xr.Dataset:
    names = ["z1_correlation", *(f"{site}_{moment}" for site in vae.sites for moment in ("mean", "variance"))]
    return xr.concat([tree["posterior_moments"].to_dataset()[names] for tree in halves], "half")


def _observed(images: Images, exported: xr.DataTree) -> xr.Dataset:
    observed = exported["observed_data"].to_dataset()
    if not isinstance(images, xr.Dataset):
        return observed
    return observed.assign_coords({name: ("image", images[name].values) for name in LABELS if name in images.variables})


def _reference(
    vae: HVAE, x: Tensor, units: list[int], method: str | None, chain: dict[str, Any]
) -> tuple[xr.Dataset, str]:
    if method == "exact" or (method is None and not why_not_linear_gaussian(vae.model)):
        return _exact(vae, x, units), "exact"
    per_image = chain["num_samples"] * chain["chains"] * sum(vae.latents.values()) * x.element_size()
    parts = []
    for batch in x.split(max(1, DRAW_BYTES // per_image)):
        tree = reference_posterior(vae.model, batch, method=method, **chain)
        parts.append(_of_chains(vae, tree, units))
        chain = chain | {"seed": chain["seed"] + 1}
    result = xr.concat(parts, "image")
    return result.assign_coords(image=np.arange(len(x))), tree["posterior"].attrs["sampler"]


def _of_chains(vae: HVAE, tree: xr.DataTree, units: list[int]) -> xr.Dataset:
    """Moments of the two halves of the chains, and the worst convergence among what is compared."""
    posterior = tree["posterior"].to_dataset()
    halves = []
    for part in np.split(np.arange(posterior.sizes["chain"]), HALVES):
        draws = {site: posterior[site].values[part].astype(float) for site in vae.sites}
        draws = {site: z.reshape(-1, *z.shape[2:]) for site, z in draws.items()}  # (draw, image, dim)
        moments = {f"{s}_mean": (("image", f"{s}_dim"), z.mean(0)) for s, z in draws.items()}
        moments |= {f"{s}_variance": (("image", f"{s}_dim"), z.var(0, ddof=1)) for s, z in draws.items()}
        u = draws["z1"][..., units]
        u = (u - u.mean(0)) / u.std(0)
        correlation = np.einsum("dbi,dbj->bij", u, u) / len(u)
        halves.append(xr.Dataset(moments | {"z1_correlation": (("image", "unit", "unit_bis"), correlation)}))
    compared = posterior.isel(z1_dim=units)
    worst = convergence(xr.DataTree.from_dict({"posterior": compared}))[["r_hat", "ess"]]
    result = xr.concat(halves, "half").assign_coords(unit=units, unit_bis=units)
    return result.merge(worst.drop_vars("image", errors="ignore"))


def _exact(vae: HVAE, x: Tensor, units: list[int]) -> xr.Dataset:
    """Both halves without noise."""
    posterior = linear_gaussian_posterior(vae.model, x)
    variables: dict[str, Any] = {}
    for site in vae.sites:
        mean, covariance = (t.cpu().numpy() for t in posterior.moments(site))
        variables[f"{site}_mean"] = (("image", f"{site}_dim"), mean)
        variables[f"{site}_variance"] = (("image", f"{site}_dim"), np.broadcast_to(np.diag(covariance), mean.shape))
    covariance = posterior.moments("z1")[1].cpu().numpy()[np.ix_(units, units)]
    scale = np.sqrt(np.diag(covariance))
    correlation = np.broadcast_to(covariance / scale[:, None] / scale, (len(x), len(units), len(units)))
    variables["z1_correlation"] = (("image", "unit", "unit_bis"), correlation)
    single = xr.Dataset(variables, {"unit": units, "unit_bis": units})
    worst = {"r_hat": ("image", np.ones(len(x))), "ess": ("image", np.full(len(x), np.inf))}
    return xr.concat([single] * HALVES, "half").assign(worst)
