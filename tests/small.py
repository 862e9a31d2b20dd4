"""Pairs and data small enough to train in a test."""

from __future__ import annotations

import numpy as np
import torch

from pyro_hvae.programs import HVAE, BottomUpGuide, LinearModel, MarkovModel, MeanFieldGuide, TopDownGuide
from pyro_hvae.stimuli import PatchData, patch_dataset

SIZE, DIMS = 4, (6, 3)


def small_pair(guide: str = "top_down", seed: int = 0, **model_options: object) -> HVAE:
    """A two-layer Laplace pair over 4×4 patches."""
    sizes = dict(pixels=SIZE**2, dims=DIMS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guides = {
            "top_down": lambda: TopDownGuide(**sizes, hidden_x=((8,), (5,)), hidden_z=((5,),), hidden_joint=((8,),)),
            "bottom_up": lambda: BottomUpGuide(**sizes, hidden=((8,), (5,))),
            "mean_field": lambda: MeanFieldGuide(**sizes, hidden=((8,), (5,))),
        }
        return HVAE(MarkovModel(**sizes, hidden=((7,),), **model_options), guides[guide]())


def small_linear(seed: int = 0, family: str = "normal") -> HVAE:
    """A one-layer pair over 4×4 patches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = dict(pixels=SIZE**2, dims=DIMS[:1], families=(family,))
        return HVAE(LinearModel(**sizes), MeanFieldGuide(**sizes, hidden=((8,),)))


def small_data(train: int = 300, test: int = 60, seed: int = 0) -> PatchData:
    """White patches that differ in contrast, already preprocessed."""
    rng = np.random.default_rng(seed)

    def patches(n: int, split: str) -> object:
        return patch_dataset(rng.standard_normal((n, SIZE**2)) * rng.gamma(2, 0.5, (n, 1)), split=split, source="made")

    return PatchData(patches(train, "train"), patches(test, "test"), None, SIZE, {"kind": "made", "seed": seed})
