"""Images as they are given, as the tensor that programs take."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from pyro_hvae.arguments import contiguous
from pyro_hvae.errors import HVAEError

Images = Tensor | np.ndarray | xr.Dataset | xr.DataArray
"""``(image, pixel)`` or ``(image, y, x)``, or one image; a dataset holds them as ``x``."""


def flattened(images: Images, pixels: int | None) -> Tensor:
    """Images as ``(image, pixel)``, of any numbers, anywhere in memory; where the pixels are known, from other shapes too.

    :raises HVAEError: for other sizes, no images, and what is no number.
    """
    if isinstance(images, xr.Dataset):
        if "x" not in images or images["x"].dims != ("image", "pixel"):
            raise HVAEError(f"a dataset of images holds them as x (image, pixel); this one has {dict(images.sizes)}")
        images = images["x"]
    if not isinstance(images, Tensor):
        values = np.asarray(images)
        if values.dtype.kind not in "fiub":
            raise HVAEError(f"images are numbers; got an array of {values.dtype}: convert it, x.astype('float32') say")
        values = values.astype(np.float64) if values.dtype.itemsize > 8 else values  # longdouble
        images = torch.from_numpy(contiguous(values))
    x = images.detach()
    shape = tuple(x.shape)
    if x.dim() in (2, 3) and shape[-1] != pixels and math.prod(shape[-2:]) == pixels:  # (y, x) or (image, y, x)
        x = x.flatten(-2)
    if x.dim() == 1:
        x = x.unsqueeze(0)
    if x.dim() != 2 or (pixels is not None and x.shape[-1] != pixels):
        raise HVAEError(
            f"expected images of shape (image, pixel){f' with {pixels} pixels' if pixels else ''}, got {shape}; whiten and "
            "flatten patches of the model's size"
        )
    if not len(x):
        raise HVAEError(f"there are no images: x has shape {shape}; give at least one")
    return x


def images_for(program: Callable, images: Images) -> Tensor:
    """Images as :func:`flattened` has them, in the precision and on the device of a program (or pair) that takes them."""
    pixels = getattr(program, "pixels", None)
    if pixels is None and isinstance(images, Tensor):  # a program of the user's own knows what it takes
        return images
    x = flattened(images, pixels)
    like = next(program.parameters(), None) if isinstance(program, nn.Module) else None
    if like is not None:
        return x.to(like)
    return x if x.is_floating_point() else x.float()
