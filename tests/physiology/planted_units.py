"""Pairs of the user's own whose units compute what is known: Gabors, energies, divisively normalised energies.

Images arrive as contrast (no transform). Unit i is a Gabor of ``orientation[i]``, ``frequency[i]`` at ``x[i]``, ``y[i]``
under a round envelope; the posterior s.d. of every unit is 0.5.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_hvae.programs import HVAE

SIZE = 20
SD = 2.5


class Model(nn.Module):
    """Standard Normal z1, and an image that it has no part in: what matters here is the guide."""

    pixels = SIZE**2

    def __init__(self, dim: int):
        super().__init__()
        self.dim, self.mean = dim, nn.Parameter(torch.zeros(SIZE**2))

    def forward(self, x=None):
        with pyro.plate("image", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(x.new_zeros(self.dim), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.mean.expand(len(x), -1), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, even, odd, kind: str, semi: float):
        super().__init__()
        self.register_buffer("even", torch.from_numpy(even).float())
        self.register_buffer("odd", torch.from_numpy(odd).float())
        self.kind, self.semi = kind, semi

    def mean(self, x):
        even, odd = x @ self.even.T, x @ self.odd.T
        if self.kind == "gabor":
            return even
        energy = even**2 + odd**2
        if self.kind == "energy":
            return energy
        pool = (x**2).mean(-1, keepdim=True)  # contrast energy of the whole patch: 1/2 c² for a full-field grating
        return energy / (self.semi**2 + pool)

    def forward(self, x):
        with pyro.plate("image", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(self.mean(x), 0.5 + 0 * x[:, :1]).to_event(1))


def gabors(orientation, frequency, x, y, sd=SD):
    """Even and odd Gabors ``(unit, pixel)``, in the conventions of pyro_hvae.stimuli, written anew."""
    offset = np.arange(SIZE) - (SIZE - 1) / 2
    px, py = np.meshgrid(offset, -offset)
    fields = []
    for o, f, cx, cy in zip(np.deg2rad(orientation), frequency, x, y, strict=True):
        dx, dy = px - cx, py - cy
        envelope = np.exp(-(dx**2 + dy**2) / (2 * sd**2))
        across = dy * np.cos(o) - dx * np.sin(o)
        fields.append([(envelope * wave(2 * np.pi * f * across)).ravel() / 10 for wave in (np.cos, np.sin)])
    return np.array(fields).swapaxes(0, 1)


ORIENTATION = np.array([0.0, 33.0, 62.0, 95.0, 128.0, 171.0])
FREQUENCY = np.array([0.12, 0.15, 0.1, 0.2, 0.17, 0.13])
X = np.array([0.0, 3.0, -2.0, 0.0, 2.0, -3.0])
Y = np.array([0.0, -2.0, 2.0, 3.0, 1.0, -1.0])


def planted_pair(kind: str, semi: float = 0.2) -> HVAE:
    even, odd = gabors(ORIENTATION, FREQUENCY, X, Y)
    return HVAE(Model(len(X)), Guide(even, odd, kind, semi))
