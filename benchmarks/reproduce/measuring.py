"""One trained pair: everything that the claims are about, as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import pyro_hvae as hvae
from pyro_hvae import analysis
from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import PatchData, concatenate, masked
from pyro_hvae.storage.pareto_limits import GOOD_K

NATURAL, MASKED, JUDGED, HIGH_CONTRAST = 1000, 500, 250, 1000
"""Held-out patches for moments, for inpainting; patches, natural and textures, for evidence; of the highest contrast, on which
[V24] looks for the highest noise correlations."""
DRAWS = 1000
RADII = (3, 5)
UNITS = 60


def measure(vae: hvae.HVAE, data: PatchData, textures: dict[str, PatchData], work: Path, seed: int) -> dict[str, Any]:
    """Numbers of a pair, by name.

    :param textures: labelled patches by name; the first is used for everything but decoding.
    :param work: folder for posterior files, which are deleted.
    """
    found: dict[str, Any] = {}
    common: dict[str, Any] = dict(transform=data.transform, seed=seed, overwrite=True)
    natural = data.test.isel(image=slice(NATURAL))
    file = work / "posterior.nc"
    with hvae.export_posterior(vae, natural.isel(image=slice(200)), moment_draws=16, path=file, **common) as tree:
        fits = analysis.gabor_fits(tree)
    localized = fits["unit"].values[fits["localized"].values.astype(bool)]
    count = min(UNITS, len(localized))
    units = np.sort(np.random.default_rng(seed).permutation(localized)[:count]).tolist() if "z2" in vae.latents else []
    for i, (name, labelled) in enumerate(textures.items()):
        images = concatenate(natural, labelled.train, labelled.test)
        whole = i == 0
        options = (
            dict(units=units, moment_draws=32, evidence=DRAWS, evidence_images=JUDGED)
            if whole
            else dict(moment_draws=8)
        )
        with hvae.export_posterior(vae, images, receptive_fields=0, path=file, **options, **common) as tree:
            found |= {f"{key}, {name}": value for key, value in _decoding(tree, vae, whole and bool(units)).items()}
            if whole:
                found |= _of_file(tree, vae, bool(units))
    found |= _fields(fits)
    if units:
        found |= _high_contrast(vae, data, fits, file, common)
    for radius in RADII:
        shown = masked(PatchData(data.train.isel(image=slice(2)), data.test.isel(image=slice(MASKED)), data.transform,
                                 data.size, data.provenance), radius=radius, space="whitened")  # fmt: skip
        with hvae.export_posterior(vae, shown.test, moment_draws=32, receptive_fields=0, path=file, **common) as tree:
            slopes = analysis.inpainting(tree)["slope"].isel(radius=0)
        found |= {
            f"slope {region}, r = {radius}": float(slopes.sel(region=region)) for region in slopes["region"].values
        }
    file.unlink()
    return found


def _fields(fits: xr.Dataset) -> dict[str, float]:
    uncertainty = fits["uncertainty"].values
    return {
        "localized z1": float(fits["localized_count"]),
        "localized share": float(fits["localized_count"]) / fits.sizes["unit"],
        "median spread": float(fits["spread"].median()),
        "median uncertainty": float(np.median(uncertainty)),
        "Gabor energy": float(fits["goodness"].isel(group=0)) if "goodness" in fits else float("nan"),
    }


def _of_file(tree: xr.DataTree, vae: hvae.HVAE, correlated: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    bound = analysis.bound_terms(tree)
    for group in ("natural", "texture"):
        for term in bound["term"].values:
            found[f"{term}, {group}"] = float(bound["bound"].sel(set=group, term=term))
        if "evidence" in bound:
            found[f"log p(x), {group}"] = float(bound["evidence"].sel(set=group))
    k = tree["evidence"]["pareto_k"].values
    known = np.isfinite(k)
    found["k-hat < 0.7"] = float((k[known] < GOOD_K).mean())
    found["median ESS"] = float(np.median(tree["evidence"]["ess"].values[known])) / DRAWS
    active = analysis.active_dimensions(tree)
    for site in active["count"]["site"].values:
        found[f"active {site}"] = float(active["count"].sel(site=site))
    if "z2" in vae.latents:
        used = active["z2_active"].values.astype(bool)
        found["z2 posterior s.d."] = (
            float(np.sqrt(active["z2_mean_variance"].values[used]).mean()) if used.any() else float("nan")
        )
        found |= _selectivity(tree)
    if correlated:
        found |= _correlations(tree)
    return found


def _selectivity(tree: xr.DataTree) -> dict[str, float]:
    try:
        selective = analysis.texture_selectivity(tree)
    except HVAEError:  # no active z2 dimension
        return {"selective z2": 0.0}
    return {
        "selective z2": float(selective["selective_count"]),
        "decode selective z2": float(selective["accuracy"].sel(part="selective")),
        "decode other z2": float(selective["accuracy"].sel(part="non_selective")),
    }


def _correlations(tree: xr.DataTree) -> dict[str, float]:
    noise = analysis.noise_correlations(tree)
    found = {"mean |noise correlation|": float(noise["magnitude"].sel(set="natural"))}
    if "correspondence" in noise:
        for pairing in ("within", "across", "difference"):
            found[f"signal-noise correspondence, {pairing}"] = float(noise["correspondence"].sel(pairing=pairing))
    if "highest" in noise:
        for kind in noise["kind"].values:
            found[f"highest correlations, {kind}"] = float(noise["highest"].sel(kind=kind))
    if "consistency" in noise:
        for count in noise["count"].values:
            found[f"consistency, {count}"] = float(noise["consistency"].sel(count=count))
    return found


def _high_contrast(
    vae: hvae.HVAE, data: PatchData, fits: xr.Dataset, file: Path, common: dict[str, Any]
) -> dict[str, float]:
    """Highest noise correlations as in [V24]: the patches of highest contrast, the units selected by their Gabors."""
    norm = np.linalg.norm(data.test["x"].values, axis=1)
    images = data.test.isel(image=np.sort(np.argsort(norm)[-HIGH_CONTRAST:]))
    selected = fits["unit"].values[fits["selected"].values.astype(bool)].tolist()
    found = {"Gabor-selected z1": float(len(selected))}
    if len(selected) < 10:
        return found
    with hvae.export_posterior(
        vae, images, moment_draws=200, units=selected, receptive_fields=0, path=file, **common
    ) as tree:
        return found | {f"{key}, high contrast": value for key, value in _correlations(tree).items()}


def _decoding(tree: xr.DataTree, vae: hvae.HVAE, correlated: bool) -> dict[str, float]:
    features = ["pixels", "norm", "power_spectrum", *(f"{site}_mean" for site in sorted(vae.latents))]
    found = {}
    if correlated:
        try:
            accuracy = analysis.decode_family(tree, ["z1_correlation"], repeats=3)["accuracy"]
            found["decode z1 noise correlations"] = float(accuracy.sel(feature="z1_correlation"))
        except HVAEError:  # zero by construction
            found["decode z1 noise correlations"] = float("nan")
    accuracy = analysis.decode_family(tree, features, repeats=3)["accuracy"]
    return found | {f"decode {feature.replace('_', ' ')}": float(accuracy.sel(feature=feature)) for feature in features}
