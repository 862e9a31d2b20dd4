"""All measurements of a pair, as one labelled file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.analysis.tuning import RESPONSES, amplitudes
from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.physiology.natural import SCALES, natural_contrast
from pyro_hvae.physiology.optima import optima
from pyro_hvae.physiology.responses import Responses
from pyro_hvae.physiology.series import (
    FREQUENCIES,
    ORIENTATIONS,
    PHASES,
    PLACE_PHASES,
    Display,
    full_field,
    preferred,
    rates,
    series,
)
from pyro_hvae.physiology.textures import texture
from pyro_hvae.physiology.time_course import has_course, time_course
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.images import Images, flattened
from pyro_hvae.stimuli import PatchData, Whitening
from pyro_hvae.storage.physiology_file import SCHEMA, SCHEMA_VERSION, check_physiology_target, validate_physiology
from pyro_hvae.storage.physiology_file import write_physiology as write
from pyro_hvae.storage.provenance import git_revision, versions, without_places

SERIES = ("contrast", "size", "annulus", "plaid")
OF_IMAGES = ("natural_contrast", "optima")
PARTS = (*SERIES, *OF_IMAGES, "texture", "time_course")


@checked
def measure_physiology(
    vae: HVAE,
    *,
    images: Images | PatchData | None = None,
    transform: Whitening | None = None,
    textures: xr.Dataset | None = None,
    noise: xr.Dataset | None = None,
    response: str = "mean",
    parts: Sequence[str] | None = None,
    units: int | None = None,
    contrast: float = 0.3,
    pixels_per_degree: float = 16.0,
    draws: int = 8,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> xr.DataTree:
    """Show a physiologist's stimuli to a pair and write down the posterior mean and s.d. of its units.

    Stimuli are drawn as luminance and shown through the transform of the run, so that a whitened pair sees what it would see of
    a photograph of the display. A pair without a transform sees their contrast, luminance over background less 1.

    Gratings of every orientation, frequency and phase are shown to all units; then each unit gets its own: at its place, of
    its preferred orientation and frequency, series of contrasts, disks, annuli and plaids (:mod:`pyro_hvae.physiology.series`).

    :param images: held-out natural images ``(image, pixel)`` as the pair sees them, for the parts that need some
        (``"natural_contrast"``, ``"optima"``); a :class:`~pyro_hvae.stimuli.PatchData` brings its transform.
    :param textures, noise: patches of texture families and of noise of the same spectrum, as the pair sees them, with the label
        ``family``, for the part ``"texture"`` (:func:`~pyro_hvae.stimuli.texture_patches`, without and with
        ``control="spectrum"``).
    :param response: of which moment a unit's preferred values are: its posterior ``"mean"`` above that at a uniform field,
        the ``"absolute_mean"`` or the posterior ``"sd"`` (:func:`pyro_hvae.analysis.tuning.rate`). The file holds mean and
        s.d. in any case, and the analyses use the same one.
    :param parts: which of :data:`PARTS` are measured beside full-field gratings; None for all that the arguments allow.
    :param units: of each layer only so many, those that answer gratings most; None for all.
    :param contrast: Michelson contrast where it does not vary, between 0 and 1.
    :param pixels_per_degree: how large the patch is taken to be, by which frequencies and sizes are converted for comparison
        with neurons. Photographs do not say; the default makes 20 pixels 1.25 degrees.
    :param draws: of the layers above, over which moments of a layer are averaged.
    :param path: netCDF file to write as well (schema: :mod:`pyro_hvae.storage.physiology_file`).
    :returns: the measurements, in memory.
    :raises HVAEError: for patches that are not square, names that do not exist, parts whose images are missing.
    """
    if path is not None:
        check_physiology_target(path, overwrite=overwrite)
    if response not in RESPONSES:
        raise unknown("response", response, RESPONSES)
    if isinstance(images, PatchData):
        transform = images.transform if transform is None else transform
        images = images.test
    shown = None if images is None else flattened(images, vae.pixels).double().cpu().numpy()
    if (textures is None) != (noise is None):
        raise HVAEError("the part texture compares textures with noise: give both, or neither")
    chosen = _parts(parts, shown is not None, textures is not None, has_course(vae))
    whole_number("draws", draws, 2)
    for name, value, top in (("contrast", contrast, 1.0), ("pixels_per_degree", pixels_per_degree, np.inf)):
        if not 0 < value <= top:
            raise HVAEError(f"{name} must be a number above 0{' and at most 1' if top == 1 else ''}, got {value}")
    if units is not None:
        whole_number("units", units, 1)
    size = round(vae.pixels**0.5)
    if size**2 != vae.pixels:
        raise HVAEError(f"gratings are drawn on square patches; this pair has {vae.pixels} pixels, which are none")
    if transform is not None and transform.pixels != vae.pixels:
        raise HVAEError(
            f"the transform is of {transform.pixels} pixels, the pair of {vae.pixels}; give that of its run"
        )
    display = Display(vae, transform, draws, seed)
    groups, strongest, blank = _measured(display, response, chosen, units, contrast)
    index = {str(dim)[:-5]: groups["blank"][dim].values for dim in groups["blank"].dims}
    if "natural_contrast" in chosen and shown is not None:
        groups["natural_contrast"] = natural_contrast(display, shown, index, SCALES)
    if "optima" in chosen and shown is not None:
        groups["optima"] = optima(display, shown, strongest, blank, response)
    if "time_course" in chosen:
        groups["time_course"] = time_course(display, shown, index)
    if "texture" in chosen and textures is not None and noise is not None:
        groups["texture"] = texture(display, textures, noise, index, response)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = _attributes(vae, transform) | {
        "seed": seed, "response": response, "contrast": contrast, "pixels_per_degree": pixels_per_degree, "draws": draws,
    }  # fmt: skip
    validate_physiology(tree)
    if path is not None:
        write(tree, path, overwrite=overwrite)
    return tree


def _parts(parts: Sequence[str] | None, images: bool, textures: bool, course: bool) -> tuple[str, ...]:
    there = {name: images for name in OF_IMAGES} | {"texture": textures, "time_course": course}
    if parts is None:
        return tuple(name for name in PARTS if there.get(name, True))
    for name in parts:
        if name not in PARTS:
            raise unknown("part of a measurement", name, PARTS)
        if not there.get(name, True):
            what = "natural images: give images, held-out ones of the run say" if name in OF_IMAGES else (
                "patches of textures and of noise: give textures and noise"
            )  # fmt: skip
            if name == "time_course":
                raise HVAEError(
                    "the part time_course is for pairs of which every latent is a real number; c is positive"
                )
            raise HVAEError(f"the part {name} shows {what}")
    return tuple(parts)


def _measured(
    display: Display, response: str, parts: Sequence[str], limit: int | None, contrast: float
) -> tuple[dict[str, xr.Dataset], dict[str, np.ndarray], dict[str, Responses]]:
    """Groups of the file, by name: gratings, and each unit's own series; the units of each layer, those that answer most
    first; and moments of all units at a uniform field."""
    strongest: dict[str, np.ndarray] = {}
    blank, found = display.blank(), full_field(display, contrast)
    variables: dict[str, dict[str, Any]] = {}
    coordinates: dict[str, dict[str, Any]] = {
        "gratings": {"orientation": list(ORIENTATIONS), "frequency": list(FREQUENCIES), "phase": list(PHASES)}
    }
    for site in display.vae.sites:
        strongest[site] = _by_strength(rates(found[site], blank[site], response))[:limit]
        units = np.sort(strongest[site])
        unit = f"{site}_unit"

        def keep(group: str, moments: Responses, dims: Sequence[str], unit: str = unit, site: str = site) -> None:
            for name, values in zip(("mean", "sd"), moments, strict=True):
                variables.setdefault(group, {})[f"{site}_{name}"] = ((unit, *dims), values.astype(np.float32))

        of_units = Responses(*(m[units] for m in found[site]))
        at_blank = Responses(*(m[units] for m in blank[site]))
        best, placed, places = preferred(display, site, units, of_units, at_blank, response, contrast)
        keep("blank", at_blank, ())
        keep("gratings", of_units, ("orientation", "frequency", "phase"))
        keep("places", placed, ("y_position", "x_position", "phase"))
        coordinates["places"] = {"y_position": places, "x_position": places, "phase": list(PLACE_PHASES)}
        variables.setdefault("preferred", {}).update(
            {f"{site}_{name}": (unit, getattr(best, name)) for name in ("orientation", "frequency", "x", "y")}
        )
        for name, (moments, along) in series(display, site, units, best, contrast, parts).items():
            keep(name, moments, tuple(along))
            coordinates[name] = along
        for group in variables:
            coordinates.setdefault(group, {})
            coordinates[group][unit] = units
    groups = {group: xr.Dataset(values, coordinates[group]) for group, values in variables.items()}
    return groups, strongest, blank


def _by_strength(rates_: np.ndarray) -> np.ndarray:
    """Units in the order of their response to their best grating, the strongest first."""
    strength = amplitudes(rates_, np.array(PHASES)).value.reshape(len(rates_), -1).max(1)
    return np.argsort(-strength, kind="stable")


def _attributes(vae: HVAE, transform: Whitening | None) -> dict[str, Any]:
    config, training = vae.config, vae.record
    objective = training.get("objective", {})
    return {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "preset": vae.preset or "", "model": config["model"]["class"], "guide": config["guide"]["class"],
        "configuration": json.dumps(without_places({"vae": config, "training": training})),
        "objective": objective.get("class", ""), "particles": objective.get("num_particles", 0),
        "versions": json.dumps(versions()), "git_revision": git_revision(),
        "transform": "none" if transform is None else json.dumps(transform.options),
    }  # fmt: skip
