"""Texture families: labelled patches of photographs of textures, preprocessed for a natural-image run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.controls import control as named_control
from pyro_hvae.stimuli.cutting import Alteration, Cut, Region, cut, halves
from pyro_hvae.stimuli.intensity import IntensityMap
from pyro_hvae.stimuli.natural import describe
from pyro_hvae.stimuli.patches import PatchData, patch_dataset
from pyro_hvae.stimuli.seeds import train_and_test_generators
from pyro_hvae.stimuli.sources import EMBEDDED_TEXTURES, open_source
from pyro_hvae.stimuli.texture_preprocessing import (
    check_texture_preprocessing,
    intensity_maps,
    recorded,
    texture_transform,
)
from pyro_hvae.stimuli.whitening import Whitening


@checked
def texture_patches(
    size: int = 20,
    source: str | os.PathLike = "embedded",
    *,
    transform: Whitening,
    train: int = 6_000,
    test: int = 3_000,
    seed: int = 0,
    gamma: str = "auto",
    downsample: int | None = None,
    test_fraction: float = 1 / 3,
    centre: bool = True,
    control: str = "none",
    intensity: str = "own",
    whitening: str = "natural",
) -> PatchData:
    """Labelled patches of texture photographs, one family each, preprocessed for a run whose images went through `transform`.

    `source`: `"embedded"` (brick, grass, gravel of scikit-image) or a folder of image files, whose names are the
    families. `train` and `test` are totals, shared equally: rounded down to a multiple of the number of families. Each
    photograph is cut into a training and a test region across its longer side, sharing no pixel (`test_fraction` is the
    latter's part). `gamma` and `downsample` as in `natural_patches`. Exposure, where the transform divides by it, is the
    median of the region.

    centre
        Subtract the mean of the matched intensity of each region: a scene at another exposure is no other texture, and
        a classifier on pixels would tell families by it.
    control
        Replace every region by noise that keeps its `"spectrum"`, its `"histogram"`, or `"spectrum_and_histogram"`
        (`controls.py`), with patches at the same places; `"none"` leaves it.
    intensity
        Whose grand histogram is mapped to the unit normal: `"own"`, that of each family (Csikor et al. 2022, arXiv
        2206.00436, Methods: texture sets by their own histograms); `"own_pooled"`, that of all families together;
        `"natural"`, that of the photographs of `transform`. Fitted on the training regions only, with the exposure and
        floor of `transform`.
    whitening
        `"natural"`, that of `transform`, or `"own"`, fitted in the same way on the training patches of this set.

    The choice is in `provenance["options"]` and in the attributes `texture_intensity` and `texture_whitening` of both
    sets. The result's `transform` holds the whitening used and, under `intensity="own"`, the natural intensity map.
    Raises `HVAEError` for a transform of another size, an unknown choice, and for photographs that are unfit.
    """
    check_texture_preprocessing(intensity, whitening)
    if transform.size != size:
        raise HVAEError(f"size is {size}, and the transform is for {transform.size}-pixel patches; they must agree.")
    if not 0 < test_fraction < 1:
        raise HVAEError(f"test_fraction is {test_fraction}; expected a number between 0 and 1.")
    alter = named_control(control)
    opened = open_source(source, embedded=EMBEDDED_TEXTURES, size=size, gamma=gamma, downsample=downsample)
    photographs = opened.content
    if not isinstance(photographs, list) or len(photographs) < 2:
        raise HVAEError(
            f"texture source {str(source)!r}: expected a folder of at least two images, one family each. The published "
            "texture patches, already preprocessed and labelled, are read by published_patches."
        )
    shapes, digests = describe(photographs, size)
    both = [halves(p, shape, size, test_fraction) for p, shape in zip(photographs, shapes, strict=True)]
    streams = train_and_test_generators(seed)
    reads = {regions[0].photograph.name: [partial(regions[0].luminance, size)] for regions in both}
    maps = intensity_maps(intensity, reads, transform)
    cuts = [
        _cut([regions[i] for regions in both], total, split, size, list(maps.values()), rng, alter, centre)
        for i, (split, total, rng) in enumerate(zip(("train", "test"), (train, test), streams, strict=True))
    ]
    used = texture_transform(intensity, whitening, maps, lambda: [cuts[0].x], transform)
    sets = []
    for split, patches in zip(("train", "test"), cuts, strict=True):
        names = np.array([photograph.name for photograph in photographs])[patches.region]
        dataset = patch_dataset(
            used(patches.x), split=split, source=names, family=names, row=patches.row, column=patches.column
        )
        sets.append(recorded(dataset, intensity, whitening))
    provenance = {
        "kind": "texture",
        "source": str(source),
        "sources": [
            {"name": p.name, "sha256": d, "shape": list(s), "split": "both, by region"}
            for p, s, d in zip(photographs, shapes, digests, strict=True)
        ],
        "ignored": list(opened.ignored),
        "options": {
            "size": size,
            "gamma": gamma,
            "downsample": photographs[0].downsample,
            "test_fraction": test_fraction,
            "seed": seed,
            "centre": centre,
            "control": control,
            "intensity": intensity,
            "whitening": whitening,
            "transform": transform.options,
        },
        "train": sets[0].sizes["image"],
        "test": sets[1].sizes["image"],
    }
    return PatchData(sets[0], sets[1], used, size, provenance)


def _cut(
    regions: list[Region],
    total: int,
    split: str,
    size: int,
    maps: Sequence[IntensityMap],
    rng: np.random.Generator,
    alter: Alteration | None,
    centre: bool,
) -> Cut:
    each = total // len(regions)
    if each < 1:
        raise HVAEError(f"{split}={total} is less than one patch for each of {len(regions)} families.")
    scarce = min(regions, key=lambda region: region.positions(size))
    if scarce.positions(size) < each:
        raise HVAEError(
            f"{each:,} {split} patches of each family asked for, and the {split} region of {scarce.photograph.name} "
            f"holds {scarce.positions(size):,} different ones; ask for fewer, or give larger photographs."
        )
    return cut(regions, [each] * len(regions), size, maps, rng, alter, centre)
