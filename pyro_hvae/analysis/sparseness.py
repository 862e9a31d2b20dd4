"""How sparse the responses of z1 are: over units for an image (population), over images for a unit (lifetime)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis import style
from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.reading import blocks, complete_images, image_sets, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.uncertainty import Z95, mean_and_se
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import label

INDICES = ("treves_rolls", "hoyer", "kurtosis")
#: What responses drawn independently from these distributions give, many of them.
REFERENCES = {
    "normal": {"treves_rolls": 1 - 2 / np.pi, "hoyer": 1 - np.sqrt(2 / np.pi), "kurtosis": 0.0},
    "laplace": {"treves_rolls": 0.5, "hoyer": 1 - np.sqrt(0.5), "kurtosis": 3.0},
}


def sparseness(tree: xr.DataTree) -> xr.Dataset:
    """Sparseness of the posterior means of the active z1 units.

    Treves-Rolls: ``(1 - (mean |r|)² / mean r²) / (1 - 1/n)`` (Vinje & Gallant 2000); Hoyer: ``(√n - |r|₁ / |r|₂) / (√n -
    1)`` (Hoyer 2004): both 0 where all responses are of one size and 1 where one of n differs from zero. Kurtosis: excess, of
    the signed responses; 0 for a normal and 3 for a Laplace distribution.

    Returns
    -------
    Dataset with ``population (set, index)`` (mean over images), ``lifetime (set, index)`` (mean over units), each
    with s.e.; per
    unit ``unit_lifetime (set, index, unit)``; and, where there are two texture families, ``family_selectivity``: mean over
    units of the share of variance that lies between families (omega squared, 0 on average where there is none),
    ``unit_selectivity (unit)``.

    Raises
    ------
    HVAEError
        Where fewer than two z1 units are active.
    """
    notes: list[str] = []
    units = np.flatnonzero(active_dimensions(tree)["z1_active"].values)
    if units.size < 2:
        raise HVAEError(f"sparseness needs two active z1 units, the file has {units.size}")
    usable = complete_images(tree, ["posterior_moments/z1_mean"], notes)
    sets = {name: members & usable for name, members in image_sets(tree).items() if (members & usable).any()}
    population, lifetime, per_unit = [], [], []
    for name, members in sets.items():
        images, sums = [], np.zeros((5, units.size))
        for block in blocks(members):
            r = selected(tree, "posterior_moments/z1_mean", block)[:, units]
            images.append(_indices(_powers(r, 1), units.size))
            sums += _powers(r, 0)
        population.append([mean_and_se(row[np.isfinite(row)]) for row in np.concatenate(images, 1)])
        count = int(members.sum())
        found = _indices(sums, count) if count > 1 else np.full((len(INDICES), units.size), np.nan)
        per_unit.append(found)
        lifetime.append([mean_and_se(row[np.isfinite(row)]) if count > 1 else (np.nan, np.nan) for row in found])
        if count < 2:
            notes.append(f"{name}: one image has no lifetime sparseness")
    variables: dict[str, xr.Variable] = {}
    images_n = [[int(members.sum())] * len(INDICES) for members in sets.values()]
    for key, table, n in (("population", population, images_n), ("lifetime", lifetime, units.size)):
        values, errors = (np.array(table, dtype=float)[..., k] for k in (0, 1))
        title = f"{key} sparseness of z1"
        variables |= quantity(key, ["set", "index"], values, title=title, unit="1", n=n, se=errors)
    variables["unit_lifetime"] = xr.Variable(("set", "index", "unit"), np.stack(per_unit))
    selectivity = _selectivity(tree, usable, units)
    if selectivity is None:
        notes.append("no selectivity for texture families: there are not two of them with two images each")
    else:
        mean, se = mean_and_se(selectivity)
        variables |= quantity(
            "family_selectivity", [], mean, title="variance of z1 means between texture families", unit="share",
            n=units.size, se=se,
        )  # fmt: skip
        variables["unit_selectivity"] = xr.Variable("unit", selectivity)
    coords = {"set": list(sets), "index": list(INDICES), "unit": units}
    return result(tree, "sparseness", variables, coords, notes)


def _powers(r: np.ndarray, axis: int) -> np.ndarray:
    """Sums along an axis of |r|, r, r², r³, r⁴."""
    return np.stack([np.abs(r).sum(axis), *((r**order).sum(axis) for order in range(1, 5))])


def _indices(sums: np.ndarray, n: int) -> np.ndarray:
    """Rows of :data:`INDICES` from summed powers of n responses; NaN where all are zero (or equal)."""
    magnitude, first, second, third, fourth = sums / n
    with np.errstate(invalid="ignore", divide="ignore"):
        treves_rolls = (1 - magnitude**2 / second) / (1 - 1 / n)
        hoyer = (np.sqrt(n) - np.sqrt(n) * magnitude / np.sqrt(second)) / (np.sqrt(n) - 1)
        m2 = second - first**2
        m4 = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
        kurtosis = np.where(m2 > 1e-12 * second, m4 / m2**2 - 3, np.nan)
    return np.stack([treves_rolls, hoyer, kurtosis])


def _selectivity(tree: xr.DataTree, usable: np.ndarray, units: np.ndarray) -> np.ndarray | None:
    """Omega squared of each unit over texture families (one-way analysis of variance)."""
    family = label(tree, "family")
    names = (
        []
        if family is None
        else [f for f in sorted({str(f) for f in family} - {""}) if (usable & (family == f)).sum() > 1]
    )
    if family is None or len(names) < 2:
        return None
    counts, means, within = [], [], np.zeros(units.size)
    for name in names:
        r = selected(tree, "posterior_moments/z1_mean", usable & (family == name))[:, units]
        counts.append(len(r))
        means.append(r.mean(0))
        within += ((r - means[-1]) ** 2).sum(0)
    weights = np.array(counts)[:, None]
    between = (weights * (np.stack(means) - (weights * means).sum(0) / weights.sum()) ** 2).sum(0)
    error = within / (weights.sum() - len(names))
    total = between + within + error
    return np.divide(between - (len(names) - 1) * error, total, out=np.zeros_like(total), where=total > 0)


@style.styled
def plot_sparseness(dataset: xr.Dataset) -> style.Picture:
    """Population and lifetime sparseness, one panel an index, between the values of normal and Laplace responses."""
    figure = style.figure(style.FULL, 2.2)
    axes = figure.subplots(1, len(INDICES) + 1)
    sets = [str(name) for name in dataset["set"].values]
    for axis, index in zip(axes, INDICES, strict=False):
        for place, key in enumerate(("population", "lifetime")):
            for k, name in enumerate(sets):
                at = dataset.sel(set=name, index=index)
                value, se = at[key].item(), at[f"{key}_se"].item()
                x = place + 0.25 * (k - (len(sets) - 1) / 2)
                colour = style.SET_COLOURS[name]
                label_ = name if place == 0 else None
                axis.errorbar(
                    x, value, None if np.isnan(se) else Z95 * se, fmt="o", ms=4, capsize=2, color=colour, label=label_
                )
        for kind, dash in (("normal", ":"), ("laplace", "--")):
            axis.axhline(REFERENCES[kind][index], color=style.GREY, lw=0.8, ls=dash, zorder=0)
        axis.set(xticks=[0, 1], xticklabels=["population", "lifetime"], xlim=(-0.5, 1.5))
        axis.set_ylabel(
            {"treves_rolls": "Treves-Rolls sparseness", "hoyer": "Hoyer sparseness"}.get(index, "excess kurtosis")
        )
    axes[0].legend()
    for name in sets:
        values = np.sort(dataset["unit_lifetime"].sel(set=name, index="treves_rolls").values)
        values = values[np.isfinite(values)]
        if values.size:
            share = np.arange(1, values.size + 1) / values.size
            axes[-1].step(values, share, where="post", color=style.SET_COLOURS[name])
    axes[-1].set(xlabel="lifetime sparseness\n(Treves-Rolls)", ylabel="cumulative share of units", ylim=(0, 1.02))
    style.letters(axes)
    n = ", ".join(
        f"{int(count)} {name}" for name, count in zip(sets, dataset["population_n"].values[:, 0], strict=True)
    )
    selectivity = (
        f" Share of the variance of z1 means between texture families: {dataset['family_selectivity'].item():.3f} ± "
        f"{dataset['family_selectivity_se'].item():.3f} (mean over units ± s.e.)."
        if "family_selectivity" in dataset
        else ""
    )
    caption = (
        f"Sparseness of the posterior means of {dataset.sizes['unit']} active z1 units. Population: over units, mean over "
        "images; lifetime: over images, mean over units; bars ± 1.96 s.e. Lines: independent normal (dotted) and Laplace "
        f"(dashed) responses.{selectivity} n = {n} images."
    )
    return style.Picture(figure, caption)
