"""How analyses read a physiology file: responses of the units of a layer to a group of stimuli, and which units respond."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from pyro_hvae.analysis.results import quantity
from pyro_hvae.analysis.tuning import (
    FrequencyTuning,
    OrientationTuning,
    amplitudes,
    frequency_tuning,
    judged_by,
    orientation_tuning,
    rate,
)
from pyro_hvae.analysis.uncertainty import binomial_interval, median_and_interval
from pyro_hvae.storage.physiology_file import physiology_sites

#: A unit responds whose best grating drives it to at least this part of what the 95th percentile of its layer is driven to.
RESPONSIVE = 0.1
RULE = (
    f"Units that answer their best grating with less than {RESPONSIVE:.0%} of the layer's 95th percentile are left out."
)


@dataclass(frozen=True)
class LayerResponses:
    """Responses of one layer of a physiology file."""

    tree: xr.DataTree
    site: str

    @property
    def response(self) -> str:
        """Of which moment they are."""
        return str(self.tree.attrs["response"])

    def rates(self, group: str) -> np.ndarray:
        """Responses ``(unit, ...)``, in the order of the group's dims (:func:`~pyro_hvae.analysis.tuning.rate`)."""
        found, blank = stimuli(self.tree, group), stimuli(self.tree, "blank")
        mean, sd = (found[f"{self.site}_{m}"].values.astype(float) for m in ("mean", "sd"))
        own = (-1, *(1,) * (mean.ndim - 1))
        at_mean, at_sd = (blank[f"{self.site}_{m}"].values.astype(float).reshape(own) for m in ("mean", "sd"))
        return rate(mean, sd, at_mean, at_sd, self.response)

    def curves(self, group: str) -> np.ndarray:
        """Of a group whose last dim is ``phase``: each unit by its own harmonic, ``(unit, ...)``."""
        return judged_by(self.rates(group), stimuli(self.tree, group)["phase"].values, self.modulation)

    @cached_property
    def gratings(self) -> np.ndarray:
        """``(unit, orientation, frequency)``."""
        return amplitudes(self.rates("gratings"), stimuli(self.tree, "gratings")["phase"].values).value

    @cached_property
    def modulation(self) -> np.ndarray:
        """F1/F0 of each unit."""
        return amplitudes(self.rates("gratings"), stimuli(self.tree, "gratings")["phase"].values).modulation

    @cached_property
    def responsive(self) -> np.ndarray:
        """Mask of the units that respond to gratings at all."""
        strength = self.gratings.reshape(len(self.gratings), -1).max(1)
        top = np.percentile(strength, 95) if strength.size else 0.0
        return (strength >= RESPONSIVE * top) & (strength > 0)

    @cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of orientation and frequency of each unit's best grating."""
        flat = self.gratings.reshape(len(self.gratings), -1).argmax(1)
        return np.unravel_index(flat, self.gratings.shape[1:])  # type: ignore[return-value]

    @cached_property
    def orientation_curves(self) -> np.ndarray:
        """``(unit, orientation)`` at the best frequency."""
        return self.gratings[np.arange(len(self.gratings)), :, self.best[1]]

    @cached_property
    def frequency_curves(self) -> np.ndarray:
        """``(unit, frequency)`` at the best orientation."""
        return self.gratings[np.arange(len(self.gratings)), self.best[0]]

    @cached_property
    def orientation(self) -> OrientationTuning:
        return orientation_tuning(self.orientation_curves, stimuli(self.tree, "gratings")["orientation"].values)

    @cached_property
    def frequency(self) -> FrequencyTuning:
        return frequency_tuning(self.frequency_curves, stimuli(self.tree, "gratings")["frequency"].values)


def stimuli(tree: xr.DataTree, name: str) -> xr.Dataset:
    """A group of a physiology file, as a dataset."""
    return tree.children[name].to_dataset()


def layers(tree: xr.DataTree, notes: list[str]) -> dict[str, LayerResponses]:
    """Layers of a file of which any unit responds; says which do not."""
    found = {site: LayerResponses(tree, site) for site in physiology_sites(tree)}
    for site, layer in list(found.items()):
        if not layer.responsive.any():
            notes.append(f"{site}: no unit responds to gratings by its {layer.response}")
            del found[site]
    return found


def per_degree(tree: xr.DataTree) -> float:
    """Declared pixels per degree of visual angle."""
    return float(tree.attrs["pixels_per_degree"])


def medians(name: str, of: dict[str, np.ndarray], *, title: str, unit: str) -> dict[str, xr.Variable]:
    """Median over units of each layer, with its 95% interval; units without the property (NaN) are not counted."""
    rows = [median_and_interval(values[np.isfinite(values)]) for values in of.values()]
    return quantity(
        name, ["layer"], [r[0] for r in rows], title=title, unit=unit, interval=[r[1] for r in rows],
        n=[int(np.isfinite(values).sum()) for values in of.values()],
    )  # fmt: skip


def shares(name: str, of: dict[str, np.ndarray], *, title: str) -> dict[str, xr.Variable]:
    """Share of the units of each layer of which something is true, with its 95% interval."""
    rows = [binomial_interval(int(mask.sum()), mask.size) for mask in of.values()]
    return quantity(
        name, ["layer"], [r[0] for r in rows], title=title, unit="1", interval=[r[1] for r in rows],
        n=[mask.size for mask in of.values()],
    )  # fmt: skip
