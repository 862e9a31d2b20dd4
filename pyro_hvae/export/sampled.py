"""Moments, draws and convergence of the posteriors of a chunk of images, by Hamiltonian Monte Carlo."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_hvae.errors import HVAEError
from pyro_hvae.export.moments import Moments
from pyro_hvae.sampling.chain_statistics import chain_statistics
from pyro_hvae.sampling.collapsed import CYCLES, Collapsed
from pyro_hvae.sampling.hmc import check_counts
from pyro_hvae.sampling.memory import chunk_bytes
from pyro_hvae.sampling.posterior_chains import ChainStarter, Plain

log = logging.getLogger(__name__)

MEMORY = 512 * 2**20  # bytes of the draws of one chunk of images, which R-hat needs all of
PAIR_EVERY = 10  # sweeps, for what needs separate draws of z1 given z2, and for the predictive moments
BATCHES = 8  # of each chain, whose means tell the Monte-Carlo errors
COMPILED_FROM = 100_000  # sweeps of a chain of an image, about what compiling costs
LEAST_WARMUP, LEAST_SAMPLES = 20, 16
R_HAT, ESS, R_HAT_RANKED = 1.01, 400, 1.05
NAMED = 20  # images that a warning names


@dataclass(frozen=True)
class Sampling:
    """How long the chains are."""

    num_samples: int
    """Draws of each chain after warm-up."""
    warmup: int
    chains: int
    draws: int
    """Kept of each image, all chains together."""

    def __post_init__(self) -> None:
        check_counts(num_samples=self.num_samples, warmup=self.warmup, chains=self.chains)
        if self.chains < 2 or self.warmup < LEAST_WARMUP or self.num_samples < LEAST_SAMPLES:
            raise HVAEError(
                f"sampler='hmc' needs at least 2 chains, which R-hat compares, {LEAST_WARMUP} transitions of warm-up and "
                f"{LEAST_SAMPLES} draws a chain; got chains={self.chains}, warmup={self.warmup}, num_samples={self.num_samples}"
            )
        if self.draws > self.chains * self.num_samples:
            raise HVAEError(
                f"draws={self.draws} are to be stored, but {self.chains} chains of num_samples={self.num_samples} make "
                f"{self.chains * self.num_samples}; raise num_samples"
            )


class SampledMoments:
    """What :class:`~pyro_hvae.export.moments.Moments` gives of a guide, of the posterior itself.

    :param guide: moments of the guide that the chains start from; its bound and KL go into the file, which has none of its own.
    """

    def __init__(self, guide: Moments, sampling: Sampling, images: int):
        self.guide, self.sampling, self.units = guide, sampling, list(guide.request.units)
        vae = guide.vae
        self.latents = vae.latents
        sweeps = images * sampling.chains * (sampling.num_samples + sampling.warmup)
        self.starter = ChainStarter(vae, compiled=sweeps >= COMPILED_FROM)
        each = 4 * sampling.chains * sampling.num_samples * sum(self.latents.values()) + 32 * len(self.units) ** 2
        self.chunk = int(np.clip(chunk_bytes(MEMORY, guide.device) // each, 1, min(guide.chunk, 250)))
        self.seen = 0
        self.apart: list[int] = []

    def of(self, chunk: xr.Dataset) -> dict[str, xr.Dataset]:
        """The per-image groups of the posterior file."""
        x = self.guide.images(chunk)
        groups = self.guide.of(chunk)
        state = self.starter.start(x, self.sampling.chains, self.sampling.warmup)
        for _ in range(self.sampling.warmup):
            state.sweep(adapt=True)
        found = _Running(self.latents, self.units, len(x), self.sampling, state)
        for n in range(self.sampling.num_samples):
            found.step(n)
        statistics = found.statistics()
        moments = found.moments()
        for site in self.latents:
            moments[f"{site}_kl"] = groups["posterior_moments"][f"{site}_kl"]
        coordinates = {"unit": self.units, "unit_bis": self.units} if self.units else {}
        groups["posterior_moments"] = xr.Dataset(moments, coordinates)
        groups["posterior_predictive"] = xr.Dataset(found.predictive())
        groups["bound"] = groups["bound"].assign_attrs(of="the guide that the chains started at")
        groups["sample_stats"] = xr.Dataset({name: ("image", values) for name, values in statistics.items()})
        if self.sampling.draws:
            groups["posterior"] = xr.Dataset(found.kept())
        self.apart += [self.seen + int(i) for i in np.flatnonzero(statistics["converged"] == 0)]
        self.seen += len(x)
        return groups

    def warn(self) -> None:
        """Name the images whose chains did not converge."""
        if self.apart:
            more = f" and {len(self.apart) - NAMED} more" if len(self.apart) > NAMED else ""
            log.warning(
                "%d of %d images did not converge (R-hat of a mean above %g, its effective sample size below %d, or "
                "R-hat above %g): images %s%s; marked in sample_stats/converged. Raise num_samples or warmup",
                len(self.apart), self.seen, R_HAT, ESS, R_HAT_RANKED, ", ".join(map(str, self.apart[:NAMED])), more,
            )  # fmt: skip


class _Running:
    """All draws of the latents of a chunk, for R-hat; sums of everything else."""

    def __init__(self, latents: dict[str, int], units: list[int], images: int, s: Sampling, state: Collapsed | Plain):
        self.latents, self.units, self.sampling, self.state = latents, units, s, state
        self.draws = {
            site: np.empty((s.chains, s.num_samples, images, dim), np.float32) for site, dim in latents.items()
        }
        self.collapsed = isinstance(state, Collapsed)
        self.accepted: Any = 0.0
        self.divergences: Any = 0
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.batches: dict[str, list[Tensor]] = {}
        self.reference = {site: z.mean(0).double() for site, z in state.sites().items()}

    def step(self, n: int) -> None:
        paired = n % PAIR_EVERY == 0
        state = self.state
        probability, divergent = state.sweep(adapt=False, cycles=state.long if paired else CYCLES)
        self.accepted = self.accepted + probability.mean(0)
        self.divergences = self.divergences + divergent.sum(0)
        batch = min(n * BATCHES // self.sampling.num_samples, BATCHES - 1)
        sites = state.sites()
        for site, z in sites.items():
            self.draws[site][:, n] = z.cpu().numpy()
            mean, within = z, torch.zeros(())
            if site == "z1" and isinstance(state, Collapsed):  # as good as many draws given (z2, u)
                mean, within = state.mean, state.within
            mean = (mean - self.reference[site]).double()
            self._batch(f"{site}_first", batch, mean)
            self._batch(f"{site}_second", batch, mean.square() + within.double())
            if site == "z1" and self.units:
                part = mean[..., self.units].to(z.dtype)
                half = len(part) // 2
                self._add("cross_0", torch.einsum("cbi,cbj->bij", part[:half], part[:half]), half)
                self._add("cross_1", torch.einsum("cbi,cbj->bij", part[half:], part[half:]), len(part) - half)
                self._add("part_0", part[:half].sum(0), half)
                self._add("part_1", part[half:].sum(0), len(part) - half)
        if paired:
            self._pair(sites)

    def _pair(self, sites: dict[str, Tensor]) -> None:
        state, chains = self.state, self.sampling.chains
        if isinstance(state, Collapsed):
            first, last = (t - self.reference["z1"] for t in (state.first, state.mean))
            self._add("first", first.sum(0), chains)
            self._add("last", last.sum(0), chains)
            self._add("product", (first * last).sum(0), chains)
            A = state.model.A
            predicted = state.model.image_mean({1: state.mean, **state.split(state.upper)})
            spread = state.within @ A.square().T + state.model.sigma.square()
        else:
            predicted, spread = (t.reshape(*t.shape[:2], -1) for t in state.joint.predicted(state.u))
        if "x" not in self.reference:
            self.reference["x"] = predicted.mean(0).double()
        predicted = predicted - self.reference["x"]
        self._add("x_first", predicted.sum(0), chains)
        self._add("x_second", (predicted.square() + spread).sum(0), chains)

    def _add(self, name: str, summed: Tensor, count: int) -> None:
        self.sums[name] = self.sums.get(name, 0) + summed.double()
        self.counts[name] = self.counts.get(name, 0) + count

    def _mean(self, name: str) -> np.ndarray:
        return (self.sums[name] / self.counts[name]).cpu().numpy()

    def _batch(self, name: str, batch: int, values: Tensor) -> None:
        parts = self.batches.setdefault(name, [])
        if len(parts) <= batch:
            parts.append(torch.zeros_like(values))
        parts[batch] += values

    def _batch_means(self, name: str) -> np.ndarray:
        """``(chain * batch, image, dim)``."""
        edges = np.arange(self.sampling.num_samples) * BATCHES // self.sampling.num_samples
        sizes = np.bincount(edges, minlength=BATCHES)
        parts = [part / size for part, size in zip(self.batches[name], sizes, strict=True)]
        return torch.cat(parts).cpu().numpy()

    def moments(self) -> dict[str, Any]:
        """Means and variances with their Monte-Carlo errors by batch means, z1's variance from z2, correlations."""
        made: dict[str, Any] = {}
        for site in self.latents:
            dims = ("image", f"{site}_dim")
            first, second = self._batch_means(f"{site}_first"), self._batch_means(f"{site}_second")
            mean = first.mean(0)
            spread = second - 2 * first * mean + mean**2
            made[f"{site}_mean"] = (dims, self.reference[site].cpu().numpy() + mean)
            made[f"{site}_variance"] = (dims, spread.mean(0))
            for name, batches in (("mean", first), ("variance", spread)):
                made[f"{site}_{name}_se"] = (dims, batches.std(0, ddof=1) / np.sqrt(len(batches)))
        if self.collapsed and len(self.latents) > 1:
            shared = self._mean("product") - self._mean("first") * self._mean("last")
            made["z1_variance_from_z2"] = (("image", "z1_dim"), np.clip(shared, 0, made["z1_variance"][1]))
        if self.units:
            halves = [self._correlation(half, made["z1_variance"][1][:, self.units]) for half in (0, 1)]
            count = np.array([self.counts["cross_0"], self.counts["cross_1"]]) / sum(
                self.counts[f"cross_{h}"] for h in (0, 1)
            )
            made["z1_correlation"] = (("image", "unit", "unit_bis"), np.tensordot(count, np.stack(halves), 1))
            made["z1_correlation_half"] = (("image", "half", "unit", "unit_bis"), np.stack(halves, 1))
        return made

    def _correlation(self, half: int, variance: np.ndarray) -> np.ndarray:
        """Coefficients of one half of the chains, ``(image, unit, unit)``; given (z2, u) the units are independent."""
        first = self._mean(f"part_{half}")
        covariance = self._mean(f"cross_{half}") - first[:, :, None] * first[:, None, :]
        diagonal = np.arange(len(self.units))
        covariance[:, diagonal, diagonal] = variance
        scale = np.sqrt(variance)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.clip(covariance / (scale[:, :, None] * scale[:, None, :]), -1, 1)

    def predictive(self) -> dict[str, Any]:
        first, second = self._mean("x_first"), self._mean("x_second")
        dims = ("image", "pixel")
        return {
            "x_mean": (dims, self.reference["x"].cpu().numpy() + first),
            "x_variance": (dims, second - first**2),
        }

    def statistics(self) -> dict[str, np.ndarray]:
        """The worst over all latents, per image; whether the image converged; acceptance and divergences."""
        jobs = [z[:, :, i : i + 8] for z in self.draws.values() for i in range(0, z.shape[2], 8)]
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:  # sorting leaves the interpreter free
            parts = list(pool.map(chain_statistics, jobs))
        per_site = len(parts) // len(self.draws)
        worst: dict[str, np.ndarray] = {}
        for name in parts[0]:
            judge = np.fmax if name.startswith("r_hat") else np.fmin
            rows = [judge.reduce(part[name], axis=-1) for part in parts]
            sites = [np.concatenate(rows[i : i + per_site]) for i in range(0, len(rows), per_site)]
            worst[name] = judge.reduce(sites)
        met = (worst["r_hat_mean"] < R_HAT) & (worst["ess_mean"] >= ESS) & (worst["r_hat"] < R_HAT_RANKED)
        count = self.sampling.num_samples
        return worst | {
            "converged": met.astype(np.int8),
            "divergences": self.divergences.cpu().numpy().astype(np.int32),
            "acceptance_rate": (self.accepted / count).cpu().numpy(),
        }

    def kept(self) -> dict[str, Any]:
        """Draws evenly spread over the chains, as many as were asked for or a few more."""
        each = -(-self.sampling.draws // self.sampling.chains)
        chosen = np.arange(each) * self.sampling.num_samples // each
        return {site: (("chain", "draw", "image", f"{site}_dim"), z[:, chosen]) for site, z in self.draws.items()}
