"""Contrast as a cause: one positive scalar c that multiplies what z1 does to the image.

The explaining-away VAE of Catoni et al. (arXiv 2404.15390) [C24], after the Gaussian scale mixtures of Wainwright and
Simoncelli (2000):

    p(x, z1, z2, c) = Normal(x; c A z1 + b, sigma² I) p(z1 | z2) p(z2) LogNormal(c; 0, tau)

with any of :mod:`~pyro_hvae.programs.models` below c. Given c an image of low contrast says less of z1, for x / c has noise
sigma / c: uncertainty about z1 falls as contrast rises, which it does not where z1 itself has to carry the contrast.

The guide infers c from the image first, then the layers as another guide does: given c, from x / c, which is divisive
normalisation; or without it, q(c | x) q(z | x), as published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_hvae.arguments import as_annotated
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.ladder import LadderGuide
from pyro_hvae.programs.models import GenerativeModel
from pyro_hvae.programs.networks import MLP
from pyro_hvae.programs.program import LayeredProgram, Program, described
from pyro_hvae.programs.sites import Head

SITE = "c"
ENERGY_FLOOR = 1e-6
"""Of an image's mean square, so that its logarithm is finite for a grey one."""


def log_contrast(image: Tensor) -> Tensor:
    """Logarithm of the root mean square of each image over its pixels, ``(..., image, 1)``."""
    return 0.5 * (image.square().mean(-1, keepdim=True) + ENERGY_FLOOR).log()


class ContrastModel(Program):
    """p(x | z, c) = Normal(b + c (mean of the base model at z - b), sigma² I), log c ~ Normal(0, tau²).

    :param base: the generative model below c.
    :param spread: tau, the standard deviation of log c under the prior.
    :raises HVAEError: for a base that is none of our models, or a spread that is not positive.
    """

    def __init__(self, base: GenerativeModel, spread: float = 1.0):
        super().__init__()
        if not isinstance(base, GenerativeModel):
            raise HVAEError(f"the base of a ContrastModel is one of our generative models, got {type(base).__name__}")
        spread = float(as_annotated("spread", spread, float))
        if not (math.isfinite(spread) and spread > 0):
            raise HVAEError(f"the spread of log c is a standard deviation and must be positive, got spread={spread!r}")
        self.base, self.spread = base, spread
        self.pixels, self.dims, self.families = base.pixels, base.dims, base.families
        self.config: dict[str, Any] = dict(base=described(base), spread=spread)

    def forward(self, x: Tensor | None = None, *, num_images: int = 1) -> Tensor:
        """The Pyro program, as that of :class:`~pyro_hvae.programs.models.GenerativeModel`; c is ``(image, 1)``."""
        base = self.base
        if x is not None:
            base._check_image(x)
        with pyro.plate("image", num_images if x is None else x.shape[0], dim=-1):
            c = pyro.sample(SITE, self.prior())
            b = base.to_image.bias
            mean = (b + c * (base.image_mean(base.layers_above()) - b)).to(base.log_sigma.dtype)
            return pyro.sample("x", dist.Normal(mean, base.sigma).to_event(1), obs=x)

    def prior(self) -> dist.TorchDistribution:
        """p(c), of event shape (1,)."""
        zero = self.base.to_image.bias.new_zeros(1)
        return dist.LogNormal(zero, zero + self.spread).to_event(1)

    def gain(self, values: Mapping[str, Tensor]) -> Tensor:
        """What A is multiplied by given the sites: c, ``(..., image, 1)``."""
        return values[SITE]

    @property
    def A(self) -> Tensor:
        """Linear generative map from z1 to an image of c = 1, ``(pixel, z1_dim)``."""
        return self.base.A

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the observation noise, 0-d."""
        return self.base.sigma


def layers_of(model: nn.Module) -> GenerativeModel | None:
    """The layers z1 … zL of one of our models, with the map A to an image (of c = 1); None for a program of one's own."""
    model = model.base if isinstance(model, ContrastModel) else model
    return model if isinstance(model, GenerativeModel) else None


class ContrastGuide(Program):
    """q(c | x) q(z | x, c) or q(c | x) q(z | x): c first, then the layers by a guide of the base model.

    log c is Normal, with location log|x - b| + (a network of the image and its energy): the network starts at zero.

    :param model: the :class:`ContrastModel` that the guide belongs to.
    :param base: a guide of the base model. Given c the ladder guide reads (x - b) / c with widths s / c, which is exact where
        the ladder guide is; another guide reads log c beside the pixels of (x - b) / c, and is built for ``pixels + 1``.
    :param hidden: softplus units of the network of q(c | x).
    :param dependent: whether the layers are inferred given c.
    """

    def __init__(
        self,
        model: nn.Module,
        base: LayeredProgram,
        hidden: Sequence[int] = (100,),
        dependent: bool = True,
    ):
        super().__init__()
        if not isinstance(model, ContrastModel):
            raise HVAEError(f"ContrastGuide infers c of a ContrastModel, got {type(model).__name__}")
        self._model = (model,)  # in a tuple: not a submodule, so that its parameters stay the model's
        if not isinstance(base, LayeredProgram):
            raise HVAEError(f"the base of a ContrastGuide is one of our guides, got {type(base).__name__}")
        self.widened = dependent and not isinstance(base, LadderGuide)
        if (base.pixels, base.dims) != (expected := model.pixels + self.widened, model.dims):
            raise HVAEError(
                f"the base of this ContrastGuide must read {expected} pixels{' (one of them log c)' * self.widened} and infer "
                f"dims={model.dims}, got a {type(base).__name__} of {base.pixels} pixels and dims={base.dims}"
            )
        self.base: Any = base
        self.dependent = bool(dependent)
        self.pixels, self.dims, self.families = model.pixels, base.dims, base.families
        hidden = base._check_units("hidden", hidden)
        self.network = MLP(model.pixels + 1, hidden)
        self.head = Head(self.network.out_features, 1, "normal")
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.config: dict[str, Any] = dict(base=described(base), hidden=hidden, dependent=self.dependent)

    @property
    def shared(self) -> tuple[nn.Module, ...]:
        """Modules whose parameters enter q beside the guide's own: those of the model, of which b and what a ladder reads."""
        return self._model

    @torch.no_grad()
    def adopt(self, other: ContrastGuide) -> None:
        """Take over q(c | x) of another guide of the model, as a copy, where it has the same sizes."""
        ours, theirs = (nn.ModuleList([guide.network, guide.head]).state_dict() for guide in (self, other))
        if {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}:
            for name, value in theirs.items():
                ours[name].copy_(value)

    def forward(self, x: Tensor) -> None:
        """The Pyro program; ``x (image, pixel)``."""
        self._model[0].base._check_image(x)
        b = self._model[0].base.to_image.bias
        centred = x - b
        energy = log_contrast(centred)
        with pyro.plate("image", x.shape[0], dim=-1):
            read = self.network(torch.cat([centred * torch.exp(-energy), energy], -1))
            log_c = self.head(read).base_dist
            c = pyro.sample(SITE, dist.LogNormal(energy + log_c.loc, log_c.scale).to_event(1))
            if not self.dependent:
                self.base.infer(x)
            elif isinstance(self.base, LadderGuide):
                self.base.infer(x, gain=c)
            else:
                self.base.infer(torch.cat([centred / c, c.log()], -1))
