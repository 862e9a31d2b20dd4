"""Chosen patches of a set: the highest contrasts, disjoint subsets, families matched in contrast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli.patches import PatchData
from pyro_hvae.stimuli.seeds import train_and_test_generators


def contrast_of(dataset: xr.Dataset) -> np.ndarray:
    """Contrast of each whitened patch: root mean square of its pixels, 0 being the mean of natural images."""
    x = dataset["x"].values
    return np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64) / x.shape[1])


@checked
def highest_contrast(patches: PatchData, *, count: int = 1000) -> PatchData:
    """The `count` test patches of highest contrast, highest first, with `contrast` as a coordinate (Vas 2024).

    The training set is left out. Raises `HVAEError` where there are fewer, or where contrast was normalised away.
    """
    contrast = contrast_of(patches.test)
    _enough(count, len(contrast), "count")
    if patches.transform is not None and patches.transform.contrast == "unit_norm":
        raise HVAEError("the transform of these patches divides each by its contrast; select from a set that keeps it.")
    order = np.argsort(-contrast, kind="stable")[:count]
    chosen = patches.test.isel(image=order).assign_coords(contrast=("image", contrast[order]))
    return _selected(patches, chosen, "highest_contrast", {"count": count})


@checked
def disjoint_subsets(patches: PatchData, *, subsets: int = 5, each: int = 200, seed: int = 0) -> PatchData:
    """`subsets` random subsets of the test patches, `each` patches in every one and none in two.

    The coordinate `subset` numbers them. Raises `HVAEError` where there are too few patches.
    """
    whole_number("subsets", subsets, 1)
    _enough(subsets * each, patches.test.sizes["image"], "subsets × each")
    rng = train_and_test_generators(seed)[1]
    order = rng.permutation(patches.test.sizes["image"])[: subsets * each]
    number = np.repeat(np.arange(subsets), each)
    chosen = patches.test.isel(image=order).assign_coords(subset=("image", number))
    return _selected(patches, chosen, "disjoint_subsets", {"subsets": subsets, "each": each, "seed": seed})


@checked
def contrast_matched(patches: PatchData, *, bins: int = 10, seed: int = 0) -> PatchData:
    """As many patches of every family in each of `bins` contrast bins, in both sets: contrast no longer tells families.

    Bins hold equal parts of all patches of the set together; the rarest family in a bin sets its number. Raises
    `HVAEError` for fewer than two families, or where no bin holds patches of all of them.
    """
    whole_number("bins", bins, 1)
    sets = [
        _match(dataset, bins, rng, name)
        for name, dataset, rng in zip(
            ("train", "test"), (patches.train, patches.test), train_and_test_generators(seed), strict=True
        )
    ]
    provenance = {
        "kind": "contrast_matched",
        "options": {"bins": bins, "seed": seed},
        "of": patches.provenance,
        "train": sets[0].sizes["image"],
        "test": sets[1].sizes["image"],
    }
    return replace(patches, train=sets[0], test=sets[1], provenance=provenance)


def _match(dataset: xr.Dataset, bins: int, rng: np.random.Generator, name: str) -> xr.Dataset:
    families, of = np.unique(dataset["family"].values, return_inverse=True)
    if len(families) < 2:
        raise HVAEError(f"the {name} set has {len(families)} families; matching needs two or more.")
    contrast = contrast_of(dataset)
    borders = np.quantile(contrast, np.linspace(0, 1, bins + 1)[1:-1])
    group = np.searchsorted(borders, contrast)
    chosen = []
    for b in range(bins):
        members = [np.flatnonzero((group == b) & (of == f)) for f in range(len(families))]
        fewest = min(map(len, members))
        chosen += [rng.choice(m, fewest, replace=False) for m in members]
    indices = np.sort(np.concatenate(chosen))
    if not len(indices):
        raise HVAEError(
            f"no contrast bin of the {name} set holds patches of all {len(families)} families; use fewer bins, or leave "
            "out the family whose contrast is unlike the others'."
        )
    return dataset.isel(image=indices).assign_coords(contrast=("image", contrast[indices]))


def _enough(wanted: int, there: int, what: str) -> None:
    if not 1 <= wanted <= there:
        raise HVAEError(f"{what} is {wanted}; the test set holds {there} patches, so expected 1 to {there}.")


def _selected(patches: PatchData, chosen: xr.Dataset, kind: str, options: dict[str, Any]) -> PatchData:
    provenance = {"kind": kind, "options": options, "of": patches.provenance, "train": 0, "test": chosen.sizes["image"]}
    nothing = patches.train.isel(image=slice(0))
    return replace(patches, train=nothing, test=chosen, provenance=provenance)
