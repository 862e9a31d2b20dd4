"""Posterior (noise) correlations of z1 as a file holds them, image by image, and what is known of their sampling error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from pyro_hvae.analysis.reading import blocks, export_settings, finite_array, selected
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import sites

MOST_UNITS = 100  # strongest units that are correlated where draws are stored and no units were chosen
HELD = 2**24  # numbers held at a time
BY_CONSTRUCTION = (
    "zero noise correlation by construction: the guide draws every z1 unit independently given the image "
    "({why}), so there is nothing to analyse or decode"
)


def zero_by_construction(tree: xr.DataTree) -> str:
    """Why all noise correlations of the file are zero by construction, as a sentence; empty where they are not.

    They are where no part of the variance of z1 comes from z2 (bottom-up and mean-field guides, single-layer models).
    Importance-resampled posteriors are correlated all the same.
    """
    if int(export_settings(tree).get("resample") or 1) > 1:
        return ""
    if len(sites(tree)) < 2:
        return BY_CONSTRUCTION.format(why="there is no layer above it")
    if "z1_variance_from_z2" not in tree["posterior_moments"]:
        return ""
    from_z2 = tree["posterior_moments"]["z1_variance_from_z2"]
    if float(np.abs(from_z2).max()) == 0:
        return BY_CONSTRUCTION.format(why="q(z1|x) does not depend on z2")
    return ""


@dataclass(frozen=True)
class PosteriorCorrelations:
    """Posterior correlation coefficients of z1 units, image by image.

    ``draws`` is the number of draws behind each coefficient, None where it is not recorded; ``conditional`` says that only
    the conditional means of z1 given z2 were correlated (the rest of the variance is known to be independent).
    """

    tree: xr.DataTree
    units: np.ndarray
    path: str
    draws: int | None
    conditional: bool

    def blocks(self, images: np.ndarray, units: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Image indices and their matrices ``(image, unit, unit)``, a block of images at a time.

        ``images`` is a mask or indices; ``units`` are places in :attr:`units`. Not finite where a unit has no variance.
        """
        every = np.zeros(self.tree["posterior_moments"].sizes["image"], bool)
        every[images] = True
        depth = len(self.units) if self.path.endswith("correlation") else self.draws or 1
        for block in blocks(every, max(1, HELD // (len(self.units) * depth))):
            yield block, self._matrices(block, units)

    def pairs(self, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Coefficients above the diagonal, ``(image, pair)`` float32, in the order of images in the file."""
        i, j = np.triu_indices(len(units), 1)
        parts = [matrices[:, i, j].astype(np.float32) for _, matrices in self.blocks(images, units)]
        return np.concatenate(parts) if parts else np.zeros((0, i.size), np.float32)

    def standardised(self, r: np.ndarray, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Coefficients ``(image, pair)`` of the draws themselves: those of conditional means are freed of the constant part.

        Under independence and normality their t statistic has ``draws - 2`` degrees of freedom.
        """
        if not self.conditional:
            return r
        share = self.shared(images, units)
        i, j = np.triu_indices(len(units), 1)
        scale = np.sqrt(share[:, i] * share[:, j])
        return np.divide(r, scale, out=np.zeros_like(scale), where=scale > 1e-6).clip(-1, 1)

    def shared(self, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Share of the variance of each unit that comes from z2, ``(image, unit)``; 1 for correlations of full draws."""
        if not self.conditional:
            return np.ones((np.asarray(images).size, len(units)))
        chosen = self.units[units]
        total, part = (
            selected(self.tree, f"posterior_moments/{name}", images)[:, chosen]
            for name in ("z1_variance", "z1_variance_from_z2")
        )
        return np.divide(part, total, out=np.zeros_like(part), where=total > 0).clip(0, 1)

    def _matrices(self, images: np.ndarray, units: np.ndarray) -> np.ndarray:
        if self.path.endswith("correlation"):
            return selected(self.tree, self.path, images)[:, units[:, None], units]
        array = self.tree[self.path].transpose("image", "chain", "draw", "z1_dim")
        draws = np.asarray(array.isel(image=images, z1_dim=self.units[units]).values, dtype=float)
        draws = draws.reshape(len(images), -1, len(units))
        draws -= draws.mean(1, keepdims=True)
        covariance = draws.transpose(0, 2, 1) @ draws
        sd = np.sqrt(np.einsum("nii->ni", covariance))
        with np.errstate(invalid="ignore", divide="ignore"):
            return covariance / (sd[:, :, None] * sd[:, None, :])


def posterior_correlations(tree: xr.DataTree) -> PosteriorCorrelations:
    """Those of the file: the stored correlation matrices where there are any, otherwise correlations of stored draws.

    Raises
    ------
    HVAEError
        Where the file holds neither.
    """
    settings = export_settings(tree)
    moments = tree["posterior_moments"]
    if "z1_correlation" in moments:
        if (
            "z1_correlation_half" in moments
        ):  # of a sampler: of whole draws, as many as its worst mean has effective ones
            effective = float(np.median(np.asarray(tree["sample_stats/ess_mean"].values)))
            units = np.asarray(moments["unit"].values, dtype=int)
            return PosteriorCorrelations(tree, units, "posterior_moments/z1_correlation", max(int(effective), 4), False)
        resampled = int(settings.get("resample") or 1) > 1
        count = settings.get("draws" if resampled else "moment_draws")
        if not resampled and count:
            count = max(int(count), int(settings.get("draws") or 0))
        units = np.asarray(moments["unit"].values, dtype=int)
        conditional = not resampled and "z1_variance_from_z2" in moments
        return PosteriorCorrelations(
            tree, units, "posterior_moments/z1_correlation", int(count) if count else None, conditional
        )
    if "posterior" in tree.children and "z1" in tree["posterior"]:
        sizes = tree["posterior"]["z1"].sizes
        power = (finite_array(tree, "constant_data/A") ** 2).mean(0)
        units = np.sort(np.argsort(-power)[:MOST_UNITS])
        return PosteriorCorrelations(tree, units, "posterior/z1", sizes["chain"] * sizes["draw"], False)
    raise HVAEError(
        "the file holds no correlations of z1: export it with units (--units 3 14 15 ...) for z1_correlation, or with draws"
    )


def significant(r: np.ndarray, draws: int, level: float = 0.05) -> np.ndarray:
    """Which sample correlations of ``draws`` normal pairs differ from zero at ``level`` (t test, two-sided)."""
    limit = stats.t.ppf(1 - level / 2, draws - 2)
    return np.abs(r) > limit / np.sqrt(draws - 2 + limit**2)


def null_coefficients(shape: tuple[int, ...], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Sample correlations of independent normal pairs."""
    t = rng.standard_t(draws - 2, size=shape)
    return t / np.sqrt(draws - 2 + t**2)
