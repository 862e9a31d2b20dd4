"""Posterior mean and s.d. of units, for many images: of all units, or of one unit an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from pyro_hvae.bounds.traces import sample_sites, vectorise
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, LaplaceNormalProduct

CHUNK = 512  # images shown at a time
#: Families of which single units can be taken, by their parameters.
_SEPARABLE = (dist.Normal, dist.Laplace, LaplaceNormalProduct)


class Responses(NamedTuple):
    """Moments of posteriors, float64."""

    mean: np.ndarray
    sd: np.ndarray


class Unsampled(Messenger):
    """Spare the draw of a site that nothing in the program hangs on: its value is zero, its distribution what it is."""

    def __init__(self, site: str):
        super().__init__()
        self.site = site

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == self.site:
            fn = msg["fn"]
            like = next(iter(_parameters(fn)), torch.zeros(()))
            msg["value"], msg["done"] = like.new_zeros(fn.batch_shape + fn.event_shape), True


def _parameters(fn: Any) -> Iterator[Tensor]:
    base = getattr(fn, "base_dist", fn)
    for name in getattr(base, "arg_constraints", {}):
        if isinstance(value := getattr(base, name, None), Tensor):
            yield value


@contextmanager
def _inferring(seed: int, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        yield


def last_site(vae: HVAE) -> str:
    """The site that the guide samples last: no other hangs on its value."""
    with _inferring(0, vae._probe().device):
        return list(sample_sites(poutine.trace(vae.guide).get_trace(vae._probe()), observed=False))[-1]


def responses(vae: HVAE, x: np.ndarray, *, draws: int = 8, seed: int = 0) -> dict[str, Responses]:
    """Moments of every unit of every layer, ``{site: (image, dim)}``, by the law of total variance over ``draws`` of what the
    guide draws before a site.

    :param x: images ``(image, pixel)`` as the pair sees them.
    :raises HVAEError: where a site of the guide has no mean or variance.
    """
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {site: [] for site in vae.sites}
    last = last_site(vae)
    for images in _chunks(vae, x):
        with _inferring(seed, images.device), Unsampled(last):
            trace = poutine.trace(vectorise(vae.guide, draws)).get_trace(images)
            for site, node in sample_sites(trace, observed=False).items():
                parts[site].append(_total(*_moments(node["fn"], site), draws))
    return {site: _joined(found) for site, found in parts.items()}


def unit_responses(
    vae: HVAE, x: np.ndarray, site: str, units: np.ndarray, *, draws: int = 8, seed: int = 0
) -> Responses:
    """Moments of one unit an image, ``(image,)``: of ``units[i]`` of ``site`` for image i. Where densities of units can be
    taken apart, as ours can, the others cost nothing."""
    found = []
    last, start = last_site(vae), 0
    for images in _chunks(vae, x):
        index = torch.from_numpy(np.ascontiguousarray(units[start : start + len(images)])).to(images.device)
        start += len(images)
        with _inferring(seed, images.device), Unsampled(last):
            trace = poutine.trace(vectorise(vae.guide, draws)).get_trace(images)
            found.append(_total(*_moments(trace.nodes[site]["fn"], site, index), draws))
    return _joined(found)


def _chunks(vae: HVAE, x: np.ndarray) -> Iterator[Tensor]:
    like = vae._probe()
    for start in range(0, len(x), CHUNK):
        part = np.ascontiguousarray(x[start : start + CHUNK])
        if not np.isfinite(part).all():
            raise HVAEError("the images hold NaN or infinite values; leave those out")
        yield torch.from_numpy(part).to(like)


def _moments(fn: Any, site: str, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(…, image, dim)``, or of one unit an image ``(…, image)``."""
    base = fn.base_dist if isinstance(fn, Independent) else fn
    if index is not None and isinstance(base, _SEPARABLE) and len(fn.event_shape) == 1:
        taken = [_taken(getattr(base, name).expand(base.batch_shape), index) for name in base.arg_constraints]
        kind: Any = type(base)
        one = kind(*taken, validate_args=False)
        return one.mean, one.variance
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError as error:
        raise HVAEError(
            f"site {site} of the guide is a {type(base).__name__}, which has no mean and variance"
        ) from error
    events = len(fn.event_shape)
    mean, variance = (t.flatten(-events) if events else t.unsqueeze(-1) for t in (mean, variance))
    return (mean, variance) if index is None else (_taken(mean, index), _taken(variance, index))


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """``values (…, image, dim)`` at one index an image."""
    where = index.view(*(1,) * (values.dim() - 2), -1, 1).expand(*values.shape[:-1], 1)
    return values.gather(-1, where).squeeze(-1)


def _total(mean: Tensor, variance: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    if draws == 1:
        return mean.double(), variance.double()
    mean, variance = mean.double(), variance.double()
    return mean.mean(0), variance.mean(0) + mean.var(0)


def _joined(parts: list[tuple[Tensor, Tensor]]) -> Responses:
    mean, variance = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
    return Responses(mean, np.sqrt(variance))
