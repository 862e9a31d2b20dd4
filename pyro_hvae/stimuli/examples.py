"""Examples that textures are synthesised from: photographs at a scale at which their pattern fits a patch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.stimuli.natural import describe
from pyro_hvae.stimuli.sources import EMBEDDED_NATURAL, EMBEDDED_TEXTURES, Photograph, open_source

MULTIPLE = 16  # of the side: four scales of a steerable pyramid
SMALLEST_SIDE = 64
FEWEST_PERIODS = 3  # in the photograph: slower components are shading, not texture
#: Homogeneous regions of embedded photographs: name → photograph, top, left; 128×128 pixels at full size.
EMBEDDED_CROPS = {"lawn": ("camera", 296, 384), "wood": ("coffee", 272, 472)}
CROP_SIDE = 128


@dataclass(frozen=True, eq=False)
class Example:
    """One family: luminance (side, side) between 0 and 1, and how it came from its photograph."""

    family: str
    image: np.ndarray
    sha256: str
    period: float
    """Wavelength of the strongest Fourier component in the photograph, in its pixels."""
    factor: float
    """By which the photograph was made smaller."""

    def fits(self, size: int) -> bool:
        """Whether that wavelength, after subsampling, is no longer than a patch of side `size`."""
        return self.period / self.factor <= size * 1.001


def texture_examples(
    source: str | os.PathLike = "embedded",
    *,
    families: Sequence[str] = (),
    size: int = 20,
    side: int = 256,
    gamma: str = "auto",
    channel: str = "luminance",
) -> list[Example]:
    """Examples of `source`, a folder of photographs (one family each, named after the file) or `"embedded"`;
    `families` names those to use, all by default.

    As in Csikor et al. 2022 (arXiv 2206.00436): one `channel` is taken (`"luminance"`, or `"red"`, `"green"`, `"blue"`
    of colour photographs), and the photograph is subsampled by cubic interpolation, after smoothing against aliasing,
    so that its dominant Fourier component is no longer than a patch of `size` pixels; never enlarged, and never below
    `side` pixels (`Example.fits` says whether that sufficed). The central `side`×`side` pixels are used, divided by
    their maximum. Raises `HVAEError` for a side that is no multiple of 16 from 64 on, for fewer than two photographs,
    and for one that is too small or unfit.
    """
    if side < SMALLEST_SIDE or side % MULTIPLE:
        raise HVAEError(f"side is {side}; expected a multiple of {MULTIPLE} from {SMALLEST_SIDE} on.")
    opened = open_source(source, embedded=EMBEDDED_TEXTURES, size=side, gamma=gamma, downsample=None)
    photographs = opened.content
    if not isinstance(photographs, list):
        raise HVAEError(f"texture source {str(source)!r}: expected photographs, not cut patches.")
    photographs = [replace(photograph, channel=channel) for photograph in photographs]
    if source == "embedded":
        photographs += _embedded_crops(side, gamma)
    if families:
        named = {photograph.name: photograph for photograph in photographs}
        missing = [name for name in families if name not in named]
        if missing:
            raise unknown("family", missing[0], named)
        photographs = [named[name] for name in dict.fromkeys(families)]
    if len(photographs) < 2:
        raise HVAEError(f"texture source {str(source)!r}: one photograph; expected two or more, one family each.")
    _, digests = describe(photographs, side)
    return [_example(p, digest, size, side) for p, digest in zip(photographs, digests, strict=True)]


def dominant_period(image: np.ndarray) -> float:
    """Wavelength in pixels of the strongest Fourier component under a Hann window, at least 3 periods in the image."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    power = np.abs(np.fft.rfft2((image - image.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1]))
    power[frequency < FEWEST_PERIODS / min(image.shape)] = 0
    return float(1 / frequency.flat[power.argmax()])


def _example(photograph: Photograph, digest: str, size: int, side: int) -> Example:
    from skimage.transform import resize

    luminance = photograph.luminance(side)
    period = dominant_period(luminance)
    factor = float(np.clip(period / size, 1, min(luminance.shape) / side))
    if factor > 1:
        shape = tuple(max(side, round(n / factor)) for n in luminance.shape)
        luminance = np.maximum(resize(luminance, shape, order=3, anti_aliasing=True), 0)
    top, left = ((n - side) // 2 for n in luminance.shape)
    image = luminance[top : top + side, left : left + side].astype(np.float32)
    if image.min() == image.max():
        raise HVAEError(f"{photograph.name}: the central {side}×{side} pixels are all {image.flat[0]:g}.")
    return Example(photograph.name, image / image.max(), digest, period, factor)


def _embedded_crops(side: int, gamma: str) -> list[Photograph]:
    if side > CROP_SIDE:
        raise HVAEError(
            f"side is {side}; the embedded texture photographs hold {CROP_SIDE}×{CROP_SIDE} pixels at most."
        )
    whole = open_source("embedded", embedded=EMBEDDED_NATURAL, size=side, gamma=gamma, downsample=1).content
    assert isinstance(whole, list)
    named = {photograph.name: photograph for photograph in whole}
    crops = []
    for name, (photograph, top, left) in EMBEDDED_CROPS.items():
        luminance = named[photograph].luminance(side)
        crops.append(Photograph(name, luminance[top : top + CROP_SIDE, left : left + CROP_SIDE].copy(), "linear"))
    return crops
