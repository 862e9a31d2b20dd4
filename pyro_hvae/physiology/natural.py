"""Natural images at several contrasts: does the posterior get surer as the evidence gets stronger?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine

from pyro_hvae.bounds.traces import sample_sites, vectorise
from pyro_hvae.physiology.responses import CHUNK, Unsampled, _moments, last_site
from pyro_hvae.physiology.series import Display

SCALES = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)
IMAGES = 64  # evenly spread, of those given


def natural_contrast(
    display: Display, images: np.ndarray, units: Mapping[str, np.ndarray], scales: Sequence[float]
) -> xr.Dataset:
    """Posterior variances of every layer for images ``(image, pixel)`` of the pair, multiplied by each scale.

    Whitening is linear in matched intensity, so a scale is the contrast of an image in the space that the model describes.
    ``z1_from_above`` is Var[E[z1 | z2, x]]: the part of the variance of z1 that comes through the layer above.
    """
    images = images[np.linspace(0, len(images) - 1, min(IMAGES, len(images))).round().astype(int)]
    x = np.concatenate([scale * images for scale in scales])
    found: dict[str, list[np.ndarray]] = {}
    vae, last = display.vae, last_site(display.vae)
    like = vae._probe()
    devices = [like.device] if like.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), pyro.validation_enabled(False), Unsampled(last):
        torch.manual_seed(display.seed)
        for start in range(0, len(x), CHUNK):
            part = torch.from_numpy(x[start : start + CHUNK]).to(like)
            trace = poutine.trace(vectorise(vae.guide, display.draws)).get_trace(part)
            for site, node in sample_sites(trace, observed=False).items():
                mean, variance = (t.double()[..., np.array(units[site])] for t in _moments(node["fn"], site))
                between = mean.var(0)
                found.setdefault(f"{site}_mean", []).append(mean.mean(0).cpu().numpy())
                found.setdefault(f"{site}_variance", []).append((variance.mean(0) + between).cpu().numpy())
                if site == "z1":
                    found.setdefault("z1_from_above", []).append(between.cpu().numpy())
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {"scale": list(scales), **{f"{site}_unit": index for site, index in units.items()}}
    for name, parts in found.items():
        values = np.concatenate(parts).reshape(len(scales), len(images), -1)
        variables[name] = (("scale", "image", f"{name.split('_')[0]}_unit"), values.astype(np.float32))
    return xr.Dataset(variables, coordinates)
