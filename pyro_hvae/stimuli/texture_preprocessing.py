"""Whose histogram textures are matched to the unit normal by, and whose covariance whitens them.

Csikor et al. 2022 (arXiv 2206.00436, [C22], Methods) matched the grand total intensity histograms of the texture sets to the
unit normal and whitened them "with the same procedure" as natural images. Histograms of their own are the literal reading; the
map of natural photographs keeps differences in contrast, which then tell families apart. Numbers under each choice are in
`docs/stimuli.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.stimuli.intensity import IntensityMap
from pyro_hvae.stimuli.patches import TEXTURE_ATTRIBUTES
from pyro_hvae.stimuli.whitening import Whitening

INTENSITIES = ("own", "own_pooled", "natural")
WHITENINGS = ("natural", "own")


def check_texture_preprocessing(intensity: str, whitening: str) -> None:
    """`HVAEError` for a choice that does not exist, with the nearest one that does."""
    if intensity not in INTENSITIES:
        raise unknown("intensity", intensity, INTENSITIES)
    if whitening not in WHITENINGS:
        raise unknown("whitening", whitening, WHITENINGS)


def intensity_maps(
    intensity: str, training: Mapping[str, Sequence[Callable[[], np.ndarray]]], transform: Whitening
) -> dict[str, IntensityMap]:
    """The intensity map of every family, fitted on its training photographs (`training`: what reads their luminance).

    `"own"`: one map a family; `"own_pooled"`: one of all of them; `"natural"`: that of `transform`. Exposure and floor are
    those of `transform`. Raises `HVAEError` for a family with too few levels of grey.
    """
    if intensity == "natural":
        return dict.fromkeys(training, transform.intensity)
    if intensity == "own_pooled":
        together = [read for photographs in training.values() for read in photographs]
        return dict.fromkeys(training, _fitted("all families", together, transform.intensity))
    return {
        family: _fitted(f"family {family!r}", photographs, transform.intensity)
        for family, photographs in training.items()
    }


def _fitted(what: str, photographs: Sequence[Callable[[], np.ndarray]], like: IntensityMap) -> IntensityMap:
    pixels = sum(read().size for read in photographs)  # read twice, so that they need not be in memory together
    try:
        return IntensityMap.fit(
            (read() for read in photographs), exposure=like.exposure, floor=like.floor, pixels=pixels
        )
    except HVAEError as error:
        raise HVAEError(
            f"intensity map of {what}: {error} Or use intensity='natural', the map of the natural photographs."
        ) from error


def texture_transform(
    intensity: str,
    whitening: str,
    maps: Mapping[str, IntensityMap],
    training: Callable[[], Iterable[np.ndarray]],
    transform: Whitening,
) -> Whitening:
    """What whitens the matched patches: `transform`, or a whitening fitted on the chunks that `training()` gives.

    Its intensity map is the one that all families share; under `intensity="own"`, where there is none, that of `transform`.
    """
    shared = transform.intensity if intensity == "own" else next(iter(maps.values()))
    if whitening == "own":
        return Whitening.fit_chunks(training(), shared, contrast=transform.contrast)
    return transform if shared is transform.intensity else replace(transform, intensity=shared)


def recorded(dataset: xr.Dataset, intensity: str, whitening: str) -> xr.Dataset:
    """The dataset with the choice as attributes, which go with it into posterior files."""
    return dataset.assign_attrs(dict(zip(TEXTURE_ATTRIBUTES, (intensity, whitening), strict=True)))
