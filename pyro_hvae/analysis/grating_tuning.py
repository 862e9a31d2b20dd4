"""Tuning of units to gratings: orientation, spatial frequency, phase (physiology files)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import result
from pyro_hvae.analysis.unit_responses import layers, medians, per_degree, shares, stimuli
from pyro_hvae.errors import HVAEError

EXAMPLES = 4  # units whose curves are drawn, of each layer
SELECTIVE = 0.7  # circular variance below which a unit is called selective for orientation
COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE)


def grating_tuning(tree: xr.DataTree) -> xr.Dataset:
    """Preferred orientation and frequency, bandwidths, circular variance and F1/F0 of every unit that responds to gratings.

    Quantities, by layer, as medians over units: ``bandwidth`` (full width at half height, degrees), ``circular_variance``
    (Ringach et al. 2002), ``frequency`` (cycles/degree), ``octaves`` (full width at half height), ``modulation`` (F1/F0,
    Skottun et al. 1991), and as shares of units ``responsive``, ``selective`` (circular variance under 0.7) and ``simple``
    (F1/F0 above 1). Per unit, with NaN where it does not respond: ``zl_preferred_orientation`` and so on.

    :raises HVAEError: where no unit responds.
    """
    notes: list[str] = []
    found = layers(tree, notes)
    if not found:
        raise HVAEError(f"no unit responds to gratings by its {tree.attrs['response']}; measure another response")
    scale = per_degree(tree)
    properties: dict[str, dict[str, np.ndarray]] = {}
    for site, layer in found.items():
        values = {
            "preferred_orientation": layer.orientation.preferred,
            "bandwidth": layer.orientation.bandwidth,
            "circular_variance": layer.orientation.circular_variance,
            "frequency": layer.frequency.preferred * scale,
            "octaves": layer.frequency.octaves,
            "modulation": layer.modulation,
        }
        properties[site] = {name: np.where(layer.responsive, v, np.nan) for name, v in values.items()}
    variables: dict[str, xr.Variable] = {}
    variables |= shares(
        "responsive", {s: layer.responsive for s, layer in found.items()}, title="units that respond to gratings"
    )
    answering = {site: layer.responsive for site, layer in found.items()}

    def of(name: str) -> dict[str, np.ndarray]:
        return {site: values[name] for site, values in properties.items()}

    variables |= medians("bandwidth", of("bandwidth"), title="orientation bandwidth", unit="degrees")
    variables |= medians("circular_variance", of("circular_variance"), title="circular variance", unit="1")
    variables |= medians("frequency", of("frequency"), title="preferred spatial frequency", unit="cycles/degree")
    variables |= medians("octaves", of("octaves"), title="spatial-frequency bandwidth", unit="octaves")
    variables |= medians("modulation", of("modulation"), title="F1/F0", unit="1")
    variables |= shares(
        "selective", {s: v[answering[s]] < SELECTIVE for s, v in of("circular_variance").items()},
        title=f"units of circular variance under {SELECTIVE}",
    )  # fmt: skip
    variables |= shares(
        "simple", {s: v[answering[s]] > 1 for s, v in of("modulation").items()}, title="units with F1/F0 above 1"
    )
    for site, values in properties.items():
        variables |= {f"{site}_{name}": xr.Variable(f"{site}_unit", v) for name, v in values.items()}
        shown = _examples(found[site].orientation.circular_variance, found[site].responsive)
        for name, curves in (
            ("orientation", found[site].orientation_curves),
            ("frequency", found[site].frequency_curves),
        ):
            top = curves[shown].max(1, keepdims=True)
            variables[f"{site}_{name}_curve"] = xr.Variable((f"{site}_example", f"shown_{name}"), curves[shown] / top)
    coordinates = {
        "layer": list(found),
        "shown_orientation": stimuli(tree, "gratings")["orientation"].values,
        "shown_frequency": stimuli(tree, "gratings")["frequency"].values * scale,
    } | {f"{site}_unit": stimuli(tree, "blank")[f"{site}_unit"].values for site in found}
    made = result(tree, "grating_tuning", variables, coordinates, notes)
    return made.assign_attrs(response=str(tree.attrs["response"]), pixels_per_degree=scale)


def _examples(variance: np.ndarray, responsive: np.ndarray) -> np.ndarray:
    """Units spread evenly over circular variance: the typical ones, not the best."""
    order = np.flatnonzero(responsive)[np.argsort(variance[responsive])]
    return order[np.unique(np.linspace(0, order.size - 1, 2 * EXAMPLES + 1).round().astype(int)[1::2])]


@style.styled
def plot_grating_tuning(dataset: xr.Dataset) -> style.Picture:
    """A row a layer: curves of a few units, then how the properties are distributed over units."""
    sites = [str(site) for site in dataset["layer"].values]
    figure = style.figure(style.FULL, 1.75 * len(sites) + 0.3)
    axes = figure.subplots(len(sites), 6, squeeze=False)
    for row, site in zip(axes, sites, strict=True):
        for axis, name in zip(row[:2], ("orientation", "frequency"), strict=True):
            curves = dataset[f"{site}_{name}_curve"].values
            for curve, colour in zip(curves, COLOURS, strict=False):
                axis.plot(dataset[f"shown_{name}"], curve, ".-", ms=2, color=colour)
            axis.set(ylim=(0, 1.05), ylabel=f"{site}: response / peak" if name == "orientation" else "")
        row[0].set(xlabel="orientation (deg)", xticks=[0, 90, 180])
        row[1].set(xlabel="frequency (cycles/deg)", xscale="log")
        row[1].set_xticks(*_ticks(dataset["shown_frequency"].values), minor=False)
        row[1].minorticks_off()
        for axis, name, label, bins in (
            (row[2], "bandwidth", "orientation\nbandwidth (deg)", np.linspace(0, 180, 19)),
            (row[3], "circular_variance", "circular variance", np.linspace(0, 1, 21)),
            (row[4], "octaves", "frequency\nbandwidth (octaves)", np.linspace(0, 4, 17)),
            (row[5], "modulation", "F1/F0", np.linspace(0, 2, 21)),
        ):
            values = dataset[f"{site}_{name}"].values
            values = values[np.isfinite(values)]
            axis.hist(values.clip(bins[0], bins[-1]), bins, color=style.GREY)
            if values.size:
                axis.axvline(np.median(values), color=style.RED, lw=0.8)
            axis.set(xlabel=label)
        row[2].set(ylabel="units")
    style.letters(axes[0])
    middle = "; ".join(
        f"{site}: bandwidth {dataset['bandwidth'].sel(layer=site).item():.0f} deg, circular variance "
        f"{dataset['circular_variance'].sel(layer=site).item():.2f}, F1/F0 {dataset['modulation'].sel(layer=site).item():.2f}"
        for site in sites
    )
    caption = (
        f"Full-field gratings; the response is the {dataset.attrs['response'].replace('_', ' ')} above that at a uniform "
        f"field. a, b: tuning of {EXAMPLES} units of each layer, evenly spread over circular variance. c-f: all units that "
        f"respond, median in red ({middle}). At {dataset.attrs['pixels_per_degree']:g} pixels per degree."
    )
    return style.Picture(figure, caption)


def _ticks(frequency: np.ndarray) -> tuple[list[float], list[str]]:
    shown = [float(f) for f in frequency[:: max(1, len(frequency) // 3)]]
    return shown, [f"{f:.2g}" for f in shown]
