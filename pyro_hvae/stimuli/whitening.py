"""The preprocessing transform: matched intensity, then PCA whitening without the faintest components.

Csikor, Meszéna, Szabó & Orbán 2022 (arXiv 2206.00436, [C22]): "PCA whitening that drops 100(1 − π/4)% of the
components with least variance". π/4 is the part of a square of spatial frequencies that lies in its inscribed circle:
what is dropped are the corners, where oblique gratings are finer than any horizontal or vertical one can be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.stimuli.intensity import IntensityMap

CONTRASTS = ("none", "unit_norm")
CHUNK = 16_384  # patches whitened at once, so that memory stays bounded


def kept_components(pixels: int) -> int:
    """floor(π/4 · pixels): 314 of 400, 1256 of 1600."""
    return math.floor(math.pi / 4 * pixels)


def _check_count(count: int, pixels: int) -> None:
    keep = kept_components(pixels)
    if count <= keep:
        raise HVAEError(f"{count} training patches cannot determine {keep} components; cut more than {keep}.")


@dataclass(frozen=True, eq=False)
class Whitening:
    """Preprocessing fitted on training photographs and patches, then applied unchanged to anything else.

    The chain, for a photograph L and its patches:

    1. `matched = whitening.match_intensity(L)`: exposure, logarithm, histogram (`IntensityMap`); then cut patches.
    2. `y = whitening(patches)`: y = V Λ^(-1/2) Vᵀ (patch − mean), with V the leading `dims` eigenvectors of the
       covariance of the matched training patches and Λ their eigenvalues: whitened, mapped back to pixels.
    3. with `contrast="unit_norm"`, y is divided by its Euclidean norm and scaled to √dims, the root mean square norm of
       whitened training patches. It comes last because the norm in whitened space is the contrast the model sees.

    `contrast` is `"none"` (default) or `"unit_norm"`; under the latter `inverse` recovers a patch up to its contrast.
    """

    intensity: IntensityMap
    mean: np.ndarray  # (pixel,) of the matched training patches
    eigenvalues: np.ndarray  # (pixel,) of their covariance, descending; the whole spectrum
    components: np.ndarray  # (dims, pixel): the kept eigenvectors, one a row
    contrast: str = "none"

    def __post_init__(self) -> None:
        if self.contrast not in CONTRASTS:
            raise unknown("contrast", self.contrast, CONTRASTS)
        pixels = self.mean.size
        if math.isqrt(pixels) ** 2 != pixels or pixels == 0:
            raise HVAEError(f"a whitening for {pixels} pixels: patches are square, so expected a square number.")
        if self.eigenvalues.shape != (pixels,) or self.components.shape != (kept_components(pixels), pixels):
            raise HVAEError(
                f"eigenvalues {self.eigenvalues.shape} and components {self.components.shape} do not fit a mean of "
                f"{pixels} pixels: expected ({pixels},) and ({kept_components(pixels)}, {pixels})."
            )
        if not all(np.isfinite(a).all() for a in (self.mean, self.eigenvalues, self.components)):
            raise HVAEError("the whitening holds values that are not finite: the file it comes from is damaged.")

    @classmethod
    def fit(cls, patches: np.ndarray, intensity: IntensityMap, *, contrast: str = "none") -> Whitening:
        """Fit the second half on `patches` (image, pixel) or (image, y, x): matched TRAINING patches.

        Mean and covariance are accumulated in double precision over chunks. Raises `HVAEError` where the patches span
        fewer dimensions than are to be kept.
        """
        flat = np.asarray(patches).reshape(len(patches), -1)
        count, pixels = flat.shape
        _check_count(count, pixels)
        mean = flat.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((pixels, pixels))
        for start in range(0, count, CHUNK):
            centred = flat[start : start + CHUNK].astype(np.float64) - mean
            with threadpool_limits(1):
                covariance += centred.T @ centred
        return cls._of_moments(mean, covariance / count, intensity, contrast)

    @classmethod
    def fit_chunks(cls, chunks: Iterable[np.ndarray], intensity: IntensityMap, *, contrast: str = "none") -> Whitening:
        """`fit` on patches that are not in memory together: `chunks` of matched training patches (image, pixel).

        One pass in double precision, which is exact enough because matched intensities are near the unit normal. Raises as
        `fit` does.
        """
        count, total, squares = 0, np.zeros(1), np.zeros((1, 1))
        for chunk in chunks:
            flat = np.asarray(chunk, np.float64).reshape(len(chunk), -1)
            with threadpool_limits(1):
                squares = squares + flat.T @ flat
            count, total = count + len(flat), total + flat.sum(axis=0)
        _check_count(count, total.size)
        mean = total / count
        return cls._of_moments(mean, squares / count - np.outer(mean, mean), intensity, contrast)

    @classmethod
    def _of_moments(cls, mean: np.ndarray, covariance: np.ndarray, intensity: IntensityMap, contrast: str) -> Whitening:
        pixels = mean.size
        keep = kept_components(pixels)
        with threadpool_limits(1):
            eigenvalues, vectors = np.linalg.eigh(covariance)
        eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
        if not eigenvalues[keep - 1] > 1e-7 * eigenvalues[0]:
            rank = int((eigenvalues > 1e-7 * eigenvalues[0]).sum())
            raise HVAEError(
                f"the training patches vary in {rank} dimensions only, and {keep} of {pixels} are to be kept: "
                "give more, or less smooth, photographs, or smaller patches."
            )
        return cls(intensity, mean, np.ascontiguousarray(eigenvalues), vectors[:, :keep].T.copy(), contrast)

    @property
    def pixels(self) -> int:
        """Number of pixels of a patch."""
        return self.mean.size

    @property
    def size(self) -> int:
        """Side of a patch in pixels."""
        return math.isqrt(self.pixels)

    @property
    def dims(self) -> int:
        """Number of kept components: floor(π/4 · pixels)."""
        return len(self.components)

    @property
    def options(self) -> dict[str, Any]:
        """What was declared, as JSON values."""
        return {
            "size": self.size,
            "dims": self.dims,
            "exposure": self.intensity.exposure,
            "floor": self.intensity.floor,
            "reference": self.intensity.reference,
            "contrast": self.contrast,
        }

    def match_intensity(self, luminance: np.ndarray, median: float | None = None) -> np.ndarray:
        """Photograph (or any values cut from one whose median luminance is `median`) to matched intensity, float32."""
        return self.intensity(luminance, median)

    def __call__(self, patches: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Whiten matched patches (…, pixel) or (…, y, x); float32 of the same shape.

        `mask` (broadcast against the patches, True where a pixel is shown) replaces what is not shown by 0, the mean
        of the matched intensity, before whitening. Raises `HVAEError` for patches of another size.
        """
        patches = np.asarray(patches)
        if mask is not None:
            patches = np.where(mask, patches, np.float32(0))
        whitened = self._apply(patches, self._whitener, -(self.mean @ self._whitener))
        if self.contrast == "unit_norm":
            flat = whitened.reshape(-1, self.pixels)
            norm = np.sqrt(np.einsum("ij,ij->i", flat, flat, dtype=np.float64))
            flat *= (math.sqrt(self.dims) / np.where(norm > 0, norm, 1.0))[:, None].astype(np.float32)
        return whitened

    def inverse(self, patches: np.ndarray) -> np.ndarray:
        """Whitened to matched patches: exact on the kept subspace (up to contrast under `contrast="unit_norm"`)."""
        root = np.sqrt(self.eigenvalues[: self.dims])
        return self._apply(np.asarray(patches), (self.components.T * root) @ self.components, self.mean)

    def project(self, patches: np.ndarray) -> np.ndarray:
        """Orthogonal projection of whitened patches onto the kept subspace."""
        return self._apply(np.asarray(patches), self.components.T @ self.components, np.zeros(self.pixels))

    @cached_property
    def _whitener(self) -> np.ndarray:
        with threadpool_limits(1):
            return (self.components.T / np.sqrt(self.eigenvalues[: self.dims])) @ self.components

    def _apply(self, patches: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
        square = patches.ndim >= 2 and patches.shape[-2:] == (self.size, self.size)
        if not square and (patches.ndim == 0 or patches.shape[-1] != self.pixels):
            raise HVAEError(
                f"patches of shape {patches.shape}: this transform was fitted on {self.size}×{self.size} patches, so "
                f"expected (…, {self.pixels}) or (…, {self.size}, {self.size})."
            )
        flat = patches.reshape(-1, self.pixels)
        out = np.empty(flat.shape, np.float32)
        matrix32, shift32 = matrix.astype(np.float32), shift.astype(np.float32)
        for start in range(0, len(flat), CHUNK):
            part = slice(start, start + CHUNK)
            with threadpool_limits(1):  # sums in one order, whatever the number of threads: the same bytes everywhere
                np.matmul(flat[part].astype(np.float32, copy=False), matrix32, out=out[part])
            out[part] += shift32
        return out.reshape(patches.shape)

    def to_dataset(self) -> xr.Dataset:
        """Everything needed to rebuild the transform; the options are a JSON string variable."""
        return xr.Dataset(
            {
                "mean": ("pixel", self.mean),
                "eigenvalues": ("component", self.eigenvalues),
                "components": (("kept_component", "pixel"), self.components),
                "options": ((), json.dumps(self.options)),
                **self.intensity.variables(),
            }
        )

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> Whitening:
        """Rebuild the transform bit by bit. Raises `HVAEError` naming what is missing or does not fit."""
        needed = ("mean", "eigenvalues", "components", "options", "knot_log", "knot_z")
        missing = [name for name in needed if name not in dataset]
        if missing:
            raise HVAEError(f"no whitening transform here: missing {', '.join(missing)} (found {list(dataset)}).")
        values = {name: dataset[name].values for name in needed}
        try:
            options = json.loads(str(values["options"]))
            exposure, floor, reference = options["exposure"], options["floor"], options["reference"]
            contrast = options["contrast"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise HVAEError(f"the options of the whitening transform cannot be read: {values['options']!r}") from error
        arrays = {name: np.asarray(values[name], np.float64) for name in needed if name != "options"}
        intensity = IntensityMap(arrays["knot_log"], arrays["knot_z"], exposure, floor, reference)
        return cls(intensity, arrays["mean"], arrays["eigenvalues"], arrays["components"], contrast)
