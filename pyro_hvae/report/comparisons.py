"""Several posterior files together: the bound against the number of particles, active dimensions against the size of z2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.uncertainty import Z95
from pyro_hvae.errors import HVAEError

MARKERS = "osD^v"


def bound_by_particles(results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Bound and its terms of several models against the number of particles k of their objective (Vas 2024).

    Parameters
    ----------
    results
        What :func:`~pyro_hvae.analysis.bound_terms` gave on each file.

    Returns
    -------
    Dataset over ``file``, ``set``, ``term``: ``bound``, ``bound_se``, ``bound_n`` (NaN and 0 where a file lacks a
    set or layer);
    ``particles (file)``, ``label (file)`` (preset, guide, objective).

    Raises
    ------
    HVAEError
        Where there are not two numbers of particles among the files.
    """
    particles = [int(dataset.attrs.get("particles") or 1) for dataset in results]
    if len(set(particles)) < 2:
        raise HVAEError(f"the files have one number of particles ({sorted(set(particles))}): nothing to set against it")
    joined = xr.concat([dataset[["bound", "bound_se"]] for dataset in results], "file", join="outer")
    counts = xr.concat([dataset["bound_n"] for dataset in results], "file", join="outer", fill_value=0)
    joined["bound_n"] = counts.astype(int)
    joined["particles"] = xr.Variable("file", particles)
    joined["label"] = xr.Variable("file", [_label(dataset) for dataset in results])
    order = sorted(map(str, joined["term"].values), key=lambda term: (term not in ("elbo", "reconstruction"), term))
    joined = joined.sel(term=order, set=sorted(map(str, joined["set"].values)))
    return joined.assign_attrs(analysis="bound_by_particles", notes="").isel(file=np.argsort(particles, kind="stable"))


def active_by_size(results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Active dimensions of every layer against the number of z2 dimensions, over a sweep (Csikor et al. 2022, Fig. 2f, g).

    Parameters
    ----------
    results
        What :func:`~pyro_hvae.analysis.active_dimensions` gave on each file.

    Returns
    -------
    Dataset over ``file``: ``size`` (dimensions of z2), ``label`` (model and guide), ``z1``, ``z2`` and ``sum``
    (active dimensions),
    ``z1_interval``, ``z2_interval (file, end)``. Files without z2 have size 0.

    Raises
    ------
    HVAEError
        Where there are not two sizes of z2 among the files.
    """
    sizes = [int(dataset.sizes.get("z2_dim", 0)) for dataset in results]
    if len({size for size in sizes if size}) < 2:
        raise HVAEError(f"the files have one size of z2 ({sorted(set(sizes))}): a sweep has several")
    rows: dict[str, list] = {name: [] for name in ("z1", "z2", "z1_interval", "z2_interval")}
    for dataset in results:
        for site in ("z1", "z2"):
            known = site in dataset["site"].values
            rows[site].append(float(dataset["count"].sel(site=site)) if known else 0.0)
            bounds = dataset["count_interval"].sel(site=site).values if known else np.zeros(2)
            rows[f"{site}_interval"].append(bounds)
    variables: dict[str, tuple] = {
        name: (("file", "end")[: np.ndim(values)], np.array(values)) for name, values in rows.items()
    }
    variables["sum"] = ("file", np.array(rows["z1"]) + np.array(rows["z2"]))
    variables["size"] = ("file", np.array(sizes))
    labels = [_label(dataset, ("model", "guide")) for dataset in results]
    made = xr.Dataset(variables).assign(label=("file", labels))
    return made.assign_attrs(analysis="active_by_size", notes="").isel(file=np.argsort(sizes, kind="stable"))


def _label(dataset: xr.Dataset, names: tuple[str, ...] = ("preset", "guide")) -> str:
    return ", ".join(str(dataset.attrs[name]) for name in names if dataset.attrs.get(name)) or "model"


@style.styled
def plot_bound_by_particles(dataset: xr.Dataset) -> style.Picture:
    """A panel a term; sets by colour, kinds of model by marker."""
    terms = [str(term) for term in dataset["term"].values]
    labels = list(dict.fromkeys(map(str, dataset["label"].values)))
    figure = style.figure(style.FULL, 2.3 + 0.08 * len(labels))
    axes = figure.subplots(1, len(terms), squeeze=False)[0]
    for axis, term in zip(axes, terms, strict=True):
        for name in map(str, dataset["set"].values):
            for label, marker in zip(labels, MARKERS * len(labels), strict=False):
                at = dataset.isel(file=np.flatnonzero(dataset["label"].values == label)).sel(set=name, term=term)
                axis.errorbar(
                    at["particles"].values, at["bound"].values, Z95 * np.nan_to_num(at["bound_se"].values),
                    fmt=f"{marker}-", ms=3.5, lw=0.8, capsize=2, color=style.SET_COLOURS[name],
                    label=f"{label}, {name}",
                )  # fmt: skip
        axis.set_xscale("log")
        ticks = np.unique(dataset["particles"].values)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        title = {"elbo": "ELBO", "reconstruction": "E[log p(x|z)]"}.get(term, f"KL of {term.removesuffix('_kl')}")
        axis.set(xlabel="particles k in training", title=title)
        axis.margins(0.15)
    axes[0].set_ylabel("nats per image")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    style.letters(axes)
    n = int(dataset["bound_n"].values.max())
    caption = (
        "Single-sample bound and its terms, un-annealed, against the number of particles of the training objective. Points: "
        f"mean over images; bars ± 1.96 s.e. n = {dataset.sizes['file']} models, up to {n} images each."
    )
    return style.Picture(figure, caption)


@style.styled
def plot_active_by_size(dataset: xr.Dataset) -> style.Picture:
    """Active z2, active z1, and their sum against the dimensions of z2: a point a model, a line a kind of model."""
    figure = style.figure(style.FULL, 2.4)
    axes = figure.subplots(1, 3)
    colours = [style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY, style.RED]
    labels = list(dict.fromkeys(map(str, dataset["label"].values)))
    largest = float(dataset["size"].max())
    axes[0].plot([0, largest], [0, largest], color=style.GREY, lw=0.8, ls=":")
    for axis, name in zip(axes, ("z2", "z1", "sum"), strict=True):
        highest = float(dataset[name].max())
        for k, label in enumerate(labels):
            at = dataset.isel(file=np.flatnonzero(dataset["label"].values == label))
            colour, marker = colours[k % len(colours)], MARKERS[k % len(MARKERS)]
            means = at[name].groupby(at["size"]).mean()
            axis.plot(means["size"].values, means.values, "-", color=colour, lw=1.0)
            # Not clipped: markers at zero dimensions, or none active, stand on the axes.
            points = dict(ms=3.5, mew=0.5, mec="white", color=colour, clip_on=False, zorder=3, label=label)
            axis.plot(at["size"].values, at[name].values, marker, **points)
            if name != "sum":
                low, high = at[f"{name}_interval"].values.T
                axis.vlines(at["size"].values, low, high, color=colour, lw=1.0)
                highest = max(highest, high.max())
        axis.set(xlim=(0, 1.05 * largest), ylim=(0, 1.1 * max(highest, 1.0)), xlabel="dimensions of z2")
        text = {"z2": "active z2", "z1": "active z1", "sum": "active z1 + z2"}[name]
        axis.set_ylabel(f"{text} dimensions")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    style.letters(axes)
    caption = (
        "Active dimensions against the number of z2 dimensions. a: z2 (dotted: all active), b: z1, c: their "
        "sum. Points: models (of several seeds, where they share a size); lines: their means; bars: counts with "
        f"the threshold half a decade higher and lower. n = {dataset.sizes['file']} models."
    )
    return style.Picture(figure, caption)
