"""Figure of :func:`~pyro_hvae.analysis.noise_correlations.noise_correlations`."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from pyro_hvae.analysis import style


@style.styled
def plot_noise_correlations(dataset: xr.Dataset) -> style.Picture:
    """Noise and signal matrices of a family, their correspondence over families, highest pairs."""
    if dataset.attrs["by_construction"]:
        figure = style.figure(style.COLUMN, 1.0)
        figure.text(0.5, 0.5, "zero noise correlation by construction", ha="center", va="center", fontsize=9)
        return style.Picture(figure, "No figure: " + dataset.attrs["notes"].splitlines()[0] + ".")
    names = [str(name) for name in dataset["noise_family"].values]
    if len(names) <= style.MANY:
        figure = style.figure(style.FULL, 4.4)
        axes = figure.subplots(2, 3)
    else:  # room for the labels of the matrix of families
        figure = style.figure(style.FULL, 5.4)
        axes = figure.subplots(2, 3, width_ratios=[1.7, 1, 1], height_ratios=[1, 1.6])
    here = dataset.isel(family=0)
    order = _order(here["signal"].values)
    for axis, name in ((axes[0, 0], "noise"), (axes[0, 1], "signal")):
        matrix = here[name].values[np.ix_(order, order)].copy()
        np.fill_diagonal(matrix, np.nan)
        top = max(float(np.nanquantile(np.abs(matrix), 0.99)), 1e-3)
        shown = axis.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
        axis.set(title=name, xlabel="z1 unit", ylabel="z1 unit", xticks=[], yticks=[])
        figure.colorbar(shown, ax=axis, label="correlation", shrink=0.8)
    i, j = np.triu_indices(len(order), 1)
    x, y = here["signal"].values[i, j], here["noise"].values[i, j]
    axes[0, 2].plot(x, y, ".", ms=1.5, alpha=0.3, color=style.BLUE, rasterized=True)
    axes[0, 2].set(xlabel="signal correlation", ylabel="noise correlation")
    shown = axes[1, 0].imshow(dataset["matrix"].values, cmap="cividis")
    axes[1, 0].set(xlabel="signal of", ylabel="noise of")
    style.label_matrix(axes[1, 0], names)
    figure.colorbar(shown, ax=axes[1, 0], label="correspondence", shrink=0.8)
    _points(axes[1, 1], dataset, "correspondence", "pairing", [style.BLUE, style.GREY, style.ORANGE])
    axes[1, 1].set_ylabel("correspondence")
    kinds = [str(kind) for kind in dataset["kind"].values]
    colours = [style.GREY if "chance" in kind else style.GREEN if "gabor" in kind else style.BLUE for kind in kinds]
    _points(axes[1, 2], dataset, "highest", "kind", colours)
    axes[1, 2].set(ylabel="mean of the highest |correlation|", ylim=(0, None))
    style.letters(axes.ravel())
    value, se = dataset["correspondence"].values, dataset["correspondence_se"].values
    p = dataset["p_value"].values
    within = f"within families {value[0]:.2f} ± {se[0]:.2f} (p = {p[0]:.3f})"
    across = "" if np.isnan(p[1]) else f", across families {value[1]:.2f} ± {se[1]:.2f} (difference p = {p[1]:.3f})"
    units = f"{order.size} {dataset.attrs['units']} z1 units"
    family = style.short([str(here["family"].item())], 60)[0]
    caption = (
        f"a: noise correlations (mean over images) and b: signal correlations of {units}, family {family}, units in the order "
        "of the first signal component. c: pairs of units. d: correlation over pairs of the noise correlations of one family "
        f"with the signal correlations of another, mean over {dataset.attrs['repeats']} half-samples of images and units. "
        f"e: {within}{across}, {dataset.attrs['permutations']} permutations; bars ± 1.96 s.e. f: mean of the 5 and 10 "
        "highest absolute noise correlations of an image: of all units, of independent ones (chance), and of Gabor-selected "
        f"ones, n = {int(dataset['highest_n'].values[0])} images. n = {dataset.attrs['images']} images in all."
    )
    return style.Picture(figure, caption)


def _order(matrix: np.ndarray) -> np.ndarray:
    return np.argsort(np.linalg.eigh(np.nan_to_num(matrix))[1][:, -1])


def _points(axis: Axes, dataset: xr.Dataset, name: str, dim: str, colours: list[str]) -> None:
    labels = [
        str(label).replace("_by_chance", ", chance").replace("_gabor_selected", ", Gabor")
        for label in dataset[dim].values
    ]
    for place, (value, se, colour) in enumerate(
        zip(dataset[name].values, dataset[f"{name}_se"].values, colours, strict=True)
    ):
        axis.errorbar(place, value, None if np.isnan(se) else 1.96 * se, fmt="o", ms=4, capsize=2, color=colour)
    axis.axhline(0, color=style.GREY, lw=0.6)
    axis.set(xticks=range(len(labels)), xlim=(-0.6, len(labels) - 0.4))
    if len(labels) > 3:
        axis.set_xticklabels(labels, rotation=90)
    else:
        axis.set_xticklabels([label.replace("difference", "differ-\nence") for label in labels])
