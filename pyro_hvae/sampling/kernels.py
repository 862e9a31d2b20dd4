"""What the collapsed sampler computes of a unit of z1, unit by unit: by far the most numbers, so compiled where it pays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_hvae.programs.product import LaplaceNormalProduct

log = logging.getLogger(__name__)

ROWS = 256  # worked on at a time: they stay in the processor's cache, and there is one shape to compile for


class Kernels:
    """log normalisers of Laplace × Normal or Normal × Normal with their gradients, draws and moments.

    :param family: of z1, ``"laplace"`` or ``"normal"``.
    :param compiled: make machine code of them (half a minute) instead of running them operation by operation; about eight
        times faster on a processor. Where there is no compiler they run as they are, and a warning says so.
    """

    def __init__(self, family: str, *, compiled: bool = False):
        normaliser, drawn = (_normaliser, _drawn) if family == "laplace" else (_normal_normaliser, _normal_drawn)
        self._noise = torch.rand if family == "laplace" else torch.randn
        self._normaliser = _Compiled(normaliser) if compiled else normaliser
        self._drawn = _Compiled(drawn) if compiled else drawn

    def log_normaliser(self, loc: Tensor, scale: Tensor, center: Tensor, width: Tensor) -> Tensor:
        """Sum over units of log ∫ p(z; loc, scale) Normal(z; center, width²) dz, ``(...)``; differentiable but for width."""
        loc, scale, center = torch.broadcast_tensors(loc, scale, center)
        return _LogNormaliser.apply(loc, scale, center, width, self._normaliser)

    def draw(self, loc: Tensor, scale: Tensor, center: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A draw of each unit, and the means and variances it is drawn from."""
        noise = self._noise(2, *loc.shape, dtype=loc.dtype, device=loc.device)
        return _in_blocks(self._drawn, (loc, scale, center, noise[0], noise[1]), width)


class _LogNormaliser(torch.autograd.Function):
    """The derivatives come with the value: they are probabilities and moments of the pieces."""

    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, scale: Tensor, center: Tensor, width: Tensor, normaliser: Callable[..., Any]
    ) -> Tensor:
        value, by_loc, by_scale, by_center = _in_blocks(normaliser, (loc, scale, center), width)
        ctx.save_for_backward(by_loc, by_scale, by_center)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        by_loc, by_scale, by_center = ctx.saved_tensors
        g = gradients[0].unsqueeze(-1)
        return g * by_loc, g * by_scale, g * by_center if ctx.needs_input_grad[2] else None, None, None


def _in_blocks(function: Callable[..., Any], rows: tuple[Tensor, ...], width: Tensor) -> Any:
    """Apply to blocks of :data:`ROWS` rows ``(..., dim)``, the last one filled up."""
    shape = rows[0].shape[:-1]
    flat = [t.reshape(-1, t.shape[-1]) for t in rows]
    parts = []
    for start in range(0, len(flat[0]), ROWS):
        block = [t[start : start + ROWS] for t in flat]
        count = len(block[0])
        if count < ROWS and isinstance(function, _Compiled):
            block = [torch.cat([t, t[:1].expand(ROWS - count, -1)]) for t in block]
        parts.append([out[:count] for out in function(*block, width)])
    return tuple(torch.cat(part).reshape(*shape, *part[0].shape[1:]) for part in zip(*parts, strict=True))


def _normaliser(loc: Tensor, scale: Tensor, center: Tensor, width: Tensor) -> tuple[Tensor, ...]:
    q = LaplaceNormalProduct(loc, scale, center, width, validate_args=False)
    k = q._pieces
    return (
        q.log_normalizer.sum(-1),
        k.sign * (1 - 2 * k.p) / scale,  # E sign(z - loc) / b
        (k.tau * ((1 - k.p) * k.up1 + k.p * k.low1) - 1) / scale,  # E |z - loc| / b² - 1/b
        (q.mean - center) / width.square(),
    )


def _drawn(
    loc: Tensor, scale: Tensor, center: Tensor, piece: Tensor, place: Tensor, width: Tensor
) -> tuple[Tensor, ...]:
    q = LaplaceNormalProduct(loc, scale, center, width, validate_args=False)
    return q.at_quantiles(piece, place), q.mean, q.variance


def _normal_normaliser(loc: Tensor, scale: Tensor, center: Tensor, width: Tensor) -> tuple[Tensor, ...]:
    variance = scale.square() + width.square()
    r = (center - loc) / variance
    value = -0.5 * (r.square() * variance + torch.log(2 * torch.pi * variance))
    return value.sum(-1), r, scale * (r.square() - 1 / variance), -r


def _normal_drawn(
    loc: Tensor, scale: Tensor, center: Tensor, noise: Tensor, _: Tensor, width: Tensor
) -> tuple[Tensor, ...]:
    seen = scale.square() / (scale.square() + width.square())
    mean, sd = torch.lerp(loc, center, seen), width * seen.sqrt()
    return mean + sd * noise, mean, sd.square()


class _Compiled:
    """A function through torch's compiler, or as it is where that fails."""

    def __init__(self, function: Callable[..., Any]):
        self.plain = function
        self.run = torch.compile(function, fullgraph=True, dynamic=False)

    def __call__(self, *arguments: Tensor) -> Any:
        with torch.no_grad():
            try:
                return self.run(*arguments)
            except Exception as error:  # whatever a compiler raises
                if self.run is self.plain:
                    raise
                log.warning("not compiled, which is slower: %s", str(error).split("\n", 1)[0])
                self.run = self.plain
                return self.run(*arguments)
