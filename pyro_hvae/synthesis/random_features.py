"""Textures by one layer of random filters (Ustyuzhaninov 2022, doctoral thesis, Tübingen; [U22])."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize

from pyro_hvae.errors import HVAEError
from pyro_hvae.synthesis.result import Synthesis

FILTERS = (3, 5, 7, 11, 15, 23, 37, 55)


def random_features(
    example: np.ndarray,
    *,
    steps: int = 2000,
    seed: int = 0,
    rectify: bool = True,
    maps: int = 128,
    filters: Sequence[int] = FILTERS,
) -> Synthesis:
    """Image with the Gram matrix of one layer of random filters of `example` (side, side), values 0 to 1 [U22].

    `maps` filters of each side in `filters` (those larger than a third of the example are left out), Glorot uniform,
    ReLU, Gram matrix of all maps together, averaged over positions; L-BFGS-B within [0, 1] from uniform noise with the
    mean of the example, loss scaled by 1e7, at most `steps` iterations. Without `rectify` only second-order statistics
    are kept: a control.

    The Gram matrix of the example is taken where filters lie within it, that of the synthesised image on a torus, so
    that neither has borders.
    """
    example = np.asarray(example, np.float32)
    if example.min() < 0 or example.max() > 1:
        raise HVAEError(f"the example goes from {example.min():g} to {example.max():g}; expected values from 0 to 1.")
    used = [f for f in filters if 3 * f <= min(example.shape)]
    if not used:
        raise HVAEError(
            f"no filter of {tuple(filters)} is at most a third of {example.shape[0]}×{example.shape[1]} pixels."
        )
    rng = np.random.default_rng(seed)
    bank = _FilterBank(used, maps, example.shape, rectify, rng)
    with torch.no_grad():
        target = bank.gram(torch.as_tensor(example), inside=True)
    mean = float(example.mean())
    # Noise about another mean sends the first steps to a black image, where every derivative is 0.
    start = mean + min(mean, 1 - mean) * rng.uniform(-1, 1, example.shape)
    losses: list[float] = []

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.tensor(flat.reshape(example.shape), dtype=torch.float32, requires_grad=True)
        loss = 1e7 * (bank.gram(x, inside=False) - target).square().mean()
        loss.backward()
        assert x.grad is not None
        losses.append(loss.item())
        return losses[-1], x.grad.numpy().astype(np.float64).ravel()

    found = minimize(
        objective, start.ravel(), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * start.size,
        options={"maxiter": steps, "maxfun": 2 * steps, "maxcor": 20, "ftol": 0, "gtol": 0},
    )  # fmt: skip
    if found.x.std() < 1e-6:
        raise HVAEError("synthesis ended in a flat image; try another seed, or an example that is not nearly flat.")
    best = np.minimum.accumulate(losses)
    return Synthesis(found.x.reshape(example.shape).astype(np.float32), (*best[::10].tolist(), float(found.fun)))


def random_linear(example: np.ndarray, *, steps: int, seed: int) -> Synthesis:
    """`random_features` without ReLU."""
    return random_features(example, steps=steps, seed=seed, rectify=False)


class _FilterBank:
    """Random filters of several sizes, applied by Fourier transform."""

    def __init__(
        self, sizes: Sequence[int], maps: int, shape: tuple[int, ...], rectify: bool, rng: np.random.Generator
    ) -> None:
        self.rectify, self.largest, self.shape = rectify, max(sizes), shape
        spectra = []
        for side in sizes:
            bound = np.sqrt(6 / (side**2 * (1 + maps)))  # Glorot: fan in side², fan out side² · maps
            kernels = np.zeros((maps, *shape), np.float32)
            kernels[:, :side, :side] = rng.uniform(-bound, bound, (maps, side, side))
            # Centred on pixel 0, so that maps of all sizes stand over one another.
            kernels = np.roll(kernels, (-(side // 2), -(side // 2)), axis=(1, 2))
            spectra.append(torch.fft.rfft2(torch.as_tensor(kernels)))
        self.spectra = torch.cat(spectra)

    def gram(self, image: torch.Tensor, *, inside: bool) -> torch.Tensor:
        """Mean over positions of the products of all pairs of maps: all positions, or those clear of the border."""
        maps = torch.fft.irfft2(self.spectra * torch.fft.rfft2(image), s=self.shape)
        if self.rectify:
            maps = maps.relu()
        if inside:
            margin = self.largest // 2
            maps = maps[:, margin : maps.shape[1] - margin, margin : maps.shape[2] - margin]
        flat = maps.flatten(1)
        return flat @ flat.T / flat.shape[1]
