"""Which sites depend on which, found from runs of the programs, and what that allows to be done analytically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_hvae.bounds.traces import Clamp, PairTrace, sample_sites
from pyro_hvae.programs.program import nodes


def dependencies(
    program: Callable, args: tuple, kwargs: Mapping[str, Any], values: Mapping[str, Tensor]
) -> dict[str, set[str]]:
    """Latent sites on which each site's distribution depends directly, given values for all of them.

    ``b`` depends on ``a`` if the density of b is connected to a's value in the autograd graph, or if it changes when that
    value is replaced. The first alone misses what goes through ``detach`` or an integer, the second alone a connection
    whose weights happen to be zero (at the start of training, say).
    """

    def run(clamped: Mapping[str, Tensor]) -> Trace:
        with pyro.validation_enabled(False):
            return poutine.trace(Clamp(clamped)(program)).get_trace(*args, **kwargs)

    def density(trace: Trace) -> dict[str, Tensor]:
        sites = sample_sites(trace, observed=False) | sample_sites(trace, observed=True)
        return {name: node["fn"].log_prob(node["value"].detach()) for name, node in sites.items()}

    with torch.random.fork_rng(devices=_cuda_devices(values)), torch.enable_grad():
        leaves = {n: v.detach().clone().requires_grad_(v.is_floating_point()) for n, v in values.items()}
        reference = density(run(leaves))
        found: dict[str, set[str]] = {name: set() for name in reference}
        for site, log_density in reference.items():
            for name, leaf in leaves.items():
                if name != site and leaf.requires_grad and log_density.requires_grad:
                    (gradient,) = torch.autograd.grad(log_density.sum(), leaf, retain_graph=True, allow_unused=True)
                    if gradient is not None:
                        found[site].add(name)
        for name, value in values.items():
            other = value.roll(1, 0) + (0.1 if value.is_floating_point() else 0)
            changed = density(run({**values, name: other}))
            found_here = {s for s in reference if s != name and not torch.equal(reference[s], changed[s])}
            for site in found_here:
                found[site].add(name)
    return found


def _cuda_devices(values: Mapping[str, Tensor]) -> list[torch.device]:
    return list({v.device for v in values.values() if v.is_cuda})


def descendants(direct: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """For each site, all sites that depend on it, directly or not."""
    below: dict[str, set[str]] = {name: set() for name in direct}
    for name in direct:
        frontier, ancestors = list(direct[name]), set()
        while frontier:
            if (a := frontier.pop()) not in ancestors:
                ancestors.add(a)
                frontier.extend(direct.get(a, ()))
        for a in ancestors:
            below[a].add(name)
    return below


@dataclass(frozen=True)
class Structure:
    """Dependencies within a pair."""

    parents: dict[str, set[str]]
    """Latent sites on which each of the model's sites depends directly."""
    inferred_from: dict[str, set[str]]
    """Latent sites that the guide infers from each latent site, directly or not."""

    @classmethod
    def of(cls, model: Callable, guide: Callable, args: tuple, kwargs: Mapping[str, Any], pair: PairTrace) -> Structure:
        """Found at the values of ``pair`` (one particle)."""
        values = {name: node["value"] for name, node in pair.latents.items()}
        # Replayed for the indices of a subsampled plate, which would otherwise change from run to run.
        model, guide = poutine.replay(model, trace=pair.model), poutine.replay(guide, trace=pair.guide)
        return cls(dependencies(model, args, kwargs, values), descendants(dependencies(guide, args, kwargs, values)))

    def analytic_form(self, site: str, pair: PairTrace) -> str:
        """How E_q[log p(z|…) - log q(z|…)] of a latent site may be computed.

        - ``"kl"``: minus the analytic KL of the site given the values it is conditioned on. Valid where nothing that
          p(z|…) is conditioned on was inferred from z itself (top-down and mean-field guides, the top of a bottom-up one).
        - ``"entropy"``: log p of the sample plus the analytic entropy of q. Always valid; for z1 of a bottom-up guide.
        - ``"sample"``: log p and log q of the sample, where no closed form exists.
        """
        p, q = nodes(pair.model)[site]["fn"], nodes(pair.guide)[site]["fn"]
        if not self.parents[site] & self.inferred_from[site] and _exists(lambda: kl_divergence(q, p)):
            return "kl"
        return "entropy" if _exists(q.entropy) else "sample"


def _exists(closed_form: Callable[[], Tensor]) -> bool:
    try:
        closed_form()
    except NotImplementedError:
        return False
    return True
