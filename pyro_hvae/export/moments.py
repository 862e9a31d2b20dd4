"""Moments, draws and weights of the posteriors of a chunk of images, summed over blocks of particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_hvae.arguments import contiguous
from pyro_hvae.bounds.structure import Structure
from pyro_hvae.bounds.traces import (
    PairTrace,
    check_layout,
    check_support,
    family_name,
    log_prob,
    sample_sites,
    trace_pair,
)
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.sites import FullNormal
from pyro_hvae.sampling.diagnostics import effective_sample_size, pareto_k
from pyro_hvae.sampling.memory import chunk_bytes

MEMORY = 256 * 2**20  # bytes that the particles of one chunk may take, roughly; less where memory is scarce


@dataclass(frozen=True)
class Request:
    """What is computed for each image."""

    draws: int
    resample: int
    """Proposals a returned draw is chosen from; 1 for the guide itself."""
    moment_draws: int
    units: tuple[int, ...]


class Moments:
    """Everything that is per image, for chunks of images, summed over blocks of particles."""

    def __init__(self, vae: HVAE, dataset: xr.Dataset, request: Request, device: torch.device):
        self.vae, self.request, self.device = vae, request, device
        probe = self.images(dataset.isel(image=slice(2)))
        pair = trace_pair(vae.model, vae.guide, (probe,), {})
        check_layout(pair)
        check_exportable(pair, vae.pixels)
        structure = Structure.of(vae.model, vae.guide, (probe,), {}, pair)
        self.forms = {site: structure.analytic_form(site, pair) for site in vae.sites}
        widest = sum(p.shape[0] for p in vae.parameters() if p.dim() == 2) + sum(vae.latents.values())
        memory = chunk_bytes(MEMORY, device)
        particles = max(memory // (4 * widest), 1)
        self.resampled = request.resample > 1
        self.groups = request.draws if self.resampled else max(request.draws, request.moment_draws)
        self.block = max(min(self.groups, particles // request.resample), 1)
        matrices = memory // (
            32 * max(len(request.units), 1) ** 2
        )  # a correlation matrix, its sums and products in float64
        self.chunk = int(np.clip(min(particles // (self.block * request.resample), matrices), 1, 1000))

    def images(self, chunk: xr.Dataset) -> Tensor:
        """``x (image, pixel)`` as the pair takes it. Raises HVAEError where it is not finite."""
        values = np.asarray(chunk["x"].values)
        if not np.isfinite(values).all():
            raise HVAEError("the images hold NaN or infinite values; leave those out")
        like = next(self.vae.parameters())
        return torch.from_numpy(contiguous(values)).to(device=self.device, dtype=like.dtype)

    def of(self, chunk: xr.Dataset) -> dict[str, xr.Dataset]:
        """The per-image groups of the posterior file."""
        x = self.images(chunk)
        total = Sums()
        kept: dict[str, list[Tensor]] = {}
        for start in range(0, self.groups, self.block):
            groups = min(self.block, self.groups - start)
            pair = trace_pair(self.vae.model, self.vae.guide, (x,), {}, groups * self.request.resample)
            if not start:
                check_support(pair)
            self._accumulate(pair, groups, total, kept)
        return self._groups(total, {name: torch.cat(parts)[: self.request.draws] for name, parts in kept.items()})

    def _accumulate(self, pair: PairTrace, groups: int, total: Sums, kept: dict[str, list[Tensor]]) -> None:
        k = self.request.resample
        guide = sample_sites(pair.guide, observed=False)
        (image,) = pair.observed.values()

        def grouped(t: Tensor) -> Tensor:  # (groups * k, image, ...) -> (groups, k, image, ...)
            return t.reshape(groups, k, *t.shape[1 if groups * k > 1 else 0 :])

        log_p = {s: grouped(log_prob(node)) for s, node in pair.latents.items()}
        log_q = {s: grouped(log_prob(node)) for s, node in guide.items()}
        log_x = grouped(log_prob(image))
        log_w = log_x + sum(log_p.values()) - sum(log_q.values())
        W = torch.softmax(log_w, 1)

        def vector(t: Tensor) -> Tensor:  # events of any shape, a scalar among them, along one dimension
            return grouped(t).reshape(groups, k, t.shape[1 if groups * k > 1 else 0], -1)

        def mean(name: str, t: Tensor) -> None:
            """Weighted over the proposals of a group, averaged over groups."""
            total.add(name, torch.einsum("gkb,gkb...->b...", W, t) if k > 1 else t.sum((0, 1)), groups)

        def moments(name: str, t: Tensor) -> Tensor:
            """First and second moments around the first value seen, so that small variances survive in float32."""
            t = t - total.reference(name, t[0, 0])
            mean(f"{name}_first", t)
            mean(f"{name}_second", t**2)
            return t

        for site, node in guide.items():
            conditional = vector(node["fn"].mean)
            centred = moments(site, vector(node["value"]) if self.resampled else conditional)
            if not self.resampled:
                mean(f"{site}_within", vector(node["fn"].variance))
            if site == "z1":
                moments("given", conditional)
                if self.request.units:
                    u = centred[..., list(self.request.units)]
                    total.add("cross", torch.einsum("gkb,gkbi,gkbj->bij", W, u, u), groups)
            closed = self.forms[site] == "kl" and not self.resampled
            mean(f"{site}_kl", vector(unit_kl(node["fn"], pair.latents[site]["fn"], node["value"], closed)))
        moments("x", grouped(image["fn"].mean))
        mean("x_within", grouped(image["fn"].variance))
        mean("reconstruction", log_x)
        if self.request.draws:
            chosen = (
                torch.distributions.Categorical(logits=log_w.movedim(1, -1)).sample()
                if k > 1
                else log_w[:, 0].long() * 0
            )

            def pick(t: Tensor) -> Tensor:
                index = chosen.reshape(chosen.shape[0], 1, *chosen.shape[1:], *(1,) * (t.dim() - 3))
                return torch.take_along_dim(t, index, 1).squeeze(1)

            for site, node in guide.items():
                kept.setdefault(site, []).append(pick(vector(node["value"])))
                kept.setdefault(f"{site}_log_p", []).append(pick(log_p[site]))
                kept.setdefault(f"{site}_log_q", []).append(pick(log_q[site]))
            kept.setdefault("log_x", []).append(pick(log_x))
            kept.setdefault("log_weight", []).append(torch.logsumexp(log_w, 1) - np.log(k))
            kept.setdefault("all_weights", []).append(log_w)

    def _groups(self, total: Sums, kept: dict[str, Tensor]) -> dict[str, xr.Dataset]:
        moments: dict[str, Any] = {}
        bound: dict[str, Any] = {"reconstruction": ("image", total.mean("reconstruction"))}
        elbo = total.mean("reconstruction")
        for site in self.vae.sites:
            dims = ("image", f"{site}_dim")
            kl = total.mean(f"{site}_kl")
            moments[f"{site}_mean"] = (dims, total.centre(site))
            moments[f"{site}_variance"] = (dims, total.variance(site, within=not self.resampled))
            moments[f"{site}_kl"] = (dims, kl)
            bound[f"{site}_kl"] = ("image", kl.sum(-1))
            elbo = elbo - kl.sum(-1)
        bound["elbo"] = ("image", elbo)
        if "z1" in self.vae.latents and len(self.vae.latents) > 1:
            moments["z1_variance_from_z2"] = (("image", "z1_dim"), total.variance("given"))
        coordinates = {}
        if units := list(self.request.units):
            first = total.mean("z1_first")[:, units]
            covariance = (total.mean("cross") - first[:, :, None] * first[:, None, :]) * total.correction("cross")
            variance = moments["z1_variance"][1][:, units]
            diagonal = np.arange(len(units))
            covariance[:, diagonal, diagonal] = variance
            scale = np.sqrt(variance)
            moments["z1_correlation"] = (
                ("image", "unit", "unit_bis"),
                covariance / (scale[:, :, None] * scale[:, None, :]),
            )
            coordinates = {"unit": units, "unit_bis": units}
        predictive = {
            "x_mean": (("image", "pixel"), total.centre("x")),
            "x_variance": (("image", "pixel"), total.variance("x", within=True)),
        }
        groups = {
            "posterior_moments": xr.Dataset(moments, coordinates),
            "posterior_predictive": xr.Dataset(predictive),
            "bound": xr.Dataset(bound),
        }
        return groups | (self._drawn({n: t.cpu().numpy() for n, t in kept.items()}) if kept else {})

    def _drawn(self, kept: dict[str, np.ndarray]) -> dict[str, xr.Dataset]:
        dims = ("chain", "draw", "image")
        weights = kept["all_weights"].reshape(-1, kept["all_weights"].shape[-1])
        latents = {s: ((*dims, f"{s}_dim"), kept[s][None]) for s in self.vae.sites}
        densities = {f"{s}_log_{d}": (dims, kept[f"{s}_log_{d}"][None]) for s in self.vae.sites for d in "pq"}
        statistics = {
            "log_weight": (dims, kept["log_weight"][None]),
            "ess": ("image", effective_sample_size(weights)),
            "pareto_k": ("image", pareto_k(weights)),
        }
        return {
            "posterior": xr.Dataset(latents),
            "sample_stats": xr.Dataset(statistics),
            "log_density": xr.Dataset(densities),
            "log_likelihood": xr.Dataset({"x": (dims, kept["log_x"][None])}),
        }


def check_exportable(pair: PairTrace, pixels: int) -> None:
    """Refuse a pair with a site of which a posterior file could not hold the moments, or the KL dimension by dimension.

    :raises HVAEError: naming the site, its family, what it lacks and the mend.
    """
    (image,) = pair.observed.items()
    inferred = [
        (f"site {name} of the guide", node["fn"]) for name, node in sample_sites(pair.guide, observed=False).items()
    ]
    for what, fn in [*inferred, (f"site {image[0]} of the model", image[1]["fn"])]:
        try:
            finite = bool(fn.mean.isfinite().all() and fn.variance.isfinite().all())
        except (NotImplementedError, AttributeError):
            finite = False
        if not finite:
            raise HVAEError(
                f"{what} is a {family_name(fn)}, which has no finite mean and variance: a posterior file is made of them. The "
                "pair can be trained, and judged by evidence_importance_sampling, but not exported; give the site a family "
                "with moments (Normal, Laplace, Bernoulli)"
            )
    if tuple(image[1]["fn"].event_shape) != (pixels,):
        raise HVAEError(
            f"site {image[0]} of the model has events of shape {tuple(image[1]['fn'].event_shape)}; a posterior file has "
            f"images as (image, pixel) of {pixels} pixels: flatten them (.to_event(1))"
        )
    both = [*inferred, *((f"site {name} of the model", node["fn"]) for name, node in pair.latents.items())]
    for what, fn in both:
        if by_unit(fn) is None:
            raise HVAEError(
                f"{what} is a {family_name(fn)}, whose density is not one of its dimensions one by one, so that its KL "
                "cannot be split among them, as a posterior file has it; use independent dimensions (.to_event()) or a "
                "MultivariateNormal"
            )


def by_unit(fn: Any) -> Any:
    """A distribution whose densities are one a dimension: independent ones, or a :class:`FullNormal`; None for others."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    if isinstance(fn, FullNormal) or not fn.event_shape:
        return fn
    if isinstance(fn, (torch.distributions.MultivariateNormal, torch.distributions.LowRankMultivariateNormal)):
        return FullNormal(fn.loc, scale_tril=fn.scale_tril)
    return None


def unit_kl(q: Any, p: Any, value: Tensor, closed: bool) -> Tensor:
    """Contribution of each dimension of a site to KL[q || p], shaped as its value; of the draw ``value`` where there is no
    closed form, or none is asked for."""
    q, p = by_unit(q), by_unit(p)
    full = [isinstance(fn, FullNormal) for fn in (q, p)]  # a dimension given those before it
    if closed and not full[1]:
        return q.unit_kl(p) if full[0] and isinstance(p, torch.distributions.Normal) else kl_divergence(q, p)
    log_q, log_p = (
        fn.unit_log_prob(value) if dense else fn.log_prob(value) for fn, dense in zip((q, p), full, strict=True)
    )
    return log_q - log_p


class Sums:
    """Running sums in float64 over groups of particles."""

    def __init__(self) -> None:
        self.references: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, summed: Tensor, groups: int) -> None:
        self.sums[name] = self.sums.get(name, 0) + summed.double()
        self.counts[name] = self.counts.get(name, 0) + groups

    def mean(self, name: str) -> np.ndarray:
        return (self.sums[name] / self.counts[name]).cpu().numpy()

    def reference(self, name: str, value: Tensor) -> Tensor:
        """What the moments of ``name`` are taken around: the first value asked for."""
        return self.references.setdefault(name, value)

    def centre(self, name: str) -> np.ndarray:
        """Mean of a quantity of which moments were taken."""
        return self.references[name].double().cpu().numpy() + self.mean(f"{name}_first")

    def correction(self, name: str) -> float:
        """n / (n - 1): a variance between n draws estimated around their own mean."""
        return self.counts[name] / (self.counts[name] - 1)

    def variance(self, name: str, *, within: bool = False) -> np.ndarray:
        """Between draws, plus the mean variance within them (law of total variance)."""
        between = np.maximum(self.mean(f"{name}_second") - self.mean(f"{name}_first") ** 2, 0)
        between *= self.correction(f"{name}_first")
        return between + self.mean(f"{name}_within") if within else between
