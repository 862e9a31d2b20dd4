"""Controls that keep the spectrum of an image, or its histogram, or both, and nothing else."""

from __future__ import annotations

import numpy as np

from pyro_hvae.errors import unknown
from pyro_hvae.stimuli.cutting import Alteration

ITERATIONS = 100


def phase_scrambled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image (y, x) with the Fourier phases of white noise: Gaussian noise of exactly the same amplitude spectrum.

    The phases are those of a real image, so the result is real without discarding anything; the mean is kept. Float64.
    """
    spectrum = np.fft.rfft2(image)
    phase = np.angle(np.fft.rfft2(rng.standard_normal(image.shape)))
    scrambled = np.abs(spectrum) * np.exp(1j * phase)
    scrambled[0, 0] = spectrum[0, 0]
    return np.fft.irfft2(scrambled, image.shape)


def pixels_shuffled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixels of the image in random order: the same histogram, a flat spectrum."""
    return rng.permutation(image.ravel()).reshape(image.shape)


def histogram_matched(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The image with the values of `reference` (as many pixels) by rank: the very same histogram."""
    matched = np.empty(image.size, reference.dtype)
    matched[np.argsort(image, axis=None, kind="stable")] = np.sort(reference, axis=None)
    return matched.reshape(image.shape)


def spectrum_and_histogram_matched(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise with exactly the pixel histogram of the image and very nearly its amplitude spectrum.

    Iterated amplitude adjustment (Schreiber & Schmitz, Phys. Rev. Lett. 77, 635, 1996) from shuffled pixels: impose the
    spectrum, then the histogram, until the order of the pixels no longer changes, at most 100 times.
    """
    amplitude = np.abs(np.fft.rfft2(image))
    current = pixels_shuffled(image, rng)
    for _ in range(ITERATIONS):
        phase = np.angle(np.fft.rfft2(current))
        following = histogram_matched(np.fft.irfft2(amplitude * np.exp(1j * phase), image.shape), image)
        if np.array_equal(following, current):
            break
        current = following
    return current


CONTROLS: dict[str, Alteration] = {
    "spectrum": phase_scrambled,
    "histogram": pixels_shuffled,
    "spectrum_and_histogram": spectrum_and_histogram_matched,
}


def control(name: str) -> Alteration | None:
    """The control of that name, None for `"none"`; `HVAEError` for a name that does not exist."""
    if name != "none" and name not in CONTROLS:
        raise unknown("control", name, ["none", *CONTROLS])
    return CONTROLS.get(name)
