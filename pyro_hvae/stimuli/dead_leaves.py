"""Dead leaves: opaque disks falling on each other, the simplest world with occlusion."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.displays import stimulus_set, within
from pyro_hvae.stimuli.seeds import train_and_test_generators
from pyro_hvae.stimuli.whitening import Whitening

MOST_LEAVES, BATCH = 131_072, 64


@checked
def dead_leaves(
    size: int = 20,
    *,
    count: int = 1000,
    smallest: float = 1.0,
    largest: float = 200.0,
    contrast_sd: float = 0.6,
    seed: int = 0,
    transform: Whitening | None = None,
) -> xr.Dataset:
    """`count` independent size×size images of the dead-leaves model (Lee, Mumford & Huang, IJCV 41, 35–59, 2001).

    Disks of radius r between `smallest` and `largest` pixels with density ∝ r⁻³, which makes the world look the same at
    every distance, are uniform in place and opaque; the log luminance of each is Normal with standard deviation
    `contrast_sd`. Drawn from the front backwards until every pixel is covered, so the image is an exact sample of the
    stationary model. A pixel shows the leaf at its centre.

    `leaf (image, pixel)` numbers the leaf in each pixel, 0 being in front: borders of equal numbers are occlusions, and
    the leaf of the lower number occludes. Coordinate `leaves`: how many are visible.
    """
    whole_number("count", count, 1)
    within("smallest", smallest, 0.1, 0.999 * largest)
    within("contrast_sd", contrast_sd, 0, 10)
    rng = train_and_test_generators(seed)[1]
    drawn = [_leaves(size, smallest, largest, rng) for _ in range(count)]
    leaf = np.stack(drawn)
    luminance = np.stack([np.exp(contrast_sd * rng.standard_normal(one.max() + 1))[one] for one in drawn])
    visible = np.array([len(np.unique(one)) for one in drawn])
    options = {"size": size, "count": count, "smallest": smallest, "largest": largest, "contrast_sd": contrast_sd}
    dataset = stimulus_set(
        luminance, {"leaves": visible}, kind="dead_leaves", options=options, transform=transform, seed=seed
    )
    return dataset.assign(leaf=(("image", "pixel"), leaf.reshape(count, -1).astype(np.int32)))


def _leaves(size: int, smallest: float, largest: float, rng: np.random.Generator) -> np.ndarray:
    """Which leaf shows in each pixel, numbered from the front."""
    leaf = np.full((size, size), -1)
    pixels = np.arange(size)
    middle = (size - 1) / 2
    for start in range(0, MOST_LEAVES, BATCH):
        radii = _radii(BATCH, smallest, largest, size, rng)
        # Uniform in the square from which the leaf can reach the patch.
        centres = middle + (rng.random((BATCH, 2)) - 0.5) * (size + 2 * radii[:, None])
        for number, (radius, (row, column)) in enumerate(zip(radii, centres, strict=True), start):
            disk = (pixels[:, None] - row) ** 2 + (pixels - column) ** 2 <= radius**2
            leaf[disk & (leaf < 0)] = number
            if leaf.min() >= 0:
                return np.unique(leaf, return_inverse=True)[1].reshape(size, size)
    raise HVAEError(f"{MOST_LEAVES:,} leaves did not cover {size}×{size} pixels; give fewer small leaves.")


def _radii(count: int, a: float, b: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Radii between a and b of leaves that can reach the patch: r⁻³ times the area (size + 2r)² that their centres have.

    The product is a sum of three power laws, r⁻³, r⁻² and r⁻¹, each with a closed inverse distribution function.
    """
    weights = np.array([size**2 * (a**-2 - b**-2) / 2, 4 * size * (1 / a - 1 / b), 4 * np.log(b / a)])
    law = rng.choice(3, count, p=weights / weights.sum())
    u = rng.random(count)
    return np.choose(law, [(a**-2 - u * (a**-2 - b**-2)) ** -0.5, 1 / (1 / a - u * (1 / a - 1 / b)), a * (b / a) ** u])
