"""Inference as a process in time: the model's own posterior, sampled by Langevin dynamics from the moment an image comes on.

Before the onset each chain stands at a draw of the guide for a uniform field. From then on

    z ← z + ε s² ∇ log p(x, z) + √(2ε) s ξ,    ξ ~ Normal(0, I),

(the drift at most one s a step), with s the posterior s.d. that the guide gives each unit, averaged over the images shown: a
unit that is independent of the others, and for which the guide is right, relaxes with a time constant of one, in units of
1/ε steps. What is kept is the mean over chains (Orbán et al. 2016 take samples for activity; the mean over chains is then
what a peristimulus histogram shows). Starts and noise are the same for every image, so that images differ by nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from pyro_hvae.bounds.traces import Clamp, sample_sites, vectorise
from pyro_hvae.errors import HVAEError
from pyro_hvae.physiology.responses import _moments
from pyro_hvae.physiology.series import Display
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.program import nodes
from pyro_hvae.stimuli import illusory_contours

RATE = 0.05  # ε: steps of a twentieth of a time constant
FARTHEST = 1.0  # s.d. that the drift moves a unit in a step: right after the onset the blank's draws are far from the posterior
CHAINS = 16
TIMES = (
    0,
    1,
    2,
    4,
    6,
    8,
    12,
    16,
    20,
    28,
    40,
    60,
    80,
    120,
    160,
    200,
    240,
)  # steps at which means are kept; 12 time constants
NATURAL = 24  # natural images, evenly spread
SHIFTS = (-1.0, 0.0, 1.0)  # pixels by which the figures are moved
SQUARE = 0.6  # side of the figure, of the patch's


def langevin_means(
    model: Callable,
    x: Tensor,
    start: Mapping[str, Tensor],
    scale: Mapping[str, Tensor],
    *,
    times: tuple[int, ...],
    rate: float,
) -> dict[str, Tensor]:
    """Means over chains of the latents along the dynamics above, ``{site: (time, image, dim)}``.

    :param x: images ``(image, pixel)``.
    :param start: ``{site: (chain, image, dim)}``.
    :param scale: s, ``{site: (dim,)}``.
    :param times: steps after which means are kept, growing, from 0.
    :raises HVAEError: where a latent is no longer finite.
    """
    z = {site: value.clone() for site, value in start.items()}
    chains = next(iter(z.values())).shape[0]
    program = vectorise(model, chains)
    kept: dict[str, list[Tensor]] = {site: [value.mean(0)] for site, value in z.items()}
    for step in range(1, times[-1] + 1):
        leaves = {site: value.detach().requires_grad_() for site, value in z.items()}
        with torch.enable_grad(), pyro.validation_enabled(False), Clamp(leaves):
            trace = poutine.trace(program).get_trace(x)
            trace.compute_log_prob()
            total = sum(node["log_prob"].sum() for node in nodes(trace).values() if node["type"] == "sample")
            gradients = torch.autograd.grad(total, list(leaves.values()))
        for (site, value), gradient in zip(leaves.items(), gradients, strict=True):
            s = scale[site]
            drift = (rate * s * gradient).clamp(-FARTHEST, FARTHEST)
            z[site] = value.detach() + s * (drift + (2 * rate) ** 0.5 * torch.randn_like(value[:, :1]))
        if step in times:
            for site, value in z.items():
                if not bool(value.isfinite().all()):
                    raise HVAEError(
                        f"{site} is not finite after {step} steps of the dynamics; look for images or parameters that are not"
                    )
                kept[site].append(value.mean(0))
    return {site: torch.stack(means) for site, means in kept.items()}


@torch.no_grad()
def has_course(vae: HVAE) -> bool:
    """Whether every latent is a real number, along which the dynamics can go (the c of a contrast model is not)."""
    x = vae._probe()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        sites = sample_sites(poutine.trace(vae.model).get_trace(x), observed=False)
    return all(
        getattr(node["fn"].support, "base_constraint", node["fn"].support) is torch.distributions.constraints.real
        for node in sites.values()
    )


def time_course(display: Display, images: np.ndarray | None, units: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Means of every layer after the onset of natural images and of illusory contours with their controls.

    :param images: natural ones ``(image, pixel)``, as the pair sees them; None for none.
    """
    vae, like = display.vae, display.vae._probe()
    figures = illusory_contours(display.size, square=(SQUARE * display.size,), shift=SHIFTS)
    shown, kinds = [display.seen(figures["x"].values)], list(figures["family"].values.astype(str))
    if images is not None:
        few = images[np.linspace(0, len(images) - 1, min(NATURAL, len(images))).round().astype(int)]
        shown, kinds = [few, *shown], ["natural"] * len(few) + kinds
    x = torch.from_numpy(np.concatenate(shown)).to(like)
    devices = [like.device] if like.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
        torch.manual_seed(display.seed)
        guide = vectorise(vae.guide, CHAINS)
        blank = torch.from_numpy(display.seen(np.ones((1, vae.pixels)))).to(like).expand(len(x), -1)
        before = sample_sites(poutine.trace(guide).get_trace(blank), observed=False)
        after = sample_sites(poutine.trace(guide).get_trace(x), observed=False)
        start = {site: node["value"][:, :1].expand_as(node["value"]) for site, node in before.items()}
        scale = {site: _moments(node["fn"], site)[1].mean((0, 1)).sqrt().to(like) for site, node in after.items()}
        means = langevin_means(vae.model, x, start, scale, times=TIMES, rate=RATE)
    variables: dict[str, Any] = {
        f"{site}_mean": (("time", "image", f"{site}_unit"), means[site].cpu().numpy()[..., index].astype(np.float32))
        for site, index in units.items()
    }
    coordinates = {f"{site}_unit": index for site, index in units.items()}
    variables["kind"] = ("image", np.array(kinds))
    return xr.Dataset(variables, {"time": RATE * np.array(TIMES), **coordinates})
