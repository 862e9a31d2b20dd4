"""Refinement: q of each image optimised for that image alone, starting from what the guide says of it.

How much the bound gains is what amortisation had cost (Cremer, Li, Duvenaud 2018; Kim et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.bounds.objectives import ELBO
from pyro_hvae.bounds.traces import sample_sites, trace_pair
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.product import LaplaceNormalProduct
from pyro_hvae.programs.sites import FullNormal
from pyro_hvae.training.contexts import frozen

RATE = 0.05  # of Adam, in standard deviations of q; falls to a tenth
PARTICLES = 8
TOGETHER = 200  # images at a time, at most: a refined guide takes its images as a whole
COMPARED = 64  # draws over which the refined and the amortised bound of an image are compared

#: What has a location and a scale; of LogNormal those of its logarithm.
MOVED: dict[type, Any] = {
    torch.distributions.Normal: dist.Normal,
    torch.distributions.Laplace: dist.Laplace,
    torch.distributions.LogNormal: dist.LogNormal,
}
#: Per site: how far q's location is moved (in its own scale), and the log of the factor on its scale; ``(image, dim)``.
Shifts = Mapping[str, tuple[Tensor, ...]]


class RefinedGuide(nn.Module):
    """A guide whose sites are moved image by image. Works for the images it was refined on, in their order."""

    def __init__(self, guide: nn.Module, shifts: Shifts):
        super().__init__()
        self.guide, self.shifts = guide, dict(shifts)

    @property
    def shared(self) -> tuple[nn.Module, ...]:
        """As that of the guide, where it has one."""
        return getattr(self.guide, "shared", ())

    def only(self, vae: HVAE, x: Tensor, which: Tensor) -> HVAE:
        """The refined pair ``vae`` of some of its images ``x``: ``which (image,)`` is True for them."""
        return _pair(
            vae, x[which], {site: tuple(v[which] for v in shift) for site, shift in self.shifts.items()}, self.guide
        )

    def forward(self, x: Tensor) -> None:
        """The guide's Pyro program, its distributions moved."""
        with _Moved(self.shifts):
            self.guide(x)


@checked
def refine(
    vae: HVAE,
    x: Tensor,
    steps: int,
    *,
    sites: tuple[str, ...] | None = None,
    start: Shifts | None = None,
    seed: int = 0,
) -> HVAE:
    """The same model under a guide refined for the images ``x`` by ``steps`` steps of Adam on their ELBO.

    Locations and scales of each site's q are moved; what a lower site's q reads from the layers above stays as the guide has
    it. An image whose bound did not gain, over the same draws before and after, keeps the amortised q. Neither the model nor
    the guide is changed.

    :param x: images ``(image, pixel)``; the refined pair is for these alone.
    :param steps: 0 for none; 200 come close to what can be had.
    :param sites: those that are refined; all by default.
    :param start: shifts to go on from.
    :raises HVAEError: for a negative number of steps, and sites that are not Normal, LogNormal, Laplace, or a product.
    """
    whole_number("steps", steps)
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), ExitStack() as stack:
        stack.enter_context(frozen(list(vae.parameters())))
        torch.manual_seed(seed)
        zero = _no_shifts(vae, x)
        shifts = {**zero, **(start or {})}
        if not steps:
            return _pair(vae, x, shifts)
        chosen = tuple(zero) if sites is None else sites
        free = {s: tuple(v.detach().clone().requires_grad_() for v in shifts[s]) for s in chosen}
        objective = ELBO(PARTICLES, gradient=closed_or_standard(vae, x))
        adam = torch.optim.Adam([v for pair in free.values() for v in pair], lr=RATE)
        falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - 0.9 * step / steps)
        refined = RefinedGuide(vae.guide, {**shifts, **free})
        for _ in range(steps):
            adam.zero_grad()
            (-objective.evaluate(vae.model, refined, x).bound.sum()).backward()
            adam.step()
            falling.step()
    moved = {**shifts, **{s: tuple(v.detach() for v in pair) for s, pair in free.items()}}
    before, after = (elbo(_pair(vae, x, s), x, COMPARED, seed)[0] for s in (shifts, moved))
    better = after > before

    def chosen_of(m: Tensor, b: Tensor) -> Tensor:
        return torch.where(better.reshape(-1, *(1,) * (m.dim() - 1)), m, b)

    kept = {s: tuple(chosen_of(m, b) for m, b in zip(moved[s], shifts[s], strict=True)) for s in moved}
    return _pair(vae, x, kept)


def elbo(vae: HVAE, x: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """ELBO of each image and its standard error over draws, ``(image,)``; z1 in closed form where it can be."""
    objective = ELBO(gradient=closed_or_standard(vae, x))
    with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        values = torch.stack([objective.evaluate(vae.model, vae.guide, x).bound for _ in range(draws)]).double()
    return values.mean(0), values.std(0) / draws**0.5


def closed_or_standard(vae: HVAE, x: Tensor) -> str:
    """``"rao_blackwell"`` where z1 can be integrated out of the ELBO of a pair, else ``"standard"``: the same ELBO."""
    try:
        with torch.no_grad():
            ELBO(gradient="rao_blackwell").evaluate(vae.model, vae.guide, x)
    except HVAEError:
        return "standard"
    return "rao_blackwell"


def all_together(vae: HVAE, x: Tensor, rows: int = 20_000) -> dict[str, int]:
    """For :func:`~pyro_hvae.sampling.evidence.evidence_importance_sampling`: a refined guide takes its images as a whole.

    :param rows: pairs of image and particle evaluated at a time, about.
    """
    return {"chunk": len(x) * max(1, rows // len(x))} if isinstance(vae.guide, RefinedGuide) else {}


def _pair(vae: HVAE, x: Tensor, shifts: Shifts, guide: nn.Module | None = None) -> HVAE:
    refined = HVAE(vae.model, RefinedGuide(guide or vae.guide, shifts), pixels=vae.pixels, preset=vae.preset, images=x)
    refined.recipe, refined.starts, refined.record = vae.recipe, vae.starts, vae.record
    return refined


def _no_shifts(vae: HVAE, x: Tensor) -> dict[str, tuple[Tensor, ...]]:
    with torch.no_grad():
        nodes = sample_sites(trace_pair(vae.model, vae.guide, (x,), {}).guide, observed=False)
        for name, node in nodes.items():
            zeros = torch.zeros_like(node["value"])
            moved_site(name, node["fn"], zeros, zeros)  # refuses what cannot be moved
    return {name: (torch.zeros_like(node["value"]), torch.zeros_like(node["value"])) for name, node in nodes.items()}


class _Moved(Messenger):
    def __init__(self, shifts: Shifts):
        super().__init__()
        self.shifts = shifts

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.shifts and not msg["is_observed"]:
            msg["fn"] = moved_site(msg["name"], msg["fn"], *self.shifts[msg["name"]])


def moved_site(name: str, fn: Any, shift: Tensor, log_factor: Tensor) -> Any:
    if isinstance(fn, torch.distributions.Independent):
        return moved_site(name, fn.base_dist, shift, log_factor).to_event(fn.reinterpreted_batch_ndims)
    factor = torch.exp(log_factor)
    if isinstance(fn, LaplaceNormalProduct):
        return LaplaceNormalProduct(fn.loc, fn.scale, fn.center + fn.width * shift, fn.width * factor)
    if isinstance(fn, FullNormal):
        tril = fn.scale_tril
        return FullNormal(fn.loc + (tril @ shift.unsqueeze(-1)).squeeze(-1), scale_tril=tril * factor.unsqueeze(-1))
    for kind, family in MOVED.items():
        if isinstance(fn, kind):
            return family(fn.loc + fn.scale * shift, fn.scale * factor)
    raise HVAEError(
        f"site {name} is a {type(fn).__name__}, and refinement moves Normal, LogNormal and Laplace sites, and the product of "
        "Laplace and Normal; export without refine"
    )
