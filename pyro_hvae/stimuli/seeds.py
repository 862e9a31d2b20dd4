"""Random streams of the two sets."""

from __future__ import annotations

import numpy as np

from pyro_hvae.errors import HVAEError


def train_and_test_generators(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Independent generators, so that the number of patches in one set does not change the other."""
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise HVAEError(f"seed is {seed!r}; expected a whole number from 0 on.")
    one, other = np.random.SeedSequence(int(seed)).spawn(2)
    return np.random.default_rng(one), np.random.default_rng(other)
