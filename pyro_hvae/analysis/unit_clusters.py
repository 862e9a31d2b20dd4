"""Kinds of units, whatever their orientation: clusters of aligned tuning, found again or not (physiology files)."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from pyro_hvae.analysis import style
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.unit_responses import LayerResponses, layers, stimuli
from pyro_hvae.errors import HVAEError

MOST = 8  # clusters tried
COMPONENTS = 8  # principal components of the aligned tuning, at most
REPEATS = 10
SUBSET = 0.8  # of the units, in each repeat
FEWEST = 15  # units for a layer to be clustered
OWN_SERIES = ("contrast", "size", "plaid")


def unit_clusters(tree: xr.DataTree) -> xr.Dataset:
    """Units clustered by their tuning after each has been turned to one orientation (Ustyuzhaninov 2022).

    Features of a unit: its responses over orientation and frequency of full-field gratings, shifted along orientation so that
    the preferred one comes first and divided by the peak; its contrast, size and plaid responses where they were measured, each
    over its largest; F1/F0. Each block has the same weight. On their first principal components a Gaussian mixture of
    scikit-learn is fitted with 1 to 8 components; the Bayesian information criterion chooses. Ten repeats fit that number to
    random 80% of the units and label all.

    Quantities, by layer: ``clusters`` (its interval: the 2.5 and 97.5% percentiles of the number that the criterion chooses in
    the repeats), ``stability``, mean adjusted Rand index of pairs of repeats (1: the same clusters; 0: by chance),
    with the 95% percentiles over pairs. Per layer ``zl_cluster (zl_unit)``, -1 where a unit does not respond,
    ``zl_confusion (cluster, cluster)``: where units of a cluster go in the repeats. Layers of fewer than 15
    responsive units are named and left out.

    :raises HVAEError: where no layer has enough units.
    """
    notes: list[str] = []
    kept: dict[str, LayerResponses] = {}
    for site, layer in layers(tree, notes).items():
        if (n := int(layer.responsive.sum())) < FEWEST:
            notes.append(f"{site}: {n} units respond, too few to be clustered (fewer than {FEWEST})")
        else:
            kept[site] = layer
    if not kept:
        raise HVAEError("no layer has enough responsive units to be clustered: " + "; ".join(notes))
    variables: dict[str, xr.Variable] = {}
    number, numbers, stability, pairs, counts = [], [], [], [], []
    for site, layer in kept.items():
        surfaces, features = _features(layer)
        reduced = _reduced(features)
        k, labels = _best(reduced, 0)
        again, chosen = [], []
        rng = np.random.default_rng(0)
        for repeat in range(REPEATS):
            subset = rng.permutation(len(reduced))[: round(SUBSET * len(reduced))]
            chosen.append(_best(reduced[subset], repeat + 1)[0])
            again.append(_fit(reduced[subset], k, repeat + 1).predict(reduced))
        agree = [adjusted_rand_score(a, b) for i, a in enumerate(again) for b in again[:i]]
        number.append(k)
        numbers.append(np.percentile(chosen, [2.5, 97.5]))
        stability.append(np.mean(agree))
        pairs.append(np.percentile(agree, [2.5, 97.5]))
        counts.append(len(reduced))
        full = np.full(layer.responsive.size, -1)
        full[layer.responsive] = labels
        variables[f"{site}_cluster"] = xr.Variable(f"{site}_unit", full)
        middle = np.stack([surfaces[labels == c].mean(0) for c in range(k)])
        variables[f"{site}_surface"] = xr.Variable((f"{site}_kind", "shift", "shown_frequency"), middle)
        variables[f"{site}_size"] = xr.Variable(f"{site}_kind", np.bincount(labels, minlength=k))
        both = (f"{site}_kind", f"{site}_kind_bis")
        variables[f"{site}_confusion"] = xr.Variable(both, _confusion(labels, again, k))
    variables |= quantity(
        "clusters", ["layer"], number, title="clusters of units", unit="1", interval=numbers, n=counts
    )
    variables |= quantity("stability", ["layer"], stability, title="adjusted Rand index between repeats", unit="1",
                          interval=pairs, n=counts)  # fmt: skip
    orientation = stimuli(tree, "gratings")["orientation"].values
    coordinates = {
        "layer": list(kept),
        "shift": (orientation + 90) % 180 - 90,
        "shown_frequency": stimuli(tree, "gratings")["frequency"].values,
    }
    return result(tree, "unit_clusters", variables, coordinates, notes).assign_attrs(
        response=str(tree.attrs["response"])
    )


def _features(layer: LayerResponses) -> tuple[np.ndarray, np.ndarray]:
    """Aligned surfaces ``(unit, orientation, frequency)`` of responsive units over their peak, and all features."""
    surfaces = aligned(layer.gratings[layer.responsive], layer.orientation.preferred[layer.responsive])
    surfaces = surfaces / np.maximum(surfaces.max((1, 2), keepdims=True), 1e-300)
    blocks = [surfaces.reshape(len(surfaces), -1), np.nan_to_num(layer.modulation[layer.responsive, None])]
    for name in OWN_SERIES:
        if name in layer.tree.children:
            curves = layer.curves(name)[layer.responsive].reshape(len(surfaces), -1)
            blocks.append(curves / np.maximum(curves.max(1, keepdims=True), 1e-300))
    # Equal weights: each block as a whole has the same variance over units, or none where units do not differ in it.
    weighed = []
    for block in blocks:
        spread = np.sqrt(((block - block.mean(0)) ** 2).sum(1).mean())
        weighed.append((block - block.mean(0)) / spread if spread > 1e-6 else 0 * block)
    return surfaces, np.concatenate(weighed, 1)


def aligned(surfaces: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """Responses ``(unit, orientation, frequency)`` shifted along orientation, evenly round 180 degrees, by the preferred one
    in degrees, between samples by their Fourier series."""
    n = surfaces.shape[1]
    order = np.arange(n // 2 + 1)
    turn = np.exp(2j * np.pi * order * preferred[:, None] / 180)
    return np.fft.irfft(np.fft.rfft(surfaces, axis=1) * turn[:, :, None], n, axis=1)


def _reduced(features: np.ndarray) -> np.ndarray:
    components = min(COMPONENTS, len(features) // 5, features.shape[1])
    return PCA(components, random_state=0).fit_transform(features)


def _fit(x: np.ndarray, k: int, seed: int) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a start that has not converged; the best of three is kept
        return GaussianMixture(k, covariance_type="diag", n_init=3, reg_covar=1e-4, random_state=seed).fit(x)


def _best(x: np.ndarray, seed: int) -> tuple[int, np.ndarray]:
    """The number of clusters of least Bayesian information criterion, and labels."""
    fits = [_fit(x, k, seed) for k in range(1, min(MOST, len(x) // 5) + 1)]
    chosen = min(fits, key=lambda fit: fit.bic(x))
    labels = chosen.predict(x)
    kinds, labels = np.unique(labels, return_inverse=True)  # without the empty ones
    return len(kinds), labels


def _confusion(labels: np.ndarray, again: list[np.ndarray], k: int) -> np.ndarray:
    """Share of the units of each cluster that a repeat puts with those of another, after the best match of names."""
    total = np.zeros((k, k))
    for other in again:
        table = np.zeros((k, k))
        np.add.at(table, (labels, other), 1)
        total += table[:, linear_sum_assignment(-table)[1]]
    return total / total.sum(1, keepdims=True)


@style.styled
def plot_unit_clusters(dataset: xr.Dataset) -> style.Picture:
    """Mean aligned tuning of every cluster, and the confusion between repeats."""
    sites = [str(site) for site in dataset["layer"].values]
    figure = style.figure(style.FULL, 1.5 * len(sites) + 0.2)
    axes = figure.subplots(len(sites), MOST + 1, squeeze=False)
    order = np.argsort(dataset["shift"].values)
    for row, site in zip(axes, sites, strict=True):
        surfaces, sizes = dataset[f"{site}_surface"].values, dataset[f"{site}_size"].values
        for axis, surface, size in zip(row, surfaces, sizes, strict=False):
            axis.imshow(surface[order].T, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="viridis")
            axis.set_title(f"n = {size}")
            axis.set(xticks=[len(order) // 2], xticklabels=["0°"], yticks=[])
        for axis in row[len(surfaces) : -1]:
            axis.set_axis_off()
        row[0].set(ylabel=f"{site}: frequency →", xlabel="from preferred")
        row[-1].imshow(dataset[f"{site}_confusion"].values, vmin=0, vmax=1, cmap="Greys")
        row[-1].set(xticks=[], yticks=[], xlabel="repeat", ylabel="cluster")
    parts = []
    for site in sites:
        here = dataset.sel(layer=site)
        low, high = here["stability_interval"].values
        parts.append(
            f"{site}: {here['clusters'].item():.0f} clusters of {int(here['clusters_n'])} units, adjusted Rand index "
            f"{here['stability'].item():.2f} [{low:.2f}, {high:.2f}]"
        )
    caption = (
        "Mean tuning over orientation (from the preferred one) and frequency of the units of each cluster; on the right, where "
        f"the units of a cluster go when random 80% of the units are clustered again. {'; '.join(parts)}."
    )
    return style.Picture(figure, caption)
