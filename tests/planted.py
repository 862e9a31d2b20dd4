"""Posterior files with planted truth: every number that an analysis estimates is known from how the file was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from scipy import integrate, stats

from pyro_hvae.report import ANALYSES
from pyro_hvae.storage.posterior_file import PosteriorWriter

ATTRIBUTES = {
    "preset": "planted",
    "model": "MarkovModel",
    "guide": "TopDownGuide",
    "configuration": {
        "model": {"z1": 112, "z2": 8},
        "posterior": {"draws": 30, "resample": None, "moment_draws": 64},
    },
    "objective": "ELBO",
    "particles": 1,
    "seed": 0,
    "versions": {"numpy": np.__version__},
    "git_revision": "0" * 40,
}
BLOCK = 97  # images a chunk, on purpose no divisor of anything
MOMENT_DRAWS = 64
BLOCK_UNITS = 6  # z1 units that share a z2 dimension
SHARED = 0.6  # share of their posterior variance that comes from it


@dataclass(frozen=True)
class Planted:
    """How a file was made. Families lie on their own z2 axis at ``separation``, with unit variance within."""

    path: Path
    size: int = 10
    z1_active: int = 70
    z1_collapsed: int = 42
    z2_active: int = 5
    z2_collapsed: int = 3
    families: tuple[str, ...] = ("bark", "gravel", "oat, rolled")
    natural: int = 300
    train: int = 60  # images a family
    test: int = 40
    separation: float = 2.5
    contrast: float = 1.0  # family k has its images multiplied by contrast ** k
    sigma: float = 0.4
    samples: int = 400
    draws: int = 30
    units: int = 24  # z1 units correlated, the first of the active ones, in blocks of BLOCK_UNITS
    labels: bool = True
    particles: int = 1
    seed: int = 0

    def bayes_accuracy(self) -> float:
        """Best possible decoding of equidistant Gaussian classes: E[Phi(t + d / s) ** (K - 1)], s = 1."""
        others = len(self.families) - 1
        return integrate.quad(lambda t: stats.norm.pdf(t) * stats.norm.cdf(t + self.separation) ** others, -8, 8)[0]

    def generative_map(self) -> np.ndarray:
        """A: Gabors of unit norm in the active columns, in random order with columns of size 1e-5."""
        rng = np.random.default_rng(self.seed)
        active, places = gabors(self.size, self.z1_active, rng), self.z1_places()
        columns = 1e-5 * rng.normal(size=(self.size**2, self.z1_active + self.z1_collapsed))
        columns[:, places] = active
        return columns

    def z1_places(self) -> np.ndarray:
        """Indices of the active z1 units."""
        return np.sort(
            np.random.default_rng(self.seed + 1).permutation(self.z1_active + self.z1_collapsed)[: self.z1_active]
        )

    def moments_of_samples(self) -> tuple[float, float]:
        """Variance and excess kurtosis of the pixels of ``A z1 + noise``, z1 ~ Laplace(0, 1) in the active units."""
        weights = self.generative_map()[:, self.z1_places()]
        m2 = 2 * (weights**2).sum(1) + self.sigma**2
        m4 = 12 * (weights**4).sum(1) + 3 * m2**2
        return m2.mean(), m4.mean() / m2.mean() ** 2 - 3

    def write(self) -> Planted:
        rng = np.random.default_rng(self.seed + 2)
        labels = [("", "test")] * self.natural
        labels += [
            (f, s) for f in self.families for s, n in (("train", self.train), ("test", self.test)) for _ in range(n)
        ]
        family, split = np.array(labels).T
        weights = self.generative_map()
        groups, constants = self._images(family, split, weights, rng), self._constants(weights, rng)
        with PosteriorWriter(self.path, ATTRIBUTES | {"particles": self.particles}) as writer:
            for start in range(0, len(family), BLOCK):
                here = slice(start, start + BLOCK)
                writer.append({name: dataset.isel(image=here) for name, dataset in groups.items()})
            writer.write(constants)
        return self

    def _images(self, family: np.ndarray, split: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> dict:
        n, d1, d2 = len(family), weights.shape[1], self.z2_active + self.z2_collapsed
        used = np.isin(np.arange(d1), self.z1_places())
        z1 = np.where(used, rng.laplace(size=(n, d1)), 1e-4 * rng.normal(size=(n, d1)))
        rank = np.array([self.families.index(f) if f else -1 for f in family])
        gain = np.where(rank > 0, self.contrast ** np.maximum(rank, 0), 1.0)[:, None]
        signal = gain * (z1 @ weights.T)
        x = signal + self.sigma * rng.normal(size=signal.shape)
        z2 = np.concatenate([rng.normal(size=(n, self.z2_active)), 1e-3 * rng.normal(size=(n, self.z2_collapsed))], 1)
        z2[rank >= 0, rank[rank >= 0]] += self.separation
        v1 = np.where(used, 0.05, 2.0) * np.ones((n, 1))
        v2 = np.r_[np.full(self.z2_active, 0.1), np.full(self.z2_collapsed, 0.999)] * np.ones((n, 1))
        kl1 = np.where(used, rng.gamma(4.0, 0.25, size=(n, d1)), 0.0)
        kl2 = 0.5 * (z2**2 + v2 - 1 - np.log(v2))
        reconstruction = np.where(rank < 0, -100.0, -130.0) + 5 * rng.normal(size=n)
        groups = {
            "posterior_moments": {
                "z1_mean": z1, "z1_variance": v1, "z1_kl": kl1, "z1_variance_from_z2": SHARED * v1,
                "z2_mean": z2, "z2_variance": v2, "z2_kl": kl2,
            },
            "posterior_predictive": {"x_mean": signal, "x_variance": np.full_like(x, self.sigma**2)},
            "bound": {
                "elbo": reconstruction - kl1.sum(1) - kl2.sum(1), "reconstruction": reconstruction,
                "z1_kl": kl1.sum(1), "z2_kl": kl2.sum(1),
            },
            "observed_data": {"x": x},
        }  # fmt: skip
        made = {
            group: xr.Dataset({name: (_dims(name, values), values) for name, values in variables.items()})
            for group, variables in groups.items()
        }
        if self.units:
            made["posterior_moments"] = made["posterior_moments"].merge(self._correlation(n, rng))
        if self.draws:
            made["sample_stats"] = xr.Dataset({
                "log_weight": (("chain", "draw", "image"), rng.normal(size=(1, self.draws, n))),
                "ess": ("image", rng.uniform(1, self.draws, n)),
                "pareto_k": ("image", rng.uniform(0, 1, n)),
            })  # fmt: skip
            shape = (1, self.draws)
            z1_draws = z1 + np.sqrt(v1 / 2) * rng.laplace(size=(*shape, n, d1))
            z2_draws = z2 + np.sqrt(v2) * rng.normal(size=(*shape, n, d2))
            dims = ("chain", "draw", "image")
            made["posterior"] = xr.Dataset({"z1": ((*dims, "z1_dim"), z1_draws), "z2": ((*dims, "z2_dim"), z2_draws)})
        if self.labels:
            made["constant_data"] = xr.Dataset(coords={"family": ("image", family), "split": ("image", split)})
        return made

    def _conditional(self, rng: np.random.Generator) -> dict:
        """Active z2 dims move the locations of the active z1 units by 0.1 and their log scales by 0.3 (rms)."""
        shape = (self.z2_active + self.z2_collapsed, self.z1_active + self.z1_collapsed)
        strength = np.zeros(shape)
        strength[: self.z2_active, self.z1_places()] = 1.0
        signs = rng.choice([-1.0, 1.0], size=(2, *shape))
        dims = ("z2_dim", "z1_dim")
        return {
            "z2_to_z1_location": (dims, 0.1 * signs[0] * strength),
            "z2_to_z1_log_scale": (dims, 0.3 * signs[1] * strength),
        }

    def _correlation(self, n: int, rng: np.random.Generator) -> xr.Dataset:
        """Sample correlations of z1: within a block of units SHARED, none between blocks."""
        units = self.z1_places()[: self.units]
        block = np.arange(len(units)) // BLOCK_UNITS
        drive = rng.normal(size=(n, MOMENT_DRAWS, block.max() + 1))[..., block]
        conditional = np.stack([np.corrcoef(one.T) for one in drive])
        matrix = SHARED * conditional
        matrix[:, range(len(units)), range(len(units))] = 1.0
        return xr.Dataset(
            {"z1_correlation": (("image", "unit", "unit_bis"), matrix)}, {"unit": units, "unit_bis": units}
        )

    def _constants(self, weights: np.ndarray, rng: np.random.Generator) -> dict[str, xr.Dataset]:
        used = self.z1_places()
        samples = rng.laplace(size=(self.samples, len(used))) @ weights[:, used].T
        mixing = rng.normal(size=(self.z2_active, len(used))) / np.sqrt(len(used))
        fields = np.concatenate(
            [mixing @ weights[:, used].T, 1e-5 * rng.normal(size=(self.z2_collapsed, len(weights)))]
        )
        constant = {
            "A": (("pixel", "z1_dim"), weights),
            "c": ("pixel", np.zeros(len(weights))),
            "sigma": ((), self.sigma),
            "z2_field": (("z2_dim", "pixel"), fields),
            **self._conditional(rng),
        }
        prior = {"x_mean": (("sample", "pixel"), samples)}
        return {"constant_data": xr.Dataset(constant), "prior_predictive": xr.Dataset(prior)}


@contextmanager
def only_analyses(*names: str) -> Iterator[None]:
    """Reports of posterior files with these analyses alone; afterwards the registry is whole, and in its order."""
    whole = dict(ANALYSES)
    for name in whole.keys() - names:
        del ANALYSES[name]
    try:
        yield
    finally:
        ANALYSES.clear()
        ANALYSES.update(whole)


def add_gap(tree: xr.DataTree, images: int = 40) -> None:
    """A split of the gap for the first images (all natural): 0.5, 3, 0.25 and 1 nats, every other image twice that or none."""
    n = tree["bound"].sizes["image"]
    known = np.where(np.arange(n) < images, 2.0 * (np.arange(n) % 2), np.nan)  # mean 1, variance 1
    parts = {"amortisation_z1": 0.5, "amortisation_upper": 3.0, "family_z1": 0.25, "family_upper": 1.0}
    rows = {name: size * known for name, size in parts.items()}
    rows |= {
        "elbo": tree["bound"]["elbo"].values + 0 * known,
        "standard_error": 0.1 + 0 * known,
        "pareto_k": 0.5 + 0 * known,
    }
    rows["log_evidence"] = rows["elbo"] + sum(parts.values()) * known
    attrs = {"refinement_steps": 200, "num_particles": 1000, "seed": 0, "family": "by layer"}
    tree["gap"] = xr.DataTree(xr.Dataset({name: ("image", row) for name, row in rows.items()}, attrs=attrs))


def add_chains(tree: xr.DataTree) -> None:
    """The statistics of a sampler instead of weights: every fifth image has not converged."""
    n = tree["bound"].sizes["image"]
    apart = np.arange(n) % 5 == 0
    rows = {name: np.where(apart, 120.0, 800.0) for name in ("ess_mean", "ess_bulk", "ess_tail")}
    rows |= {"r_hat_mean": np.where(apart, 1.1, 1.003), "r_hat": np.where(apart, 1.12, 1.01)}
    rows |= {"converged": (~apart).astype(np.int8), "divergences": 3 * apart, "acceptance_rate": np.full(n, 0.8)}
    tree["sample_stats"] = xr.DataTree(xr.Dataset({name: ("image", row) for name, row in rows.items()}))


def gabors(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Gabor patches of unit norm, ``(pixel, count)``."""
    y, x = np.mgrid[:size, :size]
    columns = []
    for _ in range(count):
        cy, cx = rng.uniform(0.2 * size, 0.8 * size, 2)
        theta, phase = rng.uniform(0, np.pi, 2)
        wavelength, width = rng.uniform(3, 6), rng.uniform(0.1, 0.18) * size
        u = (x - cx) * np.cos(theta) + (y - cy) * np.sin(theta)
        patch = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2)) * np.cos(
            2 * np.pi * u / wavelength + 2 * phase
        )
        columns.append((patch / np.linalg.norm(patch)).ravel())
    return np.stack(columns, axis=1)


def _dims(name: str, values: np.ndarray) -> tuple[str, ...]:
    if values.ndim == 1:
        return ("image",)
    return ("image", f"{name[:2]}_dim" if name.startswith("z") else "pixel")
