"""A pair as users write it: plain modules, no base class of ours."""

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import nn

from pyro_hvae.programs import HVAE


class Model(nn.Module):
    """A plain module. ``mask`` of images, ``scale`` of the KL, ``full`` size of a subsampled plate."""

    pixels = 16

    def __init__(self, mask=None, scale=1.0, full=None):
        super().__init__()
        self.linear, self.mask, self.scale, self.full = nn.Linear(4, 16), mask, scale, full

    def image_mean(self, z):
        return self.linear(z)

    def forward(self, x=None):
        size = dict(size=len(x)) if self.full is None else dict(size=self.full, subsample_size=len(x))
        with pyro.plate("image", dim=-1, **size):
            with poutine.scale(scale=self.scale):
                z = pyro.sample("z1", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            with poutine.mask(mask=True if self.mask is None else self.mask(x)):
                return pyro.sample("x", dist.Normal(self.image_mean(z), 0.5).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, *layers, scale=1.0, full=None):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 8), *layers, nn.Tanh())
        self.location, self.log_scale, self.scale, self.full = nn.Linear(8, 4), nn.Linear(8, 4), scale, full

    def forward(self, x):
        h = self.net(x)
        size = dict(size=len(x)) if self.full is None else dict(size=self.full, subsample_size=len(x))
        with pyro.plate("image", dim=-1, **size), poutine.scale(scale=self.scale):
            pyro.sample("z1", dist.Normal(self.location(h), self.log_scale(h).exp()).to_event(1))


def mixed(*layers):
    return HVAE(Model(), Guide(*layers))
