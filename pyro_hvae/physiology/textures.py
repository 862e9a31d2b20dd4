"""Patches of texture families and of noise of the same spectrum, shown to every unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.errors import HVAEError
from pyro_hvae.physiology.responses import responses
from pyro_hvae.physiology.series import Display


def texture(
    display: Display, textures: xr.Dataset, noise: xr.Dataset, units: Mapping[str, np.ndarray], response: str
) -> xr.Dataset:
    """The moment that the declared response is of, ``zl_texture_mean``, ``zl_noise_mean (family, patch, zl_unit)``.

    ``textures`` and ``noise`` have the same families; of each as many patches are shown as the rarest has. Where the response
    is the s.d., the variables hold s.d.s.

    :raises HVAEError: for families that differ or are missing, and for patches of another size.
    """
    families = {name: _families(dataset, name) for name, dataset in (("textures", textures), ("noise", noise))}
    names = sorted(set(families["textures"]))
    if names != sorted(set(families["noise"])) or "" in names:
        raise HVAEError(
            f"textures and noise must be of the same families, all of them named; textures have {names}, noise "
            f"{sorted(set(families['noise']))}"
        )
    each = min(int((labels == name).sum()) for labels in families.values() for name in names)
    variables: dict[str, Any] = {}
    for kind, dataset, labels in (("texture", textures, families["textures"]), ("noise", noise, families["noise"])):
        chosen = np.concatenate([np.flatnonzero(labels == name)[:each] for name in names])
        x = np.asarray(dataset["x"].values)[chosen]
        if x.shape[1] != display.vae.pixels:
            raise HVAEError(f"the {kind} patches have {x.shape[1]} pixels, the pair {display.vae.pixels}")
        for site, found in responses(display.vae, x, draws=display.draws, seed=display.seed).items():
            values = (found.sd if response == "sd" else found.mean)[:, units[site]]
            dims = ("family", "patch", f"{site}_unit")
            variables[f"{site}_{kind}_mean"] = (dims, values.reshape(len(names), each, -1).astype(np.float32))
    return xr.Dataset(variables, {"family": names, **{f"{site}_unit": index for site, index in units.items()}})


def _families(dataset: xr.Dataset, name: str) -> np.ndarray:
    if "family" not in dataset.coords or "x" not in dataset:
        raise HVAEError(f"{name} must be a dataset with x (image, pixel) and the label family; see texture_patches")
    return dataset["family"].values.astype(str)
