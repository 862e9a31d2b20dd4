"""Gratings for all units, then for each unit its own: at its place, of its preferred orientation and frequency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from pyro_hvae.analysis.tuning import amplitudes, frequency_tuning, judged_by, orientation_tuning, rate
from pyro_hvae.physiology.responses import Responses, responses, unit_responses
from pyro_hvae.programs import HVAE
from pyro_hvae.stimuli import Whitening, gabors, gratings, plaids
from pyro_hvae.stimuli.displays import seen_through

ORIENTATIONS = tuple(np.arange(0.0, 180, 10))
FREQUENCIES = tuple(np.round(0.45 * 2.0 ** (np.arange(-8, 1) / 2), 4))  # cycles/pixel, half octaves from 0.028 to 0.45
PHASES = tuple(np.arange(0.0, 360, 45))
CONTRASTS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
MASK_PHASES = (0.0, 90.0, 180.0, 270.0)
PLACE_PHASES = (0.0, 90.0, 180.0, 270.0)
PLACE_STEP = 3.0  # pixels between the Gabors that find the place of a unit
LEAST_SD = 1.5  # pixels, of those Gabors
TOGETHER = 8  # units whose stimuli are drawn, and shown, at a time


@dataclass(frozen=True)
class Preferred:
    """What the series of each unit were drawn with, ``(unit,)`` each."""

    orientation: np.ndarray
    frequency: np.ndarray
    x: np.ndarray
    y: np.ndarray
    modulation: np.ndarray


@dataclass(frozen=True)
class Display:
    """How stimuli reach a pair: drawn as luminance, then through the transform of its run."""

    vae: HVAE
    transform: Whitening | None
    draws: int
    seed: int

    @property
    def size(self) -> int:
        """Side of a patch, in pixels."""
        return round(self.vae.pixels**0.5)

    def seen(self, luminance: np.ndarray) -> np.ndarray:
        """Displays ``(image, pixel)`` as the pair sees them: after the transform, or their contrast where there is none."""
        return luminance - 1 if self.transform is None else seen_through(luminance, self.transform)

    def all_units(self, stimuli: xr.Dataset) -> dict[str, Responses]:
        return responses(self.vae, self.seen(stimuli["x"].values), draws=self.draws, seed=self.seed)

    def blank(self) -> dict[str, Responses]:
        """Moments at a uniform field, ``(dim,)``; from many more draws, since everything is compared with them."""
        x = self.seen(np.ones((64, self.vae.pixels)))
        found = responses(self.vae, x, draws=self.draws, seed=self.seed)
        return {site: Responses(r.mean.mean(0), np.sqrt((r.sd**2).mean(0))) for site, r in found.items()}

    def own(self, site: str, units: np.ndarray, draw: Callable[[int], xr.Dataset], shape: Sequence[int]) -> Responses:
        """Moments ``(unit, *shape)`` of each unit for its own stimuli, ``draw(i)`` those of ``units[i]``."""
        mean, sd = np.empty((len(units), *shape)), np.empty((len(units), *shape))
        for start in range(0, len(units), TOGETHER):
            group = range(start, min(start + TOGETHER, len(units)))
            luminance = np.concatenate([draw(i)["x"].values for i in group])
            index = np.repeat(units[start : start + TOGETHER], int(np.prod(shape)))
            r = unit_responses(self.vae, self.seen(luminance), site, index, draws=self.draws, seed=self.seed)
            for kept, values in ((mean, r.mean), (sd, r.sd)):
                kept[start : start + TOGETHER] = values.reshape(len(group), *shape)
        return Responses(mean, sd)


def full_field(display: Display, contrast: float) -> dict[str, Responses]:
    """``{site: (dim, orientation, frequency, phase)}``."""
    stimuli = gratings(display.size, orientation=ORIENTATIONS, frequency=FREQUENCIES, phase=PHASES, contrast=[contrast])
    shape = len(ORIENTATIONS), len(FREQUENCIES), len(PHASES)
    return {
        site: Responses(*(m.T.reshape(-1, *shape) for m in found)) for site, found in display.all_units(stimuli).items()
    }


def rates(found: Responses, blank: Responses, response: str) -> np.ndarray:
    """:func:`~pyro_hvae.analysis.tuning.rate` of moments ``(unit, ...)``."""
    own = (-1, *(1,) * (found.mean.ndim - 1))
    return rate(found.mean, found.sd, blank.mean.reshape(own), blank.sd.reshape(own), response)


def preferred(
    display: Display, site: str, units: np.ndarray, found: Responses, blank: Responses, response: str, contrast: float
) -> tuple[Preferred, Responses, np.ndarray]:
    """Preferred orientation, frequency and place; the responses at the places, and the places along one axis.

    Orientation and frequency are the peaks of interpolated curves through the best grating. The place is the centroid of the
    responses, squared, to small Gabors of these where they exceed half of the largest.
    """
    amplitude, modulation = amplitudes(rates(found, blank, response), np.array(PHASES))
    rows = np.arange(len(units))
    at_o, at_f = np.unravel_index(amplitude.reshape(len(units), -1).argmax(1), amplitude.shape[1:])
    orientation = orientation_tuning(amplitude[rows, :, at_f], np.array(ORIENTATIONS)).preferred
    frequency = frequency_tuning(amplitude[rows, at_o], np.array(FREQUENCIES)).preferred
    # A unit that answers nothing is measured all the same, with the middle of the ranges.
    orientation = np.where(np.isfinite(orientation), orientation, 0.0)
    frequency = np.where(np.isfinite(frequency), frequency, FREQUENCIES[len(FREQUENCIES) // 2])
    half = (display.size - 1) / 2
    places = np.linspace(-half, half, max(2, round(2 * half / PLACE_STEP) + 1))

    def draw(i: int) -> xr.Dataset:
        return gabors(
            display.size, orientation=[orientation[i]], frequency=[frequency[i]], phase=PLACE_PHASES,
            sd=[max(LEAST_SD, 0.3 / frequency[i])], contrast=[contrast], x_position=places, y_position=places,
        )  # fmt: skip

    # gabors cross (…, phase, sd, contrast, x, y) in this order
    raw = display.own(site, units, draw, (len(PLACE_PHASES), len(places), len(places)))
    shown = Responses(*(m.transpose(0, 3, 2, 1) for m in raw))  # (unit, y, x, phase)
    strength = judged_by(rates(shown, blank, response), np.array(PLACE_PHASES), modulation)
    top = strength.max((1, 2), keepdims=True)
    weight = np.where(strength > 0.5 * top, strength, 0.0) ** 2
    total = weight.sum((1, 2))
    safe = np.where(total > 0, total, 1.0)
    x, y = (weight.sum(1) @ places) / safe, (weight.sum(2) @ places) / safe
    return Preferred(orientation, frequency, x, y, modulation), shown, places


def diameters(size: int) -> np.ndarray:
    """Of the disks of a size series: to beyond the corners of a patch from any place in it."""
    return np.unique(np.round(np.geomspace(2, 2 * size * np.sqrt(2), 10)))


def series(
    display: Display, site: str, units: np.ndarray, best: Preferred, contrast: float, parts: Sequence[str]
) -> Mapping[str, tuple[Responses, dict[str, np.ndarray]]]:
    """Own series of each unit, by name: moments, and the coordinates along their dims."""
    size, phases = display.size, np.array(PHASES)
    disks, inner = diameters(size), np.concatenate([[0.0], diameters(size)[:-2]])
    found: dict[str, tuple[Responses, dict[str, np.ndarray]]] = {}

    def own(i: int) -> dict[str, list[float]]:
        return {
            "orientation": [best.orientation[i]], "frequency": [best.frequency[i]],
            "x_position": [best.x[i]], "y_position": [best.y[i]],
        }  # fmt: skip

    def measured(
        name: str, factor: str, values: np.ndarray, draw: Callable[[int], xr.Dataset], phase_first: bool
    ) -> None:
        shape = (len(phases), len(values)) if phase_first else (len(values), len(phases))
        moments = display.own(site, units, draw, shape)
        if phase_first:
            moments = Responses(*(m.transpose(0, 2, 1) for m in moments))
        found[name] = moments, {factor: values, "phase": phases}

    if "contrast" in parts:
        levels = np.array(CONTRASTS)
        measured("contrast", "contrast", levels,
                 lambda i: gratings(size, phase=PHASES, contrast=levels, **own(i)), True)  # fmt: skip
    if "size" in parts:
        measured("size", "diameter", disks,
                 lambda i: gratings(size, phase=PHASES, contrast=[contrast], diameter=disks, **own(i)), True)  # fmt: skip
    if "annulus" in parts:
        measured("annulus", "inner_diameter", inner,
                 lambda i: gratings(size, phase=PHASES, contrast=[contrast], inner_diameter=inner, **own(i)), True)  # fmt: skip
    if "plaid" in parts:
        # Both at the declared contrast, or half of the whole range where that is less.
        level = min(contrast, 0.5)

        def both(i: int, test: float, mask: float) -> np.ndarray:
            drawn = plaids(size, phase=PHASES, contrast=[test], mask_contrast=[mask], mask_phase=MASK_PHASES, **own(i))
            return drawn["x"].values.reshape(len(PHASES), len(MASK_PHASES), -1).swapaxes(0, 1)

        def draw(i: int) -> xr.Dataset:
            three = np.stack([both(i, level, 0.0), _mask(size, best, i, level), both(i, level, level)])
            return xr.Dataset({"x": (("image", "pixel"), three.reshape(-1, size**2))})

        shape = (3, len(MASK_PHASES), len(PHASES))
        coordinates = {
            "part": np.array(["test", "mask", "plaid"]),
            "mask_phase": np.array(MASK_PHASES),
            "phase": phases,
        }
        found["plaid"] = display.own(site, units, draw, shape), coordinates
    return found


def _mask(size: int, best: Preferred, i: int, contrast: float) -> np.ndarray:
    """The mask alone, ``(mask_phase, phase, pixel)``: its own phase goes round along ``phase``."""
    alone = gratings(
        size, orientation=[best.orientation[i] + 90], frequency=[best.frequency[i]], phase=PHASES, contrast=[contrast],
        x_position=[best.x[i]], y_position=[best.y[i]],
    )  # fmt: skip
    return np.broadcast_to(alone["x"].values, (len(MASK_PHASES), *alone["x"].shape))
