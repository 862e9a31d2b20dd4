"""Masks, and patches seen through them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from pyro_hvae.arguments import checked
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.stimuli.displays import axes, within
from pyro_hvae.stimuli.patches import PatchData

MASKS = ("disk", "surround", "left", "right", "top", "bottom")
SPACES = ("intensity", "whitened")


@checked
def mask_of(size: int, shape: str = "disk", *, radius: float = 5) -> np.ndarray:
    """Mask (size, size), True where a pixel is shown.

    `"disk"` hides the pixels whose centres are within `radius` pixels of the centre of the patch, `"surround"` all
    others; `"left"`, `"right"`, `"top"`, `"bottom"` hide that half (`radius` does not matter; of an odd size the middle
    line is shown). Raises `HVAEError` where nothing, or everything, would be hidden.
    """
    x, y = axes(size)
    if shape not in MASKS:
        raise unknown("mask", shape, MASKS)
    within("radius", radius, 0, 1e6)
    hidden = {
        "disk": np.hypot(x, y) <= radius,
        "surround": np.hypot(x, y) > radius,
        "left": x < 0,
        "right": x > 0,
        "top": y > 0,
        "bottom": y < 0,
    }[shape]
    if hidden.all() or not hidden.any():
        raise HVAEError(f"a {shape} mask of radius {radius:g} hides {hidden.sum()} of {size}×{size} pixels.")
    return ~hidden


@checked
def masked(patches: PatchData, *, shape: str = "disk", radius: float = 5, space: str = "intensity") -> PatchData:
    """The same patches with pixels hidden: `mask` beside `x`, and the whole patch kept as `original`.

    `space="intensity"`: the patches go back to matched intensity (exactly, on the kept subspace), hidden pixels become
    0, the mean, and the result is whitened again, so that nothing of a hidden pixel is left in `x`; with
    `contrast="unit_norm"` the masked patch is normalised anew. `space="whitened"`: hidden pixels of the whitened patch
    become 0; whitening has spread them over their neighbours before, so something of them stays in sight. Both sets of
    `patches` are masked. Raises `HVAEError` for `"intensity"` without a transform, and for patches masked already.
    """
    if space not in SPACES:
        raise unknown("space", space, SPACES)
    if space == "intensity" and patches.transform is None:
        raise HVAEError("these patches arrived preprocessed, without their transform; give space='whitened'.")
    if patches.channels != 1:
        raise HVAEError("masks are for grey patches; optic flow has two channels.")
    shown = mask_of(patches.size, shape, radius=radius).ravel()

    def hide(dataset: xr.Dataset) -> xr.Dataset:
        if "mask" in dataset:
            raise HVAEError("these patches are masked already; mask the whole ones.")
        original = dataset["x"].values
        if space == "whitened" or patches.transform is None:
            x = np.where(shown, original, np.float32(0))
        else:
            x = patches.transform(patches.transform.inverse(original), mask=shown)
        mask = np.broadcast_to(shown, x.shape).copy()
        dims = ("image", "pixel")
        return dataset.assign(x=(dims, x), mask=(dims, mask), original=(dims, original))

    options = {"shape": shape, "radius": radius, "space": space}
    provenance = {"kind": "masked", "options": options, "of": patches.provenance}
    return replace(patches, train=hide(patches.train), test=hide(patches.test), provenance=provenance)
