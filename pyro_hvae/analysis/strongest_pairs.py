"""The pairs of z1 units with the highest noise correlations, and whether other images have them too (Vas 2024)."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_hvae.analysis.gabor_fits import field_shapes
from pyro_hvae.analysis.posterior_correlations import PosteriorCorrelations, null_coefficients
from pyro_hvae.analysis.reading import finite_array, natural_images
from pyro_hvae.analysis.results import quantity
from pyro_hvae.analysis.uncertainty import mean_and_se

COUNTS = (5, 10)  # pairs that count as the strongest
EXAMINED = 500  # images that choose the strongest pairs, and as many again on which their consistency is tested


def strongest_pairs(
    tree: xr.DataTree,
    source: PosteriorCorrelations,
    mask: np.ndarray,
    places: np.ndarray,
    rng: np.random.Generator,
    notes: list[str],
) -> dict[str, xr.Variable]:
    """Mean of the highest absolute coefficients of an image, their level by chance, and how consistent their pairs are."""
    examined = np.flatnonzero(natural_images(tree, mask)[0])
    examined = np.sort(rng.permutation(examined)[: 2 * EXAMINED])
    r = np.abs(np.nan_to_num(source.pairs(examined, places))).astype(float)
    shapes = field_shapes(finite_array(tree, "constant_data/A").T[source.units[places]])
    selection = shapes["selected"].values
    i, j = np.triu_indices(len(places), 1)
    paired = selection[i] & selection[j]
    rows: dict[str, tuple[float, float]] = {}
    for count in COUNTS:
        rows[f"{count}"] = _top(r, count)
    if source.draws is not None:
        share = source.shared(examined, places)
        null = np.abs(null_coefficients(r.shape, source.draws, rng)) * np.sqrt(share[:, i] * share[:, j])
        rows |= {f"{count}_by_chance": _top(null, count) for count in COUNTS}
    if paired.sum() >= 2 * max(COUNTS):
        rows |= {f"{count}_gabor_selected": _top(r[:, paired], count) for count in COUNTS}
    else:
        notes.append(f"{int(selection.sum())} of the units are Gabor-selected: too few for their highest pairs")
    values, errors = zip(*rows.values(), strict=True)
    variables = quantity(
        "highest",
        ["kind"],
        values,
        title="mean of the highest absolute noise correlations",
        unit="1",
        n=len(r),
        se=errors,
    )
    variables["kind"] = xr.Variable("kind", list(rows))
    values, errors = zip(*(consistency(r, count) for count in COUNTS), strict=True)
    variables |= quantity(
        "consistency", ["count"], values, title="consistency of the highest pairs", unit="s.d. over pairs",
        n=len(r) - len(r) // 2, se=errors,
    )  # fmt: skip
    variables["count"] = xr.Variable("count", list(COUNTS))
    return variables


def _top(r: np.ndarray, count: int) -> tuple[float, float]:
    count = min(count, r.shape[1])
    mean, se = mean_and_se(np.partition(r, r.shape[1] - count, axis=1)[:, -count:].mean(1))
    return float(mean), float(se)


def consistency(r: np.ndarray, count: int) -> tuple[float, float]:
    """Pairs highest on average in every other image, in the images between: distance from all pairs in s.d."""
    if len(r) < 4:
        return np.nan, np.nan
    chosen = np.argsort(r[::2].mean(0))[-count:]
    other = r[1::2]
    sd = other.std(1)
    distance = (other[:, chosen].mean(1) - other.mean(1))[sd > 0] / sd[sd > 0]
    mean, se = mean_and_se(distance) if distance.size else (np.nan, np.nan)
    return float(mean), float(se)
