"""A start of z1 that sees: the independent components of the training patches as its fields.

With Laplace z1 and p(x | z1) = Normal(A z1 + c, sigma²) the model is noisy independent component analysis (Olshausen and Field
1997; Bell and Sejnowski 1997), for whose noise-free case there is an algorithm that takes seconds: FastICA (Hyvärinen 1999).
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
from pyro import poutine
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.guides import TopDownGuide
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.programs.models import GenerativeModel
from pyro_hvae.programs.pair import HVAE
from pyro_hvae.programs.sites import Head
from pyro_hvae.starts.linear_regime import check_own, start_guide, start_model

SAMPLES = 60_000  # patches that the components are estimated from, at most
FITTED = 10_000  # patches that the guide's last layer is fitted to
ITERATIONS = 200
#: Of what the guide's networks read from the image. At 0.4 patches of high contrast leave the linear range of softplus, and the
#: first bound is worse than -10,000 nats.
INPUT_GAIN = 0.15
RIDGE = 1e-7  # of the mean squared feature


@checked
@torch.no_grad()
def start_from_ica(vae: HVAE, x: Tensor) -> HVAE:
    """Start a pair with the independent components of ``x`` as z1's fields; in place, and returned.

    All networks start as :func:`~pyro_hvae.starts.linear_regime.start_in_linear_regime` starts them. Then A gets the mixing
    directions, scaled so that E|z1_i| = 1 as p(z1) = Laplace(0, 1) has it; columns beyond the rank of ``x`` are zero. In the
    guide the last layer of q(z1 | …) is fitted by least squares to the unmixed coefficients; the ladder guide starts in closed
    form. Normal sources have no preferred rotation, and there is nothing for ICA to find: with Normal z1 the fields are
    principal components, A A' = cov(x) - sigma² I (probabilistic PCA, Tipping and Bishop 1999), and no iterations are recorded.

    ``vae.starts`` records components, patches, iterations (and whether they converged) and seconds.

    :param x: training images ``(image, pixel)``; some tens of thousands, of which at most 60,000 are used.
    :raises HVAEError: for programs that are not ours, or fewer than ten images a component.
    """
    check_own(vae, "ICA")
    model, guide = vae.model, vae.guide
    if x.dim() != 2 or x.shape[1] != model.pixels:
        raise HVAEError(f"the ICA start needs images (image, pixel) of {model.pixels} pixels, got {tuple(x.shape)}")
    began = time.perf_counter()
    sample = x[torch.randperm(len(x))[:SAMPLES].to(x.device)].double().cpu().numpy()
    mean, values, vectors = _principal_components(sample)
    noise = float(model.sigma.detach()) ** 2
    rank = int((values > 1e-3 * values[0]).sum())
    count = min(rank, model.dims[0])
    if len(sample) < 10 * count:
        raise HVAEError(
            f"the ICA start estimates {count} components and needs at least {10 * count} images, got {len(sample)}; give more "
            "training patches, or start='linear_regime'"
        )
    record: dict[str, Any] = {"components": count, "patches": len(sample)}
    if model.families[0] == "laplace":
        mixing, unmixing, record["iterations"], record["converged"] = _fast_ica(sample, count)
        size = np.abs((sample - mean) @ unmixing.T).mean(0)  # E|z|
        mixing, unmixing = mixing * size, unmixing / size[:, None]
    else:
        signal = np.sqrt(np.maximum(values[:count] - noise, 1e-3 * noise))
        mixing = vectors[:, :count] * signal
        unmixing = (vectors[:, :count] * signal / values[:count]).T  # E[z | x]
    start_guide(guide, INPUT_GAIN)
    start_model(model)
    A = model.to_image.weight
    A.zero_()
    A[:, :count] = torch.from_numpy(mixing).to(A)
    model.to_image.bias.copy_(torch.from_numpy(mean).to(A))
    if isinstance(guide, LadderGuide):
        guide.start_in_closed_form()
    else:
        _fit_z1(model, guide, torch.from_numpy(sample[:FITTED]).to(A), torch.from_numpy(unmixing).to(A))
    vae.starts.append({"start": "ica"} | record | {"seconds": round(time.perf_counter() - began, 1)})
    return vae


def _principal_components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variances in falling order, directions ``(pixel, component)``."""
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    return mean, values[::-1], vectors[:, ::-1]


def _fast_ica(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Mixing ``(pixel, component)``, unmixing ``(component, pixel)``, iterations, whether they converged."""
    ica = FastICA(
        count,
        fun="logcosh",
        whiten="unit-variance",
        max_iter=ITERATIONS,
        tol=1e-3,
        whiten_solver="eigh",
        random_state=int(torch.randint(2**31, ())),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # in the record
        ica.fit(x)
    return ica.mixing_, ica.components_, int(ica.n_iter_), bool(ica.n_iter_ < ITERATIONS)


def _fit_z1(model: GenerativeModel, guide: nn.Module, x: Tensor, unmixing: Tensor) -> None:
    """q(z1 | …): location the unmixed coefficients, by least squares from the head's features; scale that of noise on them."""
    head, features = z1_head(guide, x)
    g = model.A.square().sum(0)
    wanted = torch.zeros_like(head.location_bias).expand(len(x), -1).clone()
    wanted[:, : len(unmixing)] = (x - model.to_image.bias) @ unmixing.T
    scale_squared = (
        model.sigma.square() / g / (2 if model.families[0] == "laplace" else 1)
    )  # the variance of Laplace(b) is 2 b²
    fit_last_layer(head, features, wanted, torch.where(g > 0, scale_squared.log(), torch.zeros_like(g)))


def fit_last_layer(head: Head, features: Tensor, wanted: Tensor, v: Tensor) -> None:
    """Location by least squares from features ``(image, feature)`` to ``wanted (image, dim)``; v, ``(dim,)``, constant."""
    mean = features.mean(0)
    centred = (features - mean).double()
    gram = centred.T @ centred
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram, centred.T @ (wanted - wanted.mean(0)).double()).T.to(features)
    head.set_linear(weight, wanted.mean(0) - weight @ mean, v)


def z1_head(guide: nn.Module, x: Tensor) -> tuple[Head, Tensor]:
    """The head of q(z1 | …) and what it reads, the layers above drawn from the guide."""
    head: Any = guide.heads[0] if isinstance(guide, TopDownGuide) else guide.conditionals[0][1]
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        poutine.trace(guide).get_trace(x)
    hook.remove()
    return head, seen[0]
