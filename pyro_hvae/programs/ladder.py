"""The product ("ladder") guide: what the model expects of a layer, times what the image says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs.guides import MeanFieldGuide, TopDownGuide
from pyro_hvae.programs.models import GenerativeModel
from pyro_hvae.programs.networks import MLP
from pyro_hvae.programs.product import product
from pyro_hvae.programs.program import LayeredProgram
from pyro_hvae.programs.sites import LOG_VARIANCE_BOUND, FullHead, Head
from pyro_hvae.programs.widths import published_hidden

LOCATIONS = ("linear", "network")
WIDTHS = ("unit", "network")
TOPS = ("diagonal", "full")
READS = ("evidence", "image")
START_DRAWS = 500  # of the layers above, over which p(z1 | z2) is averaged at the start


class Evidence(nn.Module):
    """What the image says of the units of a layer: Normal(z; m, s²), unit by unit.

    m is a linear map of what is left of the image, plus (``location="network"``) a correction read from features that starts
    at zero; log s² is a parameter a unit, plus (``width="network"``) such a correction.
    """

    def __init__(self, in_features: int, dim: int, features: int, location: str, width: str):
        super().__init__()
        self.location = nn.Linear(in_features, dim)
        self.log_variance = nn.Parameter(torch.zeros(dim))
        self.location_correction = _zero_linear(features, dim) if location == "network" else None
        self.width_correction = _zero_linear(features, dim) if width == "network" else None

    def forward(self, m: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """m and s, ``(..., dim)``, of the linear map's value and the features."""
        v: Tensor = self.log_variance
        if self.location_correction is not None:
            m = m + self.location_correction(features)
        if self.width_correction is not None:
            v = v + self.width_correction(features)
        # Under autocast the products alone are rounded. The bound is that of the scales of all sites.
        m, v = m.to(self.log_variance.dtype), v.to(self.log_variance.dtype)
        return m, torch.exp(0.5 * v.clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND))


def _zero_linear(in_features: int, dim: int) -> nn.Linear:
    layer = nn.Linear(in_features, dim)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class LadderGuide(LayeredProgram):
    """q(zL | x) from a bottom-up network, then layer by layer

        q(zl | x, zl+1) ∝ p(zl | zl+1) · Normal(zl; m_l(x), s_l²),

    the precision-weighted rule of the Ladder VAE (Sønderby et al. 2016) where p(zl | zl+1) is Normal, and a
    :class:`~pyro_hvae.programs.product.LaplaceNormalProduct` where it is Laplace. p(zl | zl+1) is read from the model: its
    parameters are the model's own, and no parameter of this module. Where A has orthogonal columns, and m_1 and s_1 stand as
    :meth:`start_in_closed_form` puts them, q(z1 | x, z2) is exact.

    m_1 reads the image less what the layers above contribute to it past z1 (:class:`~pyro_hvae.programs.models.SkipModel`).
    With one layer p(z1) is the fixed prior and there is no network at all.

    What the layers above explain is how far the units of z1 are from their locations, whatever the sign. So the bottom-up
    networks read m_1 through asinh(m) and ½ log(1 + m²), which for large m are the logarithm of its size with and without
    its sign: the energies of z1's filters on a scale on which contrast is a shift (``reads="evidence"``). Under the same model
    this closes most of the gap that the published network of the image leaves (docs/recipes.md).

    :param model: the generative model that the guide belongs to; one of ours.
    :param hidden_x: units of the bottom-up networks, one tuple per layer, z1's first: L_x = MLP.a, MLP.b, …; by default the
        published ones. With one layer needed for ``"network"`` only.
    :param reads: what MLP.a reads, ``"evidence"`` or the ``"image"`` as in the other guides.
    :param location: m of z1: ``"linear"``, or ``"network"`` for a linear map and a correction from L_x.
    :param width: s of each layer below the top: one a ``"unit"``, or corrected image by image by a ``"network"``.
    :param top: q(zL | x): ``"diagonal"`` as in the other guides, or ``"full"`` for a Normal with a covariance matrix.
    """

    def __init__(
        self,
        model: nn.Module,
        hidden_x: Sequence[Sequence[int]] | None = None,
        reads: str = "evidence",
        location: str = "linear",
        width: str = "unit",
        top: str = "diagonal",
    ):
        super().__init__()
        if not isinstance(model, GenerativeModel):
            raise HVAEError(
                f"the ladder guide reads p(zl | zl+1), A and sigma from one of our generative models; {type(model).__name__} "
                "is none. Put a pyro_hvae.programs.product.LaplaceNormalProduct into a guide of your own instead"
            )
        options = (
            ("reads", reads, READS), ("location", location, LOCATIONS), ("width", width, WIDTHS), ("top", top, TOPS)
        )  # fmt: skip
        for kind, value, known in options:
            if value not in known:
                raise unknown(f"{kind} of the ladder guide", value, known)
        self._model = (model,)  # in a tuple: not a submodule, so that its parameters stay the model's
        self._set_sites(model.pixels, model.dims, model.families)
        if top == "full" and (self.layers == 1 or self.families[-1] != "normal"):
            raise HVAEError("top='full' gives a Normal z2 (z3, …) a covariance; this model's top layer is "
                            f"z{self.layers} {self.families[-1].capitalize()}")  # fmt: skip
        networks = self.layers if self.layers > 1 or "network" in (location, width) else 0
        if hidden_x is None:
            hidden_x = published_hidden(self.pixels, self.layers)["top_down"]["hidden_x"][:networks]
        hidden_x = self._check_hidden("hidden_x", hidden_x, networks)
        self.reads = reads
        widths = [2 * self.dims[0] if reads == "evidence" else self.pixels]
        for units in hidden_x:
            widths.append(units[-1] if units else widths[-1])
        self.bottom_up = nn.ModuleList(MLP(m, units) for m, units in zip(widths, hidden_x, strict=False))
        widths += [0] * (1 - networks)  # with one layer and no network nothing is read
        self.evidence = nn.ModuleList(
            Evidence(self.pixels if l == 1 else widths[l], dim, widths[l], location if l == 1 else "linear", width)
            for l, dim in enumerate(self.dims, 1)
            if l < self.layers or self.layers == 1
        )
        if self.layers > 1:
            head = FullHead(widths[-1], self.dims[-1]) if top == "full" else Head(
                widths[-1], self.dims[-1], self.families[-1]
            )  # fmt: skip
            self.top: Head | FullHead = head
        self.config: dict[str, Any] = dict(hidden_x=hidden_x, reads=reads, location=location, width=width, top=top)
        self.start_in_closed_form()

    @property
    def model(self) -> GenerativeModel:
        """The generative model whose p(zl | zl+1) the guide takes."""
        return self._model[0]

    @property
    def shared(self) -> tuple[nn.Module, ...]:
        """Modules whose parameters enter q beside the guide's own."""
        return self._model

    def forward(self, x: Tensor) -> None:
        """The Pyro program; ``x (image, pixel)``."""
        self._check_image(x)
        with pyro.plate("image", x.shape[0], dim=-1):
            self.infer(x)

    def infer(self, x: Tensor, gain: Tensor | None = None) -> None:
        """The sites alone, inside the plate of the caller.

        :param x: ``(..., image, pixel)``.
        :param gain: what multiplies the model's image less its bias, ``(..., image, 1)``: x is divided by it, and so is sigma.
        """
        image = x - self.model.to_image.bias
        if gain is not None:
            x = image = image / gain
        m_1 = self.evidence[0].location(image)
        L_x = self.features(x, m_1)
        z: dict[int, Tensor] = {}
        if self.layers > 1:
            z[self.layers] = pyro.sample(f"z{self.layers}", self.top(L_x[-1]))
        for l in range(len(self.evidence), 0, -1):
            evidence = self.evidence[l - 1]
            prior = self.model.conditionals[l - 1](z[l + 1]) if l < self.layers else self.model.prior()
            m = m_1 if l == 1 else evidence.location(L_x[l])
            if l == 1 and (skipped := self.model.skipped(z)) is not None:
                m = m - skipped @ evidence.location.weight.T
            m, s = evidence(m, L_x[l] if len(L_x) > l else None)
            z[l] = pyro.sample(f"z{l}", product(prior, m, s if gain is None or l > 1 else s / gain))

    def features(self, x: Tensor, m_1: Tensor) -> list[Tensor]:
        """What the bottom-up networks read, and the output of each: L_x."""
        L_x = [torch.cat([torch.asinh(m_1), 0.5 * torch.log1p(m_1.square())], -1) if self.reads == "evidence" else x]
        for network in self.bottom_up:
            L_x.append(network(L_x[-1]))
        return L_x

    @torch.no_grad()
    def start_in_closed_form(self) -> LadderGuide:
        """m_1 and s_1 by least squares from the model's present A, c and sigma; in place, and returned.

        ``s_i² = sigma² / |a_i|²``, and ``m_i = a_i · (x - c - Σ_{j≠i} a_j E[z_j]) / |a_i|²`` with E[z] linear in x: its
        least-squares estimate under the prior's mean and variance, averaged over draws of the layers above. With orthogonal
        columns this is ``a_i · (x - c) / |a_i|²``, and exact. A unit without a field gets q = p. The networks are left as they
        are.
        """
        model = self.model
        mean, variance = (t.double() for t in self._expected_z1())
        A = model.A.detach().double()
        gram = A.T @ A
        g = gram.diagonal()
        sigma2 = model.sigma.detach().double().square()
        present = g > sigma2 * torch.finfo(model.A.dtype).tiny ** 0.5
        precision = gram + torch.diag(sigma2 / variance)
        M = torch.linalg.solve(precision, A.T)  # E[z] = mean + M (x - c - A mean)
        others = gram - torch.diag(g)
        safe = torch.where(present, g, torch.ones_like(g))
        W = torch.where(present[:, None], (A.T - others @ M) / safe[:, None], 0.0)
        bias = torch.where(present, -(others @ (mean - M @ (A @ mean))) / safe, mean)
        evidence = self.evidence[0]
        evidence.location.weight.copy_(W)
        evidence.location.bias.copy_(bias)
        v = torch.where(present, (sigma2 / safe).log(), LOG_VARIANCE_BOUND)
        evidence.log_variance.copy_(v.clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND))
        return self

    def _expected_z1(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of z1 under the prior, averaged over draws of the layers above."""
        model = self.model
        if self.layers == 1:
            p = model.prior()
            return p.mean, p.variance
        reference = model.A
        with torch.random.fork_rng(devices=[reference.device] if reference.is_cuda else []):
            torch.manual_seed(0)
            z = model.prior().expand((START_DRAWS,)).sample()
            for network in list(model.conditionals)[:0:-1]:
                z = network(z).sample()
        p = model.conditionals[0](z)
        return p.mean.mean(0), p.variance.mean(0)

    @torch.no_grad()
    def adopt(self, guide: nn.Module) -> bool:
        """Take over q(zL | x) of another guide of the same model, as a copy, where its layers have the same sizes.

        :returns: whether it was taken over.
        """
        if isinstance(guide, LadderGuide) and guide.reads != self.reads:
            return False
        ours = [*_linears(self.bottom_up), *([self.top] if self.layers > 1 else [])]
        theirs = _way_to_top(guide)
        if not ours or [l.weight.shape for l in ours] != [l.weight.shape for l in theirs]:
            return False
        for mine, other in zip(ours, theirs, strict=True):
            mine.weight.copy_(other.weight)
            mine.bias.copy_(other.bias)
        return True


def _linears(modules: nn.Module) -> list[nn.Linear]:
    return [m for m in modules.modules() if isinstance(m, nn.Linear)]


def _way_to_top(guide: nn.Module) -> list[Any]:
    """Layers between the image and q(zL | x), in order; empty where zL is not read from the image."""
    if isinstance(guide, TopDownGuide):
        return [*_linears(guide.bottom_up), guide.heads[-1]]
    if isinstance(guide, LadderGuide) and guide.layers > 1:
        return [*_linears(guide.bottom_up), guide.top]
    return _linears(guide.conditionals[-1]) if isinstance(guide, MeanFieldGuide) else []
