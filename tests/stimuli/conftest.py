"""Generated photographs: smooth noise with a 1/f amplitude spectrum, as luminance."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.io import imsave


def photograph(seed: int, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Positive linear luminance whose logarithm is Gaussian 1/f noise; kept unsmooth enough for full rank."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal(shape))
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    noise = np.fft.irfft2(spectrum / np.hypot(np.hypot(fy, fx), 1 / 64), shape)
    return np.exp(noise / noise.std() * 0.6).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Six 16-bit grey PNG photographs, scene1 … scene10 so that order by number and by letter differ."""
    where = tmp_path / "photographs"
    where.mkdir()
    for n in (1, 2, 3, 4, 9, 10):
        imsave(where / f"scene{n}.png", (photograph(n) * 500).astype(np.uint16), check_contrast=False)
    return where
