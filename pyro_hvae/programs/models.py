"""Generative programs: what is believed about how an image comes about.

All have the sites z1 … zL and x inside one plate ``image``. z1 is linear-Gaussian to the image,

    p(x | z1, …) = Normal(A z1 + …, sigma^2 I),

and the generative models of Csikor et al. 2022 (arXiv 2206.00436) [C22], Fig. 1, differ only in what is above z1:

    LinearVAE           p(x, z1)     = p(x | z1) p(z1)
    TDVAE, ChainVAE     p(x, z1, z2) = p(x | z1) p(z1 | z2) p(z2)
    SkipVAE             p(x, z1, z2) = p(x | z1, z2) p(z1 | z2) p(z2)

with p(z2) = Normal(0, I), p(z1) = Laplace(0, 1) where nothing is above it, and networks for location and scale of p(z1 | z2).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_hvae.arguments import as_annotated
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.networks import MLP
from pyro_hvae.programs.program import LayeredProgram
from pyro_hvae.programs.sites import conditional, standard


class GenerativeModel(LayeredProgram, abc.ABC):
    """Abstract: top-down ancestral sampling zL → … → z1 → x. Subclasses say what the image's mean is.

    :param pixels: pixels of an image.
    :param dims: dimensions of z1 … zL.
    :param families: site families, Laplace at z1 and Normal above by default.
    :param hidden: softplus units of p(zl | zl+1) for l = 1 … L-1.
    :param noise: standard deviation sigma of the observation; 0.4 in Vas 2024 and in the released weights of [C22].
    :param learn_noise: make sigma a parameter that starts at ``noise``.
    """

    def __init__(
        self,
        pixels: int,
        dims: Sequence[int],
        families: Sequence[str] | None,
        hidden: Sequence[Sequence[int]],
        noise: float,
        learn_noise: bool,
    ):
        super().__init__()
        self._set_sites(pixels, dims, families)
        hidden = self._check_hidden("hidden", hidden, self.layers - 1)
        noise = float(as_annotated("noise", noise, float))
        if not (math.isfinite(noise) and noise > 0):
            raise HVAEError(f"the observation noise is a standard deviation and must be positive, got noise={noise!r}")
        self.conditionals = nn.ModuleList(
            conditional(upper, units, lower, family)
            for lower, upper, family, units in zip(self.dims, self.dims[1:], self.families, hidden, strict=False)
        )
        self.to_image = nn.Linear(self.dims[0], self.pixels)
        if learn_noise:
            self.log_sigma = nn.Parameter(torch.tensor(math.log(noise)))
        else:
            self.register_buffer("log_sigma", torch.tensor(math.log(noise)))
        self.config: dict[str, Any] = dict(
            pixels=self.pixels,
            dims=self.dims,
            families=self.families,
            hidden=hidden,
            noise=noise,
            learn_noise=learn_noise,
        )

    def forward(self, x: Tensor | None = None, *, num_images: int = 1) -> Tensor:
        """The Pyro program.

        :param x: images ``(image, pixel)`` to condition on, or None to sample ``num_images`` of them.
        :returns: the value of site ``x``.
        """
        if x is not None:
            self._check_image(x)
        with pyro.plate("image", num_images if x is None else x.shape[0], dim=-1):
            mean = self.image_mean(self.layers_above()).to(self.log_sigma.dtype)  # densities keep their precision
            return pyro.sample("x", dist.Normal(mean, self.sigma).to_event(1), obs=x)

    def layers_above(self) -> dict[int, Tensor]:
        """Sample zL … z1 inside the plate of the caller: ``{l: (..., image, dim zl)}``."""
        z = {self.layers: pyro.sample(f"z{self.layers}", self.prior())}
        for l in range(self.layers - 1, 0, -1):
            z[l] = pyro.sample(f"z{l}", self.conditionals[l - 1](z[l + 1]))
        return z

    def prior(self) -> dist.TorchDistribution:
        """p(zL): location 0, scale 1."""
        return standard(self.families[-1], self.dims[-1], like=self.to_image.bias)

    @abc.abstractmethod
    def image_mean(self, z: dict[int, Tensor]) -> Tensor:
        """Mean of p(x | z1 … zL) given the layers ``{l: (..., dim zl)}``; ``(..., pixel)``."""

    def skipped(self, z: dict[int, Tensor]) -> Tensor | None:
        """What the layers above z1 add to the mean of p(x | z1 … zL) past z1; None where they reach it through z1 alone."""
        return None

    @property
    def A(self) -> Tensor:
        """Linear generative map from z1 to the image, ``(pixel, z1_dim)``; its columns are z1's projective fields."""
        return self.to_image.weight

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the observation noise, 0-d."""
        return self.log_sigma.exp()


class MarkovModel(GenerativeModel):
    """zL → … → z2 → z1 → x: p(x | z1) = Normal(A z1 + c, sigma^2 I) (TDVAE and ChainVAE; [C22], Fig. 1)."""

    def __init__(
        self,
        pixels: int = 400,
        dims: Sequence[int] = (450, 20),
        families: Sequence[str] | None = None,
        hidden: Sequence[Sequence[int]] = ((500,),),
        noise: float = 0.4,
        learn_noise: bool = False,
    ):
        super().__init__(pixels, dims, families, hidden, noise, learn_noise)

    def image_mean(self, z: dict[int, Tensor]) -> Tensor:
        return self.to_image(z[1])


class LinearModel(GenerativeModel):
    """z1 → x with p(z1) = Laplace(0, 1): sparse coding (LinearVAE; [C22], Fig. 1). With a Normal z1, probabilistic PCA."""

    def __init__(
        self,
        pixels: int = 400,
        dims: Sequence[int] = (450,),
        families: Sequence[str] | None = None,
        noise: float = 0.4,
        learn_noise: bool = False,
    ):
        if len(tuple(dims)) != 1:
            raise HVAEError(
                f"LinearModel has the one layer z1, got dims={tuple(dims)}; use MarkovModel for more layers"
            )
        super().__init__(pixels, dims, families, (), noise, learn_noise)
        del self.config["hidden"]

    def image_mean(self, z: dict[int, Tensor]) -> Tensor:
        return self.to_image(z[1])


class SkipModel(GenerativeModel):
    """As :class:`MarkovModel`, and the layers above z1 also reach the image past it (SkipVAE; [C22], Fig. 1).

    p(x | z1, z2, …) = Normal(A z1 + B h(z2, …) + c, sigma^2 I) with a softplus network h: h is concatenated with z1
    before one linear map, so x stays linear-Gaussian in z1 given the layers above.

    :param skip_hidden: softplus units of h; the last number is the width that is concatenated with z1.
    """

    def __init__(
        self,
        pixels: int = 400,
        dims: Sequence[int] = (450, 20),
        families: Sequence[str] | None = None,
        hidden: Sequence[Sequence[int]] = ((500,),),
        skip_hidden: Sequence[int] = (500, 450),
        noise: float = 0.4,
        learn_noise: bool = False,
    ):
        dims = as_annotated("dims", dims, Sequence[int])
        if len(dims) < 2:
            raise HVAEError(f"SkipModel needs a layer above z1 to skip from, got dims={dims}; use LinearModel")
        super().__init__(pixels, dims, families, hidden, noise, learn_noise)
        skip_hidden = self._check_units("skip_hidden", skip_hidden)
        self.skip = MLP(sum(self.dims[1:]), skip_hidden)
        self.skip_to_image = nn.Linear(self.skip.out_features, self.pixels, bias=False)
        self.config["skip_hidden"] = skip_hidden

    def image_mean(self, z: dict[int, Tensor]) -> Tensor:
        return self.to_image(z[1]) + self.skipped(z)

    def skipped(self, z: dict[int, Tensor]) -> Tensor:
        upper = torch.cat([z[l] for l in range(2, self.layers + 1)], dim=-1) if self.layers > 2 else z[2]
        return self.skip_to_image(self.skip(upper))
