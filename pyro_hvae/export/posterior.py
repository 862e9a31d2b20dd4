"""Posteriors of many images as labelled arrays: moments always, draws when asked for, in bounded memory."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor

from pyro_hvae.arguments import checked, contiguous, whole_number
from pyro_hvae.densities.matching import matched
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.export.gap import PARTS
from pyro_hvae.export.gap import gap as split_gap
from pyro_hvae.export.guide_gradient import guide_gradient
from pyro_hvae.export.model_fields import constants
from pyro_hvae.export.moments import Moments, Request
from pyro_hvae.export.refinement import TOGETHER, RefinedGuide, all_together
from pyro_hvae.export.refinement import refine as refine_guide
from pyro_hvae.export.sampled import SampledMoments, Sampling
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.contrast import layers_of
from pyro_hvae.programs.images import Images, flattened
from pyro_hvae.sampling.evidence import evidence_importance_sampling
from pyro_hvae.stimuli import PatchData, Whitening
from pyro_hvae.stimuli.patches import TEXTURE_ATTRIBUTES
from pyro_hvae.storage import posterior_file
from pyro_hvae.storage.labels import storable
from pyro_hvae.storage.provenance import git_revision, versions, without_places
from pyro_hvae.storage.writing import check_target

SAMPLERS = ("hmc",)
DEFAULT_CHAINS = {"num_samples": 350, "warmup": 150, "chains": 4}
GAP_STEPS = 200  # of refinement where the file itself is not refined


@checked
def export_posterior(
    vae: HVAE,
    images: Images | PatchData,
    *,
    draws: int = 0,
    resample: int | None = None,
    sampler: str | None = None,
    num_samples: int | None = None,
    warmup: int | None = None,
    chains: int | None = None,
    moment_draws: int = 64,
    units: Sequence[int] = (),
    prior_samples: int = 64,
    receptive_fields: int = 100,
    evidence: int = 0,
    evidence_images: int | None = None,
    refine: int = 0,
    gap: int = 0,
    yardsticks: xr.Dataset | None = None,
    transform: Whitening | None = None,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> xr.DataTree:
    """Infer the causes of images and lay the posteriors down as labelled arrays (table in ``docs/architecture.md``).

    Moments of z1 are taken exactly given the layers above and averaged over ``moment_draws`` draws of those (law of total
    variance), so they are far less noisy than moments of draws. Everything is computed chunk by chunk.

    :param images: patches of the model's size: a dataset with ``x (image, pixel)`` and labels (``data.test``), a
        :class:`~pyro_hvae.stimuli.PatchData` (its test set and transform), or an array ``(image, pixel)`` or
        ``(image, y, x)``, or one image.
    :param draws: posterior draws an image to store, with their log weights, densities, k-hat; 0 for none.
    :param resample: importance resampling: each draw is one of this many proposals, chosen by weight (Algorithm 2 of
        Vas 2024). Moments, too, are then self-normalised over such groups, ``draws`` of them.
    :param sampler: ``"hmc"``: moments and draws are of the model's own posterior and not of the guide, by Hamiltonian Monte
        Carlo that starts at the guide (:mod:`~pyro_hvae.sampling.posterior_chains`; ``docs/posterior-file.md``). Bound and
        KL in the file stay the guide's. Images whose chains did not converge are marked in ``sample_stats/converged`` and
        named in a warning. None for the guide.
    :param num_samples, warmup, chains: of the sampler alone: draws of each chain (350), transitions before them (150), chains
        an image (4).
    :param units: z1 dimensions whose posterior correlation matrix is stored for every image.
    :param prior_samples: ancestral samples of the model to store.
    :param receptive_fields: images over which the gradient of the posterior mean of z1 is averaged
        (:func:`~pyro_hvae.export.guide_gradient.guide_gradient`), spread evenly over the natural ones where families are
        known; 0 for none.
    :param evidence: importance samples an image for log p(x), its standard error and k-hat, of which only these numbers
        are kept (:func:`~pyro_hvae.sampling.evidence.evidence_importance_sampling`); 0 for none.
    :param evidence_images: how many images, spread evenly, it is estimated for; it is NaN for the others. None for all.
    :param refine: steps by which q of each image is refined for that image alone
        (:func:`~pyro_hvae.export.refinement.refine`) before anything is computed; everything in the file but receptive fields
        is then of the refined guide. 0 for none.
    :param gap: how many images, spread evenly, log p(x) - ELBO of the guide is split for (:func:`~pyro_hvae.export.gap.gap`).
    :param yardsticks: a result of :func:`~pyro_hvae.densities.yardsticks.yardsticks`, kept for those of the images that it is
        about (known by their content); NaN for the others.
    :param transform: the preprocessing of the images, kept in the file.
    :param path: file to write, zarr if it ends in ``.zarr``, netCDF-4 otherwise; None keeps everything in memory. Where another
        process has made a file of that name meanwhile, the result is kept under another one, and an error says so.
    :param overwrite: replace an earlier posterior file. Close a zarr store first: what is open of one is read half old, half
        new (an open netCDF file stays as it was).
    :returns: the opened file, or the tree in memory.
    :raises HVAEError: for images of another size or with NaN, an existing path, options that do not fit.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            tree = export_posterior(
                vae, images, draws=draws, resample=resample, sampler=sampler, num_samples=num_samples, warmup=warmup,
                chains=chains, moment_draws=moment_draws, units=units, prior_samples=prior_samples,
                receptive_fields=receptive_fields, evidence=evidence, evidence_images=evidence_images, refine=refine, gap=gap,
                yardsticks=yardsticks, transform=transform, path=Path(folder) / "posterior.nc", seed=seed,
            )  # fmt: skip
            with tree:
                loaded = tree.load()
            del loaded.attrs["file"]
            return loaded
    check_target(path, overwrite=overwrite, schema=posterior_file.SCHEMA)
    if isinstance(images, PatchData):
        transform = images.transform if transform is None else transform
        images = images.test
    dataset = _dataset(images, vae.pixels)
    request = _check(vae, draws, resample, moment_draws, units)
    sampling = _sampling(sampler, num_samples, warmup, chains, draws, resample=resample, refine=refine)
    for name, count in (("refine", refine), ("gap", gap), ("receptive_fields", receptive_fields)):
        whole_number(name, count)
    whole_number("prior_samples", prior_samples, 1)
    judged = _judged(dataset.sizes["image"], evidence, evidence_images)
    device = next(vae.parameters()).device
    attrs = _attributes(vae, request, seed, refine, sampling)
    attrs |= {name: dataset.attrs[name] for name in TEXTURE_ATTRIBUTES if name in dataset.attrs}
    partial = layers_of(vae.model) is None
    writer = posterior_file.PosteriorWriter(path, attrs, overwrite=overwrite, partial=partial)
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), pyro.validation_enabled(False), writer:
        torch.manual_seed(seed)
        moments = Moments(vae, dataset, replace(request, draws=0) if sampling else request, device)
        moments.chunk = min(moments.chunk, TOGETHER) if refine else moments.chunk
        made = SampledMoments(moments, sampling, dataset.sizes["image"]) if sampling else moments
        split = np.isin(np.arange(dataset.sizes["image"]), _spread(np.arange(dataset.sizes["image"]), gap))
        for start in range(0, dataset.sizes["image"], made.chunk):
            chunk = dataset.isel(image=slice(start, start + made.chunk))
            pair = moments.vae = refine_guide(vae, moments.images(chunk), refine, seed=seed + start) if refine else vae
            groups = made.of(chunk) | _observed(chunk)
            if evidence:
                here = judged[start : start + made.chunk]
                found = _evidence(pair, moments.images(chunk), here, evidence, seed + 1 + start)
                groups["evidence"] = found.assign_attrs(images=int(judged.sum()))
            if gap:
                here = split[start : start + made.chunk]
                groups["gap"] = _gap(vae, moments.images(chunk), here, refine or GAP_STEPS, seed + 2 + start)
            if yardsticks is not None:
                groups["yardsticks"] = _yardsticks(yardsticks, chunk)
            writer.append(groups)
        moments.vae = vae
        if isinstance(made, SampledMoments):
            made.warn()
        writer.write(constants(vae, transform, prior_samples))
        if receptive_fields and "z1" in vae.latents:
            writer.write(_receptive_fields(vae, moments, dataset, receptive_fields))
    return posterior_file.open_posterior(path, partial=partial)


def _dataset(images: Images, pixels: int) -> xr.Dataset:
    x = flattened(images, pixels)
    values = (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()  # numpy has no bfloat16
    if isinstance(images, xr.Dataset):
        named = [name for name in posterior_file.LABELS if name in images.data_vars]
        plain = images.assign(x=(("image", "pixel"), values), **_pictures(images))
        return storable(plain.set_coords(named), taken=True)
    return xr.Dataset({"x": (("image", "pixel"), values)})


def _pictures(images: xr.Dataset) -> dict[str, Any]:
    """``mask`` and ``original``, where there are any, as they are kept."""
    kept: dict[str, Any] = {}
    for name in ("mask", "original"):
        if name in images:
            if images[name].dims != ("image", "pixel") or images[name].dtype.kind not in "fiub":
                raise HVAEError(f"{name} of the images must be numbers (image, pixel), got {images[name].dims} of "
                                f"{images[name].dtype}")  # fmt: skip
            values = images[name].values
            kept[name] = (("image", "pixel"), values.astype(bool) if name == "mask" else contiguous(values))
    return kept


def _check(vae: HVAE, draws: int, resample: int | None, moment_draws: int, units: Sequence[int]) -> Request:
    whole_number("draws", draws)
    whole_number("moment_draws", moment_draws, 2)
    if resample is not None and (resample < 1 or draws < 2):
        raise HVAEError(f"resample={resample} needs draws (at least 2, got {draws}) and at least 1 proposal a draw")
    dim = vae.latents.get("z1", 0)
    if any(not 0 <= u < dim for u in units) or len(set(units)) != len(units):
        raise HVAEError(f"units are distinct indices of z1, from 0 to {dim - 1}; got {list(units)[:10]}")
    return Request(draws, resample or 1, moment_draws, tuple(units))


def _judged(images: int, evidence: int, limit: int | None) -> np.ndarray:
    """Mask of the images whose evidence is estimated."""
    if evidence < 0 or evidence == 1:
        raise HVAEError(f"evidence is a number of importance samples, at least 2, or 0 for none; got {evidence}")
    if limit is not None and (limit < 1 or not evidence):
        raise HVAEError(f"evidence_images={limit} needs evidence=K, and to be at least 1 image")
    mask = np.zeros(images, bool)
    mask[_spread(np.arange(images), images if limit is None else limit)] = evidence > 0
    return mask


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the indices, evenly spread."""
    count = min(count, indices.size)
    return indices[np.arange(count) * indices.size // max(count, 1)]


def _evidence(vae: HVAE, x: Tensor, judged: np.ndarray, particles: int, seed: int) -> xr.Dataset:
    """log p(x) of some images of a chunk. Has a seed of its own, so that moments are the same with and without it."""
    attrs = {"estimator": "importance sampling", "num_particles": particles}
    values = {name: np.full(len(x), np.nan) for name in ("log_evidence", "standard_error", "ess", "pareto_k")}
    if judged.any():
        here = torch.from_numpy(judged).to(x.device)
        if isinstance(vae.guide, RefinedGuide):
            vae = vae.guide.only(vae, x, here)
        found = evidence_importance_sampling(vae, x[here], particles, seed=seed, **all_together(vae, x[here]))
        for name, row in values.items():
            row[judged] = found[name]
    return xr.Dataset({name: ("image", row) for name, row in values.items()}, attrs=attrs)


def _gap(vae: HVAE, x: Tensor, chosen: np.ndarray, steps: int, seed: int) -> xr.Dataset:
    """The split of some images of a chunk; NaN for the others."""
    names = [*PARTS, "elbo", "log_evidence", "standard_error", "pareto_k"]
    values = {name: np.full(len(x), np.nan) for name in names}
    attrs: dict[str, Any] = {}
    if chosen.any():
        found = split_gap(vae, x[torch.from_numpy(chosen).to(x.device)], steps=steps, seed=seed)
        attrs = {str(name): value for name, value in found.attrs.items() if name != "seed"}
        for name, row in values.items():
            row[chosen] = found[name]
    return xr.Dataset({name: ("image", row) for name, row in values.items()}, attrs=attrs)


def _yardsticks(fitted: xr.Dataset, chunk: xr.Dataset) -> xr.Dataset:
    values = (("yardstick", "image"), matched(fitted, np.asarray(chunk["x"].values)), {"units": "nats"})
    attrs = {name: fitted.attrs[name] for name in ("sigma", "train", "dims", "yardsticks", "created")}
    return xr.Dataset({"log_density": values}, {"yardstick": fitted["yardstick"].values.astype(object)}, attrs)


def _receptive_fields(vae: HVAE, moments: Moments, dataset: xr.Dataset, count: int) -> dict[str, xr.Dataset]:
    natural = np.ones(dataset.sizes["image"], bool)
    if "family" in dataset.coords:
        natural = dataset["family"].values == ""
    which = "natural" if natural.any() else "texture"
    chosen = _spread(np.flatnonzero(natural if natural.any() else ~natural), count)
    fields = guide_gradient(vae, moments.images(dataset.isel(image=chosen)))
    attrs = {
        "images": chosen.size,
        "image_set": which,
        "layers_above": "one draw an image",
        "units": "z1 per pixel intensity",
    }
    variable = xr.Variable(("z1_dim", "pixel"), fields.cpu().numpy(), attrs)
    return {"constant_data": xr.Dataset({"z1_receptive_field": variable})}


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


def _sampling(
    sampler: str | None,
    num_samples: int | None,
    warmup: int | None,
    chains: int | None,
    draws: int,
    *,
    resample: int | None,
    refine: int,
) -> Sampling | None:
    given = {"num_samples": num_samples, "warmup": warmup, "chains": chains}
    given = {name: whole_number(name, value, 1) for name, value in given.items() if value is not None}
    if sampler is None:
        if given:
            name, value = next(iter(given.items()))
            raise HVAEError(
                f"{name}={value} is of a sampler, and these are the guide's moments: give sampler='hmc' as well"
            )
        return None
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    if resample is not None or refine:
        option = f"resample={resample}" if resample is not None else f"refine={refine}"
        raise HVAEError(
            f"{option} changes the guide's draws; sampler={sampler!r} has its own: leave one of the two out"
        )
    return Sampling(**(DEFAULT_CHAINS | given), draws=draws)


def _attributes(vae: HVAE, request: Request, seed: int, refine: int, sampling: Sampling | None) -> dict[str, Any]:
    config, training = vae.config, vae.record
    objective = training.get("objective", {})
    posterior = {
        "draws": request.draws,
        "resample": request.resample,
        "moment_draws": request.moment_draws,
        "refine": refine,
        "seed": seed,
    }
    if sampling is not None:
        posterior |= {"sampler": "hmc"} | asdict(sampling)
    guide = config["guide"]["class"] + (f", refined by {refine} steps an image" if refine else "")
    return {
        "preset": vae.preset or "",
        "model": config["model"]["class"],
        "guide": guide if sampling is None else f"HMC, started at {guide}",
        "configuration": json.dumps(without_places({"vae": config, "training": training, "posterior": posterior})),
        "objective": objective.get("class", ""),
        "particles": objective.get("num_particles", 0),
        "seed": seed,
        "versions": json.dumps(versions()),
        "git_revision": git_revision(),
        "computed_in": str(vae.dtype).removeprefix("torch."),
        "stored_in": "float32",  # what runs along images; maps and fields as computed
    }
