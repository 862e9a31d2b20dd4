"""The posterior of the top layer, taken over all images, against its prior (Vas 2024)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import integrate, special, stats

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.reading import blocks, complete_images, natural_images, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import median_and_interval
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import sites

GRID = np.linspace(-6, 6, 241)
SHOWN = 8


def aggregate_posterior(tree: xr.DataTree) -> xr.Dataset:
    """Posterior of each dimension of the top layer, averaged over images, against the prior Normal(0, 1).

    In a model that describes its images the two are the same. The posterior of an image is taken as normal with its
    mean and variance; their mixture over images has a density in closed form.

    Returns
    -------
    Dataset with, as medians over active dimensions (all, where none is active): ``divergence`` (KL[aggregate||prior], nats) and
    ``sd`` (standard deviation, 1 under the prior); per dimension ``dim_divergence``, ``dim_mean``, ``dim_sd``, ``active``,
    ``density (dim, value)``. Natural images where there are any.

    Raises
    ------
    HVAEError
        Where there is one layer only, whose prior is not Normal(0, 1).
    """
    names = sites(tree)
    if len(names) < 2:
        raise HVAEError(
            "the aggregate posterior is that of z2 and above, whose prior is Normal(0, 1); the file has z1 only"
        )
    top = names[-1]
    notes: list[str] = []
    paths = [f"posterior_moments/{top}_{moment}" for moment in ("mean", "variance")]
    mask, used = natural_images(tree, complete_images(tree, paths, notes))
    active = active_dimensions(tree)[f"{top}_active"].values
    n, dims = int(mask.sum()), active.size
    density, first, second = np.zeros((dims, GRID.size)), np.zeros(dims), np.zeros(dims)
    for block in blocks(mask, max(1, 2**22 // (dims * GRID.size))):
        mean, variance = (selected(tree, path, block)[:, :, None] for path in paths)
        density += stats.norm.pdf(GRID, mean, np.sqrt(np.maximum(variance, 1e-6))).sum(0) / n
        first += mean.sum((0, 2)) / n
        second += (mean**2 + variance).sum((0, 2)) / n
    terms = special.rel_entr(density, stats.norm.pdf(GRID))
    divergence = integrate.trapezoid(terms, GRID, axis=1)
    sd = np.sqrt(np.maximum(second - first**2, 0))
    counted = active if active.any() else np.ones(dims, bool)
    if not active.any():
        notes.append(f"{top}: no active dimension; all are counted")
    variables: dict[str, xr.Variable] = {}
    for name, values, title, unit in (
        ("divergence", divergence, f"KL of the aggregate posterior of {top} from its prior", "nats per dimension"),
        ("sd", sd, f"s.d. of the aggregate posterior of {top}", "prior s.d."),
    ):
        median, interval = median_and_interval(values[counted])
        count = int(counted.sum())
        variables |= quantity(name, [], median, title=title, unit=unit, n=count, interval=interval)
    variables |= {
        "dim_divergence": xr.Variable("dim", divergence),
        "dim_mean": xr.Variable("dim", first),
        "dim_sd": xr.Variable("dim", sd),
        "active": xr.Variable("dim", active),
        "density": xr.Variable(("dim", "value"), density),
    }
    dataset = result(tree, "aggregate_posterior", variables, {"value": GRID}, notes)
    return dataset.assign_attrs(images=n, image_set=used, site=top)


@style.styled
def plot_aggregate_posterior(dataset: xr.Dataset) -> style.Picture:
    """Densities of the dimensions that lie farthest from the prior, and all dimensions' means and s.d."""
    figure = style.figure(style.FULL, 2.9)
    axes = figure.subplots(2, 5)
    active = dataset["active"].values
    order = np.flatnonzero(active) if active.any() else np.arange(active.size)
    order = order[np.argsort(-dataset["dim_divergence"].values[order])][:SHOWN]
    flat = axes[:, :4].ravel()
    for axis in flat[len(order) :]:
        axis.set_axis_off()
    top = 1.1 * max(float(dataset["density"].values[order].max()), stats.norm.pdf(0.0))
    for axis, dim in zip(flat, order, strict=False):
        axis.fill_between(GRID, dataset["density"].values[dim], color=style.BLUE, alpha=0.5, lw=0)
        axis.plot(GRID, stats.norm.pdf(GRID), color="black", lw=0.8, ls="--")
        axis.set(title=f"[{dim}]", xlim=(-4, 4), ylim=(0, top))
    site = dataset.attrs["site"]
    for axis in axes[1, :4]:
        axis.set_xlabel(f"value of {site}")
    for axis in axes[:, 0]:
        axis.set_ylabel("density")
    for row, name, prior in ((0, "dim_mean", 0.0), (1, "dim_sd", 1.0)):
        values = dataset[name].values
        for chosen, colour in ((active, style.BLUE), (~active, style.ORANGE)):
            axes[row, 4].plot(np.flatnonzero(chosen), values[chosen], "o", ms=2.5, mec="none", color=colour)
        axes[row, 4].axhline(prior, color="black", lw=0.8, ls="--")
        axes[row, 4].set(xlabel=f"{site} dimension", ylabel="mean" if row == 0 else "s.d.")
    caption = (
        f"Posterior of {site} over all images (filled) against its prior (dashed): the {len(order)} "
        f"{'active ' if active.any() else ''}dimensions that lie farthest from it. Right: mean and s.d. of "
        "every dimension (blue: "
        f"active, orange: collapsed). Median divergence {dataset['divergence'].item():.3g} nats per dimension. "
        f"n = {dataset.attrs['images']} images ({dataset.attrs['image_set']})."
    )
    return style.Picture(figure, caption)
