"""Posteriors of many images as labelled arrays: moments always, draws when asked for, in bounded memory."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor

from pyro_hvae import files
from pyro_hvae.errors import HVAEError
from pyro_hvae.inference.generative import constants
from pyro_hvae.inference.moments import Moments, Request
from pyro_hvae.inference.runs import git_revision, versions
from pyro_hvae.programs import HVAE, GenerativeModel
from pyro_hvae.stimuli import PatchData, Whitening


def export_posterior(
    vae: HVAE,
    images: xr.Dataset | PatchData | np.ndarray | Tensor,
    *,
    draws: int = 0,
    resample: int | None = None,
    moment_draws: int = 64,
    units: Sequence[int] = (),
    prior_samples: int = 64,
    transform: Whitening | None = None,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> xr.DataTree:
    """Infer the causes of images and lay the posteriors down as labelled arrays (table in ``docs/architecture.md``).

    Moments of z1 are taken exactly given the layers above and averaged over ``moment_draws`` draws of those (law of total
    variance), so they are far less noisy than moments of draws. Everything is computed chunk by chunk.

    :param images: patches of the model's size: a dataset with ``x (image, pixel)`` and labels (``data.test``), a
        :class:`~pyro_hvae.stimuli.PatchData` (its test set and transform), or an array ``(image, pixel)``.
    :param draws: posterior draws an image to store, with their log weights, densities, k-hat; 0 for none.
    :param resample: importance resampling: each draw is one of this many proposals, chosen by weight (Algorithm 2 of
        Vas 2024). Moments, too, are then self-normalised over such groups, ``draws`` of them.
    :param units: z1 dimensions whose posterior correlation matrix is stored for every image.
    :param prior_samples: ancestral samples of the model to store.
    :param transform: the preprocessing of the images, kept in the file.
    :param path: file to write, zarr if it ends in ``.zarr``, netCDF-4 otherwise; None keeps everything in memory.
    :returns: the opened file, or the tree in memory.
    :raises HVAEError: for images of another size or with NaN, an existing path, options that do not fit.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            tree = export_posterior(
                vae, images, draws=draws, resample=resample, moment_draws=moment_draws, units=units,
                prior_samples=prior_samples, transform=transform, path=Path(folder) / "posterior.nc", seed=seed,
            )  # fmt: skip
            with tree:
                loaded = tree.load()
            del loaded.attrs["file"]
            return loaded
    if isinstance(images, PatchData):
        transform = images.transform if transform is None else transform
        images = images.test
    dataset = _dataset(images, vae.pixels)
    request = _check(vae, draws, resample, moment_draws, units)
    device = next(vae.parameters()).device
    attrs = _attributes(vae, request, seed)
    partial = not isinstance(vae.model, GenerativeModel)
    writer = files.PosteriorWriter(path, attrs, overwrite=overwrite, partial=partial)
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), pyro.validation_enabled(False), writer:
        torch.manual_seed(seed)
        moments = Moments(vae, dataset, request, device)
        for start in range(0, dataset.sizes["image"], moments.chunk):
            chunk = dataset.isel(image=slice(start, start + moments.chunk))
            writer.append(moments.of(chunk) | _observed(chunk))
        writer.write(constants(vae, transform, prior_samples))
    return files.open_posterior(path, partial=partial)


def _dataset(images: xr.Dataset | np.ndarray | Tensor, pixels: int) -> xr.Dataset:
    if isinstance(images, Tensor):
        images = images.detach().cpu().numpy()
    if not isinstance(images, xr.Dataset):
        images = xr.Dataset({"x": (("image", "pixel"), np.asarray(images))})
    if "x" not in images or images["x"].dims != ("image", "pixel") or images.sizes["pixel"] != pixels:
        raise HVAEError(f"expected images x (image, pixel) of {pixels} pixels, got {dict(images.sizes)}; whiten and flatten "
                        "patches of the model's size")  # fmt: skip
    if images.sizes["image"] == 0:
        raise HVAEError("there are no images to infer the causes of")
    return images


def _check(vae: HVAE, draws: int, resample: int | None, moment_draws: int, units: Sequence[int]) -> Request:
    if draws < 0 or moment_draws < 2:
        raise HVAEError(f"draws must be 0 or more and moment_draws 2 or more, got {draws} and {moment_draws}")
    if resample is not None and (resample < 1 or draws < 2):
        raise HVAEError(f"resample={resample} needs draws (at least 2, got {draws}) and at least 1 proposal a draw")
    dim = vae.latents.get("z1", 0)
    if any(not 0 <= u < dim for u in units) or len(set(units)) != len(units):
        raise HVAEError(f"units are distinct indices of z1, from 0 to {dim - 1}; got {list(units)[:10]}")
    return Request(draws, resample or 1, moment_draws, tuple(units))


def _observed(chunk: xr.Dataset) -> dict[str, xr.Dataset]:
    observed: dict[str, Any] = {
        name: (("image", "pixel"), np.asarray(chunk[name].values))
        for name in ("x", "mask", "original")
        if name in chunk
    }
    labels = {
        str(name): ("image", coordinate.values)
        for name, coordinate in chunk.coords.items()
        if coordinate.dims == ("image",) and name != "image"
    }
    groups = {"observed_data": xr.Dataset(observed)}
    return groups | ({"constant_data": xr.Dataset(coords=labels)} if labels else {})


def _attributes(vae: HVAE, request: Request, seed: int) -> dict[str, Any]:
    config, training = vae.config, vae.record
    objective = training.get("objective", {})
    posterior = {
        "draws": request.draws,
        "resample": request.resample,
        "moment_draws": request.moment_draws,
        "seed": seed,
    }
    return {
        "preset": vae.preset or "",
        "model": config["model"]["class"],
        "guide": config["guide"]["class"],
        "configuration": json.dumps({"vae": config, "training": training, "posterior": posterior}),
        "objective": objective.get("class", ""),
        "particles": objective.get("num_particles", 0),
        "seed": seed,
        "versions": json.dumps(versions()),
        "git_revision": git_revision(),
    }
