"""Most and least exciting images of units, and how many different ones there are (physiology files)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import result
from pyro_hvae.analysis.unit_responses import medians, stimuli
from pyro_hvae.storage.physiology_file import physiology_sites

NEAR = 0.95  # of the best, for an optimum to count as one
SHOWN, OPTIMA = 6, 3  # units drawn of a layer, and optima of each


def exciting_images(tree: xr.DataTree) -> xr.Dataset:
    """What drives the units that answer gratings most, at the norm of natural images.

    Quantities, by layer, medians over units: ``gain``, the best response over the largest to a natural image of that norm,
    both above the mean response to natural images; ``similarity``, mean cosine between the optima from different starts that
    reach 95% of the best: 1 for a unit with one best image, near 0 for one that does not mind the phase; ``dimensions``, the
    participation ratio of these optima: 1 for one image, 2 for a phase-invariant energy. ``reached``: share of starts
    that reach 95%.
    """
    group, sites = stimuli(tree, "optima"), physiology_sites(tree)
    per_unit: dict[str, dict[str, np.ndarray]] = {}
    for site in sites:
        best, natural = group[f"{site}_most_response"].values, group[f"{site}_natural_response"].values
        rest = natural.mean(1)
        height = best - rest[:, None]
        top = height.max(1)
        near = (height >= NEAR * top[:, None]) & (top[:, None] > 0)
        images = group[f"{site}_most"].values.astype(float)
        images = images / np.linalg.norm(images, axis=2, keepdims=True)
        similarity, dimensions = np.full(len(best), np.nan), np.full(len(best), np.nan)
        for row, mask in enumerate(near):
            chosen = images[row, mask]
            if len(chosen) > 1:
                gram = chosen @ chosen.T
                similarity[row] = gram[~np.eye(len(gram), dtype=bool)].mean()
                values = np.linalg.eigvalsh(gram)
                dimensions[row] = values.sum() ** 2 / (values**2).sum()
        rise = natural.max(1) - rest
        gain = np.where(rise > 0, top / np.where(rise > 0, rise, 1), np.nan)
        per_unit[site] = {"gain": gain, "similarity": similarity, "dimensions": dimensions, "reached": near.mean(1)}
    variables: dict[str, xr.Variable] = {}
    for name, title in (
        ("gain", "best response over the best to a natural image"),
        ("similarity", "similarity of the most exciting images"),
        ("dimensions", "dimensions of the most exciting images"),
        ("reached", "share of starts within 5% of the best"),
    ):
        variables |= medians(name, {site: v[name] for site, v in per_unit.items()}, title=title, unit="1")
    for site in sites:
        order = np.argsort(-group[f"{site}_most_response"].values, 1)[:, :OPTIMA]
        rows = np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)
        most = np.take_along_axis(group[f"{site}_most"].values, order[:, :, None], 1)[rows]
        lowest = group[f"{site}_least_response"].values.argmin(1)
        least = group[f"{site}_least"].values[np.arange(len(lowest)), lowest][rows]
        shown = np.concatenate([most, least[:, None]], 1)
        variables[f"{site}_shown"] = xr.Variable((f"{site}_row", f"{site}_column", "pixel"), shown)
        variables |= {f"{site}_{name}": xr.Variable(f"{site}_optimum", v) for name, v in per_unit[site].items()}
    made = result(tree, "exciting_images", variables, {"layer": sites}, [])
    return made.assign_attrs(norm=float(group.attrs["norm"]), response=str(tree.attrs["response"]))


@style.styled
def plot_exciting_images(dataset: xr.Dataset) -> style.Picture:
    """Optima of a few units of each layer, and how alike they are."""
    sites = [str(site) for site in dataset["layer"].values]
    figure = style.figure(style.FULL, 2.8)
    axes = figure.subplots(1, len(sites) + 1, width_ratios=[1.2] * len(sites) + [1])
    for axis, site in zip(axes, sites, strict=False):
        shown = dataset[f"{site}_shown"].values
        style.show(axis, style.mosaic(shown.reshape(-1, shown.shape[-1]), shown.shape[1]), title=site)
        axis.set_title("abcdefgh"[sites.index(site)], loc="left", fontweight="bold", fontsize=9)
    last = axes[-1]
    for site, colour in zip(sites, (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE), strict=False):
        values = dataset[f"{site}_similarity"].values
        last.hist(values[np.isfinite(values)], np.linspace(-1, 1, 21), histtype="step", color=colour, label=site)
    last.set(xlabel="similarity of a unit's optima", ylabel="units")
    last.set_title("abcdefgh"[len(sites)], loc="left", fontweight="bold", fontsize=9)
    last.legend(loc="upper left")
    parts = "; ".join(
        f"{site}: similarity {dataset['similarity'].sel(layer=site).item():.2f}, dimensions "
        f"{dataset['dimensions'].sel(layer=site).item():.1f}, gain over the best natural image "
        f"{dataset['gain'].sel(layer=site).item():.1f}"
        for site in sites
    )
    caption = (
        f"Images of norm {dataset.attrs['norm']:.0f}, the natural images' median, inside the whitened subspace, as the pair "
        f"sees them. A row a unit: {OPTIMA} most exciting images from different starts, best first, and the least exciting "
        f"one. On the right how alike the optima of a unit are. Medians: {parts}."
    )
    return style.Picture(figure, caption)
