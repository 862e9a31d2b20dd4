"""Most and least exciting images of a unit, at a fixed norm, from several starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from pyro_hvae.bounds.traces import vectorise
from pyro_hvae.errors import HVAEError
from pyro_hvae.physiology.responses import CHUNK, Responses, Unsampled, _moments, last_site, unit_responses
from pyro_hvae.physiology.series import Display

UNITS = 16  # of each layer
STARTS = 8
STEPS = 120
STEP = 0.1  # Adam's, for coefficients of root mean square 1
DRAWS = 2  # of the layers above, at each step
NATURAL = 256  # images that the optima are compared with


def optima(
    display: Display,
    images: np.ndarray,
    strongest: Mapping[str, np.ndarray],
    blank: Mapping[str, Responses],
    response: str,
) -> xr.Dataset:
    """Images of the natural images' median norm, inside the subspace that whitening keeps, which drive a unit most and least.

    Gradient ascent (Adam) through the guide's mean or s.d., every layer above by draws that follow the image (pathwise), with
    the norm fixed by scaling at each step; :data:`STARTS` random starts in the same subspace. The response is the mean of the
    unit, \\|mean - mean at a uniform field\\|, or its s.d., as declared.

    :param strongest: units of each layer, in order of their response to gratings; the first :data:`UNITS` are taken.
    """
    norm = float(np.median(np.linalg.norm(images, axis=1)))
    if not norm > 0:
        raise HVAEError("the images are all zero, so there is no norm at which to look for exciting ones")
    natural = images[np.linspace(0, len(images) - 1, min(NATURAL, len(images))).round().astype(int)]
    natural = natural * (norm / np.maximum(np.linalg.norm(natural, axis=1, keepdims=True), 1e-12))
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {}
    for site, order in strongest.items():
        units = np.sort(order[:UNITS])
        at_blank = blank[site].mean[units]
        coordinates[f"{site}_optimum"] = units
        for which, sign in (("most", 1.0), ("least", -1.0)):
            found, values = _ascended(display, site, units, at_blank, norm, response, sign)
            variables[f"{site}_{which}"] = ((f"{site}_optimum", "start", "pixel"), found.astype(np.float32))
            variables[f"{site}_{which}_response"] = ((f"{site}_optimum", "start"), values)
        shown = np.tile(natural, (len(units), 1))
        index = np.repeat(units, len(natural))
        seen = unit_responses(display.vae, shown, site, index, draws=display.draws, seed=display.seed)
        answers = _of_numpy(seen, np.repeat(at_blank, len(natural)), response).reshape(len(units), -1)
        variables[f"{site}_natural_response"] = ((f"{site}_optimum", "image"), answers)
    return xr.Dataset(variables, coordinates, {"norm": norm, "steps": STEPS})


def _raw(mean: Tensor, sd: Tensor, blank: Tensor, response: str) -> Tensor:
    if response == "sd":
        return sd
    return mean if response == "mean" else (mean - blank).abs()


def _of_numpy(seen: Responses, blank: np.ndarray, response: str) -> np.ndarray:
    return _raw(torch.from_numpy(seen.mean), torch.from_numpy(seen.sd), torch.from_numpy(blank), response).numpy()


def _basis(display: Display) -> np.ndarray:
    """Orthonormal rows that span the images that there are: the kept components of the whitening."""
    return np.eye(display.vae.pixels) if display.transform is None else display.transform.components


def _ascended(
    display: Display, site: str, units: np.ndarray, at_blank: np.ndarray, norm: float, response: str, sign: float
) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(unit, start, pixel)`` and responses ``(unit, start)``, measured anew with the display's draws."""
    vae, like = display.vae, display.vae._probe()
    basis = torch.from_numpy(_basis(display)).to(like)
    index = torch.from_numpy(np.repeat(units, STARTS)).to(like.device)
    reference = torch.from_numpy(np.repeat(at_blank, STARTS)).to(like)
    last, found = last_site(vae), []
    devices = [like.device] if like.is_cuda else []
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False), torch.enable_grad():
        torch.manual_seed(display.seed)
        start = torch.randn(len(index), len(basis)).to(like)
        for begin in range(0, len(index), CHUNK):
            part = slice(begin, begin + CHUNK)
            c, first, second = start[part].clone(), 0.0, 0.0
            for step in range(1, STEPS + 1):
                c = c.detach().requires_grad_()
                with Unsampled(last):
                    trace = poutine.trace(vectorise(vae.guide, DRAWS)).get_trace(_scaled(c, basis, norm))
                mean, variance = _moments(trace.nodes[site]["fn"], site, index[part])
                sd = (variance.mean(0) + mean.var(0)).sqrt() if response == "sd" else variance
                objective = sign * _raw(mean.mean(0), sd, reference[part], response).sum()
                (gradient,) = torch.autograd.grad(objective, c)
                # Gradients differ in scale by unit, and Adam shares nothing between images: each is brought to norm 1.
                gradient = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
                first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
                ahead = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
                c = c.detach() + STEP * (1 - (step - 1) / STEPS) * ahead
                c = c * len(basis) ** 0.5 / c.norm(dim=1, keepdim=True)
            found.append(_scaled(c.detach(), basis, norm).double().cpu().numpy())
    images = np.concatenate(found)
    seen = unit_responses(vae, images, site, np.repeat(units, STARTS), draws=display.draws, seed=display.seed)
    values = _of_numpy(seen, np.repeat(at_blank, STARTS), response)
    return images.reshape(len(units), STARTS, -1), values.reshape(len(units), STARTS)


def _scaled(c: Tensor, basis: Tensor, norm: float) -> Tensor:
    return norm * (c / c.norm(dim=1, keepdim=True)) @ basis
