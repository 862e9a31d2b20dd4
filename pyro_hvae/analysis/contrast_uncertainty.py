"""Does the posterior get surer as the contrast of an image grows (physiology files)?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import mean_and_se
from pyro_hvae.analysis.unit_responses import LayerResponses, stimuli
from pyro_hvae.storage.physiology_file import physiology_sites

COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE)


def contrast_uncertainty(tree: xr.DataTree) -> xr.Dataset:
    """Posterior variance of each layer, averaged over the units that respond to gratings (all where none does, which is said:
    units that are not in use follow the prior), for natural images multiplied by a scale.

    Quantities, by layer, means over images: ``slope``, the change of log2 of that variance per doubling of contrast
    (least squares over the scales above 0), which is 0 in a linear-Gaussian model, below 0 where more contrast makes the
    posterior surer, above 0 where it makes it less sure; ``blank``, variance at scale 0 over that at scale 1; and for z1
    ``from_above``, the share of its variance at scale 1 that comes through the layer above.
    """
    group = stimuli(tree, "natural_contrast")
    scale = group["scale"].values
    sites = physiology_sites(tree)
    notes, used = [], {}
    for site in sites:
        used[site] = LayerResponses(tree, site).responsive
        if not used[site].any():
            notes.append(f"{site}: no unit responds to gratings, so all are averaged")
            used[site][:] = True
    above, one = scale > 0, int(np.argmin(np.abs(scale - 1)))
    octave = np.log2(scale[above])
    weights = (octave - octave.mean()) / ((octave - octave.mean()) ** 2).sum()
    curves, slopes, blanks = [], [], []
    for site in sites:
        variance = group[f"{site}_variance"].values[..., used[site]].astype(float).mean(-1)  # (scale, image)
        curves.append(variance)
        slopes.append(mean_and_se(weights @ np.log2(variance[above])))
        rest = variance[np.argmin(scale)] / variance[one] if (scale == 0).any() else np.full(variance.shape[1], np.nan)
        blanks.append(mean_and_se(rest))
    n = group.sizes["image"]
    variables: dict[str, xr.Variable] = {}
    for name, title, unit, rows in (
        ("slope", "log2 posterior variance per doubling of contrast", "1", slopes),
        ("blank", "posterior variance of a blank over that of the image", "1", blanks),
    ):
        values, errors = zip(*rows, strict=True)
        variables |= quantity(name, ["layer"], values, title=title, unit=unit, n=n, se=errors)
    if "z1_from_above" in group:
        inner, whole = (
            group[f"z1_{name}"].values[one][:, used["z1"]].astype(float).sum(-1) for name in ("from_above", "variance")
        )
        value, se = mean_and_se(inner / whole)
        variables |= quantity(
            "from_above", [], value, title="z1 variance through the layer above", unit="1", n=n, se=se
        )
    variables["curve"] = xr.Variable(("layer", "scale", "image"), np.stack(curves))
    return result(tree, "contrast_uncertainty", variables, {"layer": sites, "scale": scale}, notes)


@style.styled
def plot_contrast_uncertainty(dataset: xr.Dataset) -> style.Picture:
    """Posterior variance against contrast, a panel a layer: images thin, their mean thick."""
    sites = [str(site) for site in dataset["layer"].values]
    figure = style.figure(style.COLUMN * len(sites), 2.2)
    axes = figure.subplots(1, len(sites), squeeze=False)[0]
    for axis, site, colour in zip(axes, sites, COLOURS, strict=False):
        curve = dataset["curve"].sel(layer=site).values
        axis.plot(dataset["scale"], curve, color=style.GREY, lw=0.3, alpha=0.5)
        axis.errorbar(dataset["scale"], curve.mean(1), curve.std(1, ddof=1) / np.sqrt(curve.shape[1]), fmt="o-", ms=3,
                      color=colour)  # fmt: skip
        axis.set(xlabel="contrast, of the image's own", ylabel=f"posterior variance of {site}", yscale="log")
    style.letters(axes)
    parts = "; ".join(
        f"{site}: {dataset['slope'].sel(layer=site).item():+.3f} ± {dataset['slope_se'].sel(layer=site).item():.3f}"
        for site in sites
    )
    caption = (
        f"Posterior variance, mean over units that respond to gratings, of {dataset.sizes['image']} natural images multiplied "
        f"by a scale; thin: images. Change of log2 variance per doubling of contrast: {parts} (± s.e. over images). Below 0 "
        "the posterior gets surer with contrast, above 0 less sure."
    )
    return style.Picture(figure, caption)
