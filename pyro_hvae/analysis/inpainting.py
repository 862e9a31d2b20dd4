"""Inpainting: what the posterior predictive says about hidden pixels (Csikor et al. 2022, Fig. 4)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats

from pyro_hvae.analysis import style
from pyro_hvae.analysis.reading import blocks, complete_images, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import label

SUBSETS = 5
EXAMPLES = 10
REGIONS = ("inside", "outside")


def inpainting(tree: xr.DataTree) -> xr.Dataset:
    """Slopes of inpainted and reconstructed against original intensities, inside and outside the mask.

    Images of one mask radius are dealt at random to five disjoint subsets; in each, the posterior predictive mean
    of all pixels of a region is regressed on the original ones (least squares, with intercept). A slope of 1 restores the
    image, 0 says nothing about it. The mean over subsets has a 95% interval by Student's t.

    The original is ``observed_data/original`` where the file has it, else ``x``. The radius is the label ``radius`` (pixels)
    where there is one, else that of a disk of as many pixels as are hidden.

    Returns
    -------
    Dataset with ``slope`` and ``correlation (radius, region)``, ``subset_slope (radius, region, subset)``; examples
    ``example_original``, ``example_shown``, ``example_x_mean (example, pixel)``, ``example_radius``.

    Raises
    ------
    HVAEError
        Where the mask hides nothing, the originals of hidden pixels are not in the file, or there are fewer than two images.
    """
    notes: list[str] = []
    path = "observed_data/original" if "original" in tree["observed_data"] else "observed_data/x"
    usable = complete_images(tree, [path, "posterior_predictive/x_mean"], notes)
    radius = _radii(tree)
    if not (usable & (radius > 0)).any():
        raise HVAEError("the mask hides no pixel of any image; export masked patches (stimuli.masked)")
    sums, variance_inside = {}, 0.0
    radii = np.unique(radius[usable & (radius > 0)])
    rng = np.random.default_rng(0)
    for value in radii:
        members = np.flatnonzero(usable & (radius == value))
        if members.size < 2:
            notes.append(f"radius {value:g}: one image has no subsets, left out")
            continue
        groups = min(SUBSETS, members.size)
        part = rng.permutation(np.arange(members.size) % groups)
        total = np.zeros((groups, len(REGIONS), 6))
        for block in blocks(usable & (radius == value)):
            total_here = _sums(tree, path, block)
            np.add.at(total, part[np.searchsorted(members, block)], total_here)
        sums[float(value)] = (total, members.size)
        variance_inside = max(variance_inside, float(total[:, 0, 3].sum()))
    if not sums:
        raise HVAEError("no radius has two images to estimate a slope from")
    if variance_inside == 0 and path.endswith("/x"):
        raise HVAEError(
            "x holds nothing under the mask and there is no observed_data/original: export the whole patches too"
        )
    rows: dict[str, list] = {"slope": [], "correlation": []}
    bounds: dict[str, list] = {"slope": [], "correlation": []}
    subsets = np.full((len(sums), len(REGIONS), SUBSETS), np.nan)
    for k, (total, _) in enumerate(sums.values()):
        for name, values in zip(rows, _regression(total), strict=True):
            mean, half = _interval(values)
            rows[name].append(mean)
            bounds[name].append(np.stack([mean - half, mean + half], -1))
            if name == "slope":
                subsets[k, :, : len(values)] = values.T
    n = [[count] * len(REGIONS) for _, count in sums.values()]
    variables: dict[str, xr.Variable] = {}
    for name, title in (("slope", "inpainting slope"), ("correlation", "inpainting correlation")):
        variables |= quantity(
            name, ["radius", "region"], rows[name], title=title, unit="1", n=n, interval=np.stack(bounds[name])
        )
    variables["subset_slope"] = xr.Variable(("radius", "region", "subset"), subsets)
    chosen = np.flatnonzero(usable & np.isin(radius, list(sums)))
    chosen = chosen[np.unique(np.linspace(0, chosen.size - 1, EXAMPLES).astype(int))]
    mask = selected(tree, "observed_data/mask", chosen)
    for name, values in (
        ("original", selected(tree, path, chosen)),
        ("shown", np.where(mask > 0, selected(tree, path, chosen), np.nan)),
        ("x_mean", selected(tree, "posterior_predictive/x_mean", chosen)),
    ):
        variables[f"example_{name}"] = xr.Variable(("example", "pixel"), values)
    variables["example_radius"] = xr.Variable("example", radius[chosen])
    return result(tree, "inpainting", variables, {"radius": list(sums), "region": list(REGIONS)}, notes)


def _radii(tree: xr.DataTree) -> np.ndarray:
    hidden = (~tree["observed_data"]["mask"].astype(bool)).sum("pixel").transpose("image").values
    given = label(tree, "radius")
    radius = np.round(np.sqrt(hidden / np.pi), 1) if given is None else np.asarray(given, dtype=float)
    return np.where(hidden > 0, radius, 0.0)


def _sums(tree: xr.DataTree, path: str, images: np.ndarray) -> np.ndarray:
    """Per image and region: number of pixels and sums of x, y, x², xy, y²."""
    x, y = (selected(tree, p, images) for p in (path, "posterior_predictive/x_mean"))
    shown = selected(tree, "observed_data/mask", images) > 0
    parts = []
    for where in (~shown, shown):
        u, v = np.where(where, x, 0.0), np.where(where, y, 0.0)
        parts.append(np.stack([where.sum(1), u.sum(1), v.sum(1), (u**2).sum(1), (u * v).sum(1), (v**2).sum(1)], -1))
    return np.stack(parts, 1)


def _regression(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and correlation ``(subset, region)``; NaN where the original does not vary."""
    n, x, y, xx, xy, yy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        vx, vy, cov = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2, xy / n - x * y / n**2
        floor = 1e-12 * xx / n
        slope = np.where(vx > floor, cov / vx, np.nan)
        return slope, np.where((vx > floor) & (vy > 0), cov / np.sqrt(vx * vy), np.nan)


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over subsets and half its 95% t interval."""
    count = len(values)
    return values.mean(0), stats.t.ppf(0.975, count - 1) * values.std(0, ddof=1) / np.sqrt(count)


@style.styled
def plot_inpainting(dataset: xr.Dataset) -> style.Picture:
    """Slopes by radius inside and outside the mask; examples: original, what was shown, posterior predictive mean."""
    figure = style.figure(style.FULL, 2.5)
    axes = figure.subplots(1, 2, width_ratios=[1, 1.9])
    radius = dataset["radius"].values
    for region, colour in zip(REGIONS, (style.ORANGE, style.BLUE), strict=True):
        at = dataset.sel(region=region)
        low, high = at["slope_interval"].values.T
        axes[0].plot(radius, at["slope"], "o-", ms=4, color=colour, label=f"{region} the mask")
        axes[0].vlines(radius, low, high, color=colour, lw=1.2)
    axes[0].axhline(0, color=style.GREY, lw=0.6)
    axes[0].axhline(1, color=style.GREY, lw=0.6, ls=":")
    axes[0].set(xlabel="radius of the mask (pixels)", ylabel="slope against the original", xticks=radius)
    axes[0].margins(x=0.15)
    axes[0].legend()
    original = dataset["example_original"].values
    top = float(np.quantile(np.abs(original), 0.995))
    rows = [original, dataset["example_shown"].values, dataset["example_x_mean"].values]
    canvas = style.mosaic(np.nan_to_num(np.concatenate(rows)), len(original), top=top)
    style.show(axes[1], canvas)
    step = (canvas.shape[0] + 1) / 3
    for k, text in enumerate(("original", "shown", "mean")):
        axes[1].text(-2, (k + 0.5) * step, text, ha="right", va="center")
    style.letters(axes)
    counts = ", ".join(f"{n} of radius {r:g}" for r, n in zip(radius, dataset["slope_n"].values[:, 0], strict=True))
    caption = (
        "a: slope of the posterior predictive mean against the original intensities of pixels inside (hidden) and outside "
        f"(shown) the mask; mean over {SUBSETS} disjoint subsets of images, 95% interval (t). b: originals, "
        "what was shown (hidden "
        f"pixels grey), posterior predictive means, on one grey scale. n = {counts} images."
    )
    return style.Picture(figure, caption)
