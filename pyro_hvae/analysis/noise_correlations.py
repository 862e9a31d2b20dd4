"""Noise and signal correlations of z1 and their correspondence (Csikor et al. 2022, Fig. 3d-g; Vas 2024)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from pyro_hvae.analysis.active_dimensions import active_dimensions
from pyro_hvae.analysis.gabor_fits import field_shapes
from pyro_hvae.analysis.posterior_correlations import (
    PosteriorCorrelations,
    posterior_correlations,
    significant,
    zero_by_construction,
)
from pyro_hvae.analysis.reading import complete_images, finite_array, image_sets, selected
from pyro_hvae.analysis.results import quantity, result
from pyro_hvae.analysis.strongest_pairs import strongest_pairs
from pyro_hvae.analysis.uncertainty import binomial_interval, mean_and_se
from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.posterior_file import label

LEAST_IMAGES = 10  # a family with fewer has no signal correlations worth the name
LEAST_UNITS = 5
PERMUTED = 150  # images a family in the permutation of families


def noise_correlations(
    tree: xr.DataTree, *, repeats: int = 5, set_size: int = 100, permutations: int = 500, seed: int = 0
) -> xr.Dataset:
    """Noise correlations of localized z1 units, and whether they follow the signal correlations of a texture family.

    Noise correlation: correlation coefficient of two units under the posterior of one image, z2 marginalised, averaged over
    the images of a family. Signal correlation: correlation over the images of a family of the posterior means. Their
    correspondence is the correlation over unit pairs of the two, within a family and across families. It is the mean
    over ``repeats`` random subsets, each half of the images of the smallest family from every family and half of the
    localized units (at most ``set_size``); the standard deviation over such half-samples is the s.e. of the whole.

    Parameters
    ----------
    permutations
        Of the units of the signal correlations (is there a correspondence?), and of the family of the noise correlations
        (is it specific to the family?).

    Returns
    -------
    Dataset with ``correspondence (pairing)`` (``within``, ``across``, ``difference``), ``p_value (test)``
    (``correspondence``, ``family_specific``), ``magnitude (set)`` (mean absolute coefficient), ``significant_share (set)``
    (share of coefficients that differ from zero at 5% by a t test; 0.05 where there are none), ``highest (kind)`` (mean over
    images of the 5 and 10 highest absolute coefficients, their level by chance, and of Gabor-selected pairs),
    ``consistency (count)`` (how far the highest pairs of one half of the images lie above all pairs in the other half,
    in standard deviations over pairs); matrices ``noise``, ``signal (family, unit, unit_bis)`` and ``matrix (noise_family,
    signal_family)``. Where a file has zero noise correlations by construction only ``magnitude`` is given.

    Raises
    ------
    HVAEError
        Where there are neither correlations nor draws, or fewer than 5 units.
    """
    if repeats < 2 or permutations < 1 or set_size < LEAST_UNITS:
        raise HVAEError(
            f"noise_correlations takes at least 2 repeats, 1 permutation and a set_size of {LEAST_UNITS}; "
            f"got {repeats}, {permutations} and {set_size}"
        )
    if reason := zero_by_construction(tree):
        return _zero(tree, reason)
    notes: list[str] = []
    source = posterior_correlations(tree)
    mask = complete_images(tree, ["posterior_moments/z1_mean"], notes)
    places, localized = _units(tree, source, notes)
    groups = _groups(tree, mask, notes)
    rng = np.random.default_rng(seed)
    means, images_used = _group_means(source, groups, places)
    signal = {name: np.corrcoef(_z1(tree, source, members, places).T) for name, members in groups.items()}
    variables, coords = _correspondence(tree, source, groups, places, repeats, set_size, permutations, rng, notes)
    variables |= _magnitudes(tree, source, mask, places, notes)
    variables |= strongest_pairs(tree, source, mask, places, rng, notes)
    families = list(groups)
    for name, matrices in (("noise", means), ("signal", signal)):
        stacked = np.stack([matrices[family] for family in families])
        variables[name] = xr.Variable(("family", "unit", "unit_bis"), stacked, {"units": "correlation coefficient"})
    coords |= {"family": families, "unit": source.units[places], "unit_bis": source.units[places]}
    dataset = result(tree, "noise_correlations", variables, coords, notes)
    which = "localized" if localized else "active"
    return dataset.assign_attrs(
        images=images_used, repeats=repeats, permutations=permutations, units=which, by_construction=0
    )


def _zero(tree: xr.DataTree, reason: str) -> xr.Dataset:
    sets = image_sets(tree)
    zero = np.zeros(len(sets))
    n = [int(mask.sum()) for mask in sets.values()]
    variables = quantity(
        "magnitude",
        ["set"],
        zero,
        title="mean absolute noise correlation",
        unit="1",
        n=n,
        interval=np.zeros((len(sets), 2)),
    )
    return result(tree, "noise_correlations", variables, {"set": list(sets)}, [reason]).assign_attrs(by_construction=1)


def _units(tree: xr.DataTree, source: PosteriorCorrelations, notes: list[str]) -> tuple[np.ndarray, bool]:
    """Places of the localized active units among those correlated; of all active ones, and False, where too few are."""
    active = np.flatnonzero(active_dimensions(tree)["z1_active"].values[source.units])
    if active.size < LEAST_UNITS:
        raise HVAEError(
            f"{active.size} of the {source.units.size} correlated z1 units are active, at least {LEAST_UNITS} are needed; "
            "export the correlations of other units"
        )
    shapes = field_shapes(finite_array(tree, "constant_data/A").T[source.units[active]])
    localized = active[shapes["localized"].values]
    if localized.size < LEAST_UNITS:
        notes.append(f"{localized.size} of the correlated units are localized: all {active.size} active ones are used")
        return active, False
    return localized, True


def _groups(tree: xr.DataTree, mask: np.ndarray, notes: list[str]) -> dict[str, np.ndarray]:
    """Indices of the images of every family, and of natural images, with enough of them."""
    family = label(tree, "family")
    family = np.full(mask.size, "") if family is None else family
    groups = {
        name or "natural": np.flatnonzero(mask & (family == name))
        for name in [*sorted({str(f) for f in family} - {""}), ""]
    }
    for name, members in groups.items():
        if 0 < members.size < LEAST_IMAGES:
            notes.append(f"{name}: {members.size} images are too few for signal correlations")
    large = {name: members for name, members in groups.items() if members.size >= LEAST_IMAGES}
    if not large:
        raise HVAEError(f"signal correlations need a family (or natural images) of at least {LEAST_IMAGES} images")
    return large


def _z1(tree: xr.DataTree, source: PosteriorCorrelations, images: np.ndarray, places: np.ndarray) -> np.ndarray:
    return selected(tree, "posterior_moments/z1_mean", np.sort(images))[:, source.units[places]]


def _group_means(source: PosteriorCorrelations, groups: dict[str, np.ndarray], places: np.ndarray) -> tuple[dict, int]:
    means = {}
    for name, members in groups.items():
        total, count = np.zeros((len(places), len(places))), 0
        for _, matrices in source.blocks(members, places):
            total += np.nan_to_num(matrices).sum(0)
            count += len(matrices)
        means[name] = total / count
    return means, sum(members.size for members in groups.values())


def _standard(values: np.ndarray) -> np.ndarray:
    """Rows of zero mean and unit norm; zero where a row does not vary."""
    values = values - values.mean(1, keepdims=True)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, norm, out=np.zeros_like(values), where=norm > 1e-12)


class _Sample(NamedTuple):
    """Noise and signal correlations of unit pairs, ``(family, pair)``."""

    noise: np.ndarray
    signal: np.ndarray

    def matrix(self) -> np.ndarray:
        """Correlation over pairs of the noise of one family (rows) with the signal of another."""
        return _standard(self.noise) @ _standard(self.signal).T


def _summary(matrix: np.ndarray) -> np.ndarray:
    """Within, across, difference."""
    count = len(matrix)
    within = np.trace(matrix) / count
    across = (matrix.sum() - np.trace(matrix)) / (count * (count - 1)) if count > 1 else np.nan
    return np.array([within, across, within - across])


def _sample(
    tree: xr.DataTree, source: PosteriorCorrelations, chosen: dict[str, np.ndarray], places: np.ndarray
) -> tuple[_Sample, list[np.ndarray]]:
    """Noise and signal correlations of each family, and the noise coefficients of each of its images."""
    r = [np.nan_to_num(source.pairs(members, places)) for members in chosen.values()]
    return _Sample(np.stack([part.mean(0) for part in r]).astype(float), _signal(tree, source, chosen, places)), r


def _signal(
    tree: xr.DataTree, source: PosteriorCorrelations, chosen: dict[str, np.ndarray], places: np.ndarray
) -> np.ndarray:
    i, j = np.triu_indices(len(places), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        signal = [np.nan_to_num(np.corrcoef(_z1(tree, source, m, places).T))[i, j] for m in chosen.values()]
    return np.stack(signal)


def _correspondence(
    tree: xr.DataTree,
    source: PosteriorCorrelations,
    groups: dict[str, np.ndarray],
    places: np.ndarray,
    repeats: int,
    set_size: int,
    permutations: int,
    rng: np.random.Generator,
    notes: list[str],
) -> tuple[dict[str, xr.Variable], dict[str, list[str]]]:
    compared = {name: members for name, members in groups.items() if name != "natural"} or groups
    names = list(compared)
    if len(names) < 2:
        notes.append(f"one set of images only ({names[0]}): no correspondence across families")
    half = min(members.size for members in compared.values()) // 2
    size = min(set_size, max(LEAST_UNITS, len(places) // 2))
    matrices = []
    for _ in range(repeats):
        chosen = {name: rng.choice(members, half, replace=False) for name, members in compared.items()}
        units = np.sort(rng.choice(places, size, replace=False))
        means = _group_means(source, chosen, units)[0]
        noise = np.stack([matrix[np.triu_indices(size, 1)] for matrix in means.values()])
        matrices.append(_Sample(noise, _signal(tree, source, chosen, units)).matrix())
    summaries = np.stack([_summary(matrix) for matrix in matrices])
    n = 2 * half * len(names)
    variables = quantity(
        "correspondence", ["pairing"], summaries.mean(0), title="correspondence of noise and signal correlations",
        unit="correlation over unit pairs", n=n, se=summaries.std(0, ddof=1),
    )  # fmt: skip
    variables["matrix"] = xr.Variable(("noise_family", "signal_family"), np.mean(matrices, 0))
    capped = {name: rng.choice(members, min(2 * half, PERMUTED), replace=False) for name, members in compared.items()}
    units = np.sort(rng.choice(places, min(len(places), set_size), replace=False))
    hits = _permuted(*_sample(tree, source, capped, units), len(units), permutations, rng)
    # A permutation test counts the data as one of the permutations (Phipson & Smyth 2010).
    found = [((hit + 1) / (permutations + 1), binomial_interval(hit, permutations)[1]) for hit in hits]
    values, intervals = zip(*found, strict=True)
    if len(names) < 2:
        values, intervals = (values[0], np.nan), (intervals[0], (np.nan, np.nan))
    variables |= quantity(
        "p_value", ["test"], values, title="permutation p value", unit="1", n=permutations, interval=list(intervals)
    )
    labels = {"pairing": ["within", "across", "difference"], "test": ["correspondence", "family_specific"]}
    return variables, labels | {"noise_family": names, "signal_family": names}


def _permuted(
    sample: _Sample, r: list[np.ndarray], units: int, permutations: int, rng: np.random.Generator
) -> tuple[int, int]:
    """How many permutations of units reach the correspondence within families, and of families its specificity."""
    i, j = np.triu_indices(units, 1)
    noise, signal = _standard(sample.noise), _standard(sample.signal)
    within, _, specific = _summary(noise @ signal.T)
    full = np.zeros((len(signal), units, units))
    full[:, i, j] = full[:, j, i] = signal
    by_units = 0
    for _ in range(permutations):
        order = rng.permutation(units)
        by_units += int((noise * full[:, order[i], order[j]]).sum(1).mean() >= within)
    if len(r) < 2:
        return by_units, 0
    every = np.concatenate(r)
    sizes = [len(part) for part in r]
    by_family = 0
    weights = np.repeat(np.eye(len(sizes), dtype=np.float32) / np.array(sizes, np.float32)[:, None], sizes, axis=1)
    for _ in range(permutations):
        shuffled = _standard((weights[:, rng.permutation(len(every))] @ every).astype(float))
        by_family += int(_summary(shuffled @ signal.T)[2] >= specific)
    return by_units, by_family


def _magnitudes(
    tree: xr.DataTree, source: PosteriorCorrelations, mask: np.ndarray, places: np.ndarray, notes: list[str]
) -> dict[str, xr.Variable]:
    sets = {
        name: np.flatnonzero(members & mask) for name, members in image_sets(tree).items() if (members & mask).any()
    }
    i, j = np.triu_indices(len(places), 1)
    found: dict[str, list] = {"magnitude": [], "significant_share": []}
    if source.draws is None:
        notes.append("the file does not say how many draws are behind a coefficient: significance is not tested")
    for members in sets.values():
        size, share = [], []
        for block, matrices in source.blocks(members, places):
            r = np.nan_to_num(matrices[:, i, j])
            size.append(np.abs(r).mean(1))
            if source.draws is not None:
                share.append(significant(source.standardised(r, block, places), source.draws).mean(1))
        found["magnitude"].append(mean_and_se(np.concatenate(size)))
        found["significant_share"].append(mean_and_se(np.concatenate(share)) if share else (np.nan, np.nan))
    n = [members.size for members in sets.values()]
    variables: dict[str, xr.Variable] = {}
    for name, title, unit in (
        ("magnitude", "mean absolute noise correlation", "1"),
        ("significant_share", "noise correlations that differ from zero at 5%", "share of unit pairs"),
    ):
        values, errors = zip(*found[name], strict=True)
        variables |= quantity(name, ["set"], values, title=title, unit=unit, n=n, se=errors)
    variables["set"] = xr.Variable("set", list(sets))
    return variables
