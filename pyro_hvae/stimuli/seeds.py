"""Random streams of the two sets."""

from __future__ import annotations

import numpy as np

from pyro_hvae.arguments import seed_of


def train_and_test_generators(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Independent generators, so that the number of patches in one set does not change the other."""
    one, other = np.random.SeedSequence(seed_of(seed)).spawn(2)
    return np.random.default_rng(one), np.random.default_rng(other)
