"""Recognition programs: how the causes of an image are inferred.

All have the sites z1 … zL inside one plate ``image``; they differ in the arrows between them, those of recognition in Fig. 1 of
Csikor et al. 2022 (arXiv 2206.00436) [C22]:

    LinearVAE           q(z1 | x)
    TDVAE, SkipVAE      q(z2 | x) q(z1 | x, z2)
    ChainVAE            q(z1 | x) q(z2 | z1)

With them :class:`~pyro_hvae.bounds.objectives.ELBO` is, in the notation of [C22], for the top-down guide

    F = E_q[log p(x | z1)] - beta1 E_q(z2 | x) KL[q(z1 | x, z2) || p(z1 | z2)] - beta2 KL[q(z2 | x) || p(z2)]

and for the bottom-up guide

    F = E_q(z1 | x)[log p(x | z1) + beta1 log p(z1 | z2)] + beta1 H[q(z1 | x)] - beta2 E_q(z1 | x) KL[q(z2 | z1) || p(z2)].
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.networks import MLP, JointMLP
from pyro_hvae.programs.program import LayeredProgram
from pyro_hvae.programs.sites import Head, conditional


class TopDownGuide(LayeredProgram):
    """q(zL | x) … q(z1 | x, z2): the image is read bottom-up, then the layers are inferred top-down (TDVAE; [C22], Fig. 1).

    With two layers and the networks' names of [C22]: L_x = MLP.a(x); q(z2 | x) from MLP.b(L_x); L_z = MLP.c(z2);
    q(z1 | x, z2) from MLP.d([L_x, L_z]). With more layers each has its own a/b, c and d.

    :param hidden_x: units of the bottom-up networks, one tuple per layer: MLP.a, MLP.b, …
    :param hidden_z: units of MLP.c from layer l+1, for l = 1 … L-1.
    :param hidden_joint: units of MLP.d into layer l, for l = 1 … L-1, at least one each.
    """

    def __init__(
        self,
        pixels: int = 400,
        dims: Sequence[int] = (450, 20),
        families: Sequence[str] | None = None,
        hidden_x: Sequence[Sequence[int]] = ((500,), (300, 100)),
        hidden_z: Sequence[Sequence[int]] = ((100, 300, 500),),
        hidden_joint: Sequence[Sequence[int]] = ((500,),),
    ):
        super().__init__()
        self._set_sites(pixels, dims, families)
        hidden_x = self._check_hidden("hidden_x", hidden_x, self.layers)
        hidden_z = self._check_hidden("hidden_z", hidden_z, self.layers - 1)
        hidden_joint = self._check_hidden("hidden_joint", hidden_joint, self.layers - 1)
        if not all(hidden_joint):
            raise HVAEError(f"every network of hidden_joint needs at least one layer, got {hidden_joint!r}")
        widths = [self.pixels]
        for units in hidden_x:
            widths.append(units[-1] if units else widths[-1])
        self.bottom_up = nn.ModuleList(MLP(m, units) for m, units in zip(widths, hidden_x, strict=False))
        self.top_down = nn.ModuleList(MLP(m, units) for m, units in zip(self.dims[1:], hidden_z, strict=True))
        read = [units[-1] if units else dim for dim, units in zip(self.dims[1:], hidden_z, strict=True)]
        self.joint = nn.ModuleList(
            JointMLP((width, above), units) for width, above, units in zip(widths[1:], read, hidden_joint, strict=False)
        )
        features = [units[-1] for units in hidden_joint] + [widths[-1]]
        self.heads = nn.ModuleList(map(Head, features, self.dims, self.families))
        self.config: dict[str, Any] = dict(
            pixels=self.pixels,
            dims=self.dims,
            families=self.families,
            hidden_x=hidden_x,
            hidden_z=hidden_z,
            hidden_joint=hidden_joint,
        )

    def forward(self, x: Tensor) -> None:
        """The Pyro program; ``x (image, pixel)``."""
        self._check_image(x)
        with pyro.plate("image", x.shape[0], dim=-1):
            self.infer(x)

    def infer(self, x: Tensor) -> None:
        """The sites alone, inside the plate of the caller; ``x (..., image, pixel)``."""
        L_x = [x]
        for network in self.bottom_up:
            L_x.append(network(L_x[-1]))
        z = pyro.sample(f"z{self.layers}", self.heads[-1](L_x[-1]))
        for l in range(self.layers - 1, 0, -1):
            L_z = self.top_down[l - 1](z)
            z = pyro.sample(f"z{l}", self.heads[l - 1](self.joint[l - 1](L_x[l], L_z)))


class _NetworkPerLayer(LayeredProgram, abc.ABC):
    """Abstract: q of each layer is one network of its own.

    :param hidden: units of each layer's network, z1's first.
    """

    def __init__(
        self,
        pixels: int = 400,
        dims: Sequence[int] = (450, 20),
        families: Sequence[str] | None = None,
        hidden: Sequence[Sequence[int]] = ((500, 500), (500, 300, 100)),
    ):
        super().__init__()
        self._set_sites(pixels, dims, families)
        hidden = self._check_hidden("hidden", hidden, self.layers)
        self.conditionals = nn.ModuleList(map(conditional, self._inputs(), hidden, self.dims, self.families))
        self.config: dict[str, Any] = dict(pixels=self.pixels, dims=self.dims, families=self.families, hidden=hidden)

    @abc.abstractmethod
    def _inputs(self) -> tuple[int, ...]:
        """Width of what each layer's network reads."""

    def forward(self, x: Tensor) -> None:
        """The Pyro program; ``x (image, pixel)``."""
        self._check_image(x)
        with pyro.plate("image", x.shape[0], dim=-1):
            self.infer(x)

    @abc.abstractmethod
    def infer(self, x: Tensor) -> None:
        """The sites alone, inside the plate of the caller; ``x (..., image, pixel)``."""


class BottomUpGuide(_NetworkPerLayer):
    """q(z1 | x) q(z2 | z1) …: each layer is inferred from the one below alone (ChainVAE; [C22], Fig. 1).

    :param hidden: units of q(z1 | x), q(z2 | z1), …
    """

    def _inputs(self) -> tuple[int, ...]:
        return (self.pixels, *self.dims[:-1])

    def infer(self, x: Tensor) -> None:
        z = x
        for site, network in zip(self.sites, self.conditionals, strict=True):
            z = pyro.sample(site, network(z))


class MeanFieldGuide(_NetworkPerLayer):
    """q(z1 | x) q(z2 | x) …: given the image the layers are independent. With one layer, the recognition of LinearVAE.

    :param hidden: units of q(z1 | x), q(z2 | x), …
    """

    def _inputs(self) -> tuple[int, ...]:
        return (self.pixels,) * self.layers

    def infer(self, x: Tensor) -> None:
        for site, network in zip(self.sites, self.conditionals, strict=True):
            pyro.sample(site, network(x))
