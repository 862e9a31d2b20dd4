"""Exact posterior and evidence of linear-Gaussian hierarchies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.models import GenerativeModel, SkipModel
from pyro_hvae.programs.sites import LOG_VARIANCE_BOUND


@dataclass(frozen=True)
class GaussianPosterior:
    """p(z1, …, zL | x) = Normal(mean, covariance), in double precision.

    The covariance does not depend on the image. Latents are concatenated as (z1, …, zL).
    """

    mean: Tensor
    """``(image, latent)``"""
    covariance: Tensor
    """``(latent, latent)``"""
    log_evidence: Tensor
    """log p(x), nats, ``(image,)``"""
    dims: tuple[int, ...]
    """Dimensions of z1 … zL."""

    def moments(self, site: str) -> tuple[Tensor, Tensor]:
        """Mean ``(image, dim)`` and covariance ``(dim, dim)`` of one site, ``"z1"`` … ``"zL"``."""
        names = [f"z{l}" for l in range(1, len(self.dims) + 1)]
        if site not in names:
            raise HVAEError(f"there is no site {site!r} in this posterior; its sites are {', '.join(names)}")
        start = sum(self.dims[: names.index(site)])
        here = slice(start, start + self.dims[names.index(site)])
        return self.mean[:, here], self.covariance[here, here]

    def sample(self, sample_shape: Sequence[int] = ()) -> dict[str, Tensor]:
        """Independent draws ``{site: (*sample_shape, image, dim)}``."""
        noise = torch.randn(*sample_shape, *self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)
        z = self.mean + noise @ torch.linalg.cholesky(self.covariance).T
        return {f"z{l}": part for l, part in enumerate(z.split(self.dims, -1), start=1)}


@torch.no_grad()
def linear_gaussian_posterior(model: GenerativeModel, x: Tensor) -> GaussianPosterior:
    """Exact posterior of a model of ours that is jointly Gaussian in (z1, …, zL, x).

    That is so where every site is Normal, every p(zl | zl+1) has no softplus units (``hidden=()``) and a constant scale,
    and the skip path of a :class:`~pyro_hvae.programs.SkipModel` has none (``skip_hidden=()``).

    The latents are an affine map of standard normal noise e, one entry per latent, and x of z:
    z = M e + m, x = G z + c + sigma n. So e | x is Normal with precision I + (G M)'(G M) / sigma^2.

    :param x: images ``(image, pixel)``.
    :raises HVAEError: naming what is not linear-Gaussian.
    """
    if reason := why_not_linear_gaussian(model):
        raise HVAEError(reason)
    model._check_image(x)
    x = x.double()
    like: dict[str, Any] = dict(dtype=torch.float64, device=x.device)
    dims, D = model.dims, sum(model.dims)
    starts = [sum(dims[:l]) for l in range(model.layers + 1)]
    M, m = torch.zeros(D, D, **like), torch.zeros(D, **like)
    top = slice(starts[-2], D)
    M[top, top] = torch.eye(dims[-1], **like)
    for l in range(model.layers - 2, -1, -1):
        here, above = slice(starts[l], starts[l + 1]), slice(starts[l + 1], starts[l + 2])
        _, head = model.conditionals[l].children()
        weight, v = head.location_weight.double(), head.v_bias.double().clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        M[here] = weight @ M[above]
        M[here, here] = torch.diag(torch.exp(0.5 * v))
        m[here] = weight @ m[above] + head.location_bias.double()
    G = torch.zeros(model.pixels, D, **like)
    G[:, : dims[0]] = model.to_image.weight.double()
    if isinstance(model, SkipModel):
        G[:, dims[0] :] = model.skip_to_image.weight.double()
    sigma = model.sigma.double()
    H = G @ M / sigma
    r = (x - (G @ m + model.to_image.bias.double())) / sigma
    L = torch.linalg.cholesky(torch.eye(D, **like) + H.T @ H)
    e = torch.cholesky_solve(H.T @ r.T, L).T
    half = torch.linalg.solve_triangular(L, M.T, upper=False)
    # |r|^2 - r'H e is r' (I + H H')^-1 r, and |I + H'H| = |I + H H'|.
    log_det = 2 * L.diagonal().log().sum() + 2 * model.pixels * sigma.log()
    log_evidence = -0.5 * ((r * (r - e @ H.T)).sum(-1) + log_det + model.pixels * math.log(2 * math.pi))
    return GaussianPosterior(e @ M.T + m, half.T @ half, log_evidence, dims)


def why_not_linear_gaussian(model: nn.Module) -> str:
    """What keeps a model from being jointly Gaussian, and what to do; empty where nothing does."""
    name = type(model).__name__
    if not isinstance(model, GenerativeModel):
        return f"the exact posterior is known for our own models only, not for {name}; use nuts(model, x)"
    for site, family in zip(model.sites, model.families, strict=True):
        if family != "normal":
            return (
                f"{site} of this {name} is {family}, so the posterior is not Gaussian; use gibbs(model, x), or build "
                f"the model with families={('normal',) * model.layers}"
            )
    for l, network in enumerate(model.conditionals, start=1):
        trunk, head = network.children()
        if len(trunk.layers):
            return (
                f"p(z{l} | z{l + 1}) of this {name} has {len(trunk.layers)} softplus layers, so it is not affine; "
                "use gibbs(model, x), or build the model with hidden=() there"
            )
        if head.v_weight.any():
            return (
                f"the scale of p(z{l} | z{l + 1}) of this {name} depends on z{l + 1} (weights of v are not zero), so "
                "the posterior is not Gaussian; use gibbs(model, x)"
            )
    if isinstance(model, SkipModel) and len(model.skip.layers):
        return (
            f"the skip path of this {name} has {len(model.skip.layers)} softplus layers, so x is not affine in z2; "
            "use gibbs(model, x), or build the model with skip_hidden=()"
        )
    return ""
