"""The history of a training run: rows of numbers, and the dataset that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr


def to_dataset(
    rows: Sequence[Mapping[str, float]], evaluations: Sequence[Mapping[str, float]], attributes: Mapping[str, float]
) -> xr.Dataset:
    """Rows by ``step`` and evaluations by ``evaluation``."""
    variables: dict[str, Any] = {}
    for dim, recorded in (("step", rows), ("evaluation", evaluations)):
        for name in recorded[0] if recorded else ():
            kind = np.int64 if name in ("step", "evaluation", "clipped", "skipped") else np.float64
            variables[name] = (dim, np.array([r[name] for r in recorded], kind), _attributes(name))
    coordinates = {name: variables.pop(name) for name in ("step", "evaluation") if name in variables}
    return xr.Dataset(variables, coordinates, attributes)


def in_nats(terms: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Terms under their names in the history: log p(x|z) is ``reconstruction``, log p - log q of a site minus its KL."""
    named = {}
    for name, value in terms.items():
        if name == "x":
            named[f"{prefix}reconstruction"] = value
        elif name in ("bound", "elbo", "grad_norm", "test_elbo"):
            named[name] = value
        else:
            named[f"{prefix}kl_{name}"] = -value
    return named


def _attributes(name: str) -> dict[str, str]:
    if name == "seconds":
        return {"units": "s"}
    nats = name in ("bound", "elbo") or "kl_" in name or "reconstruction" in name or name == "test_elbo"
    return {"units": "nats/image"} if nats else {}


def records(history: xr.Dataset, dim: str) -> list[dict[str, float]]:
    """Rows along ``dim`` of a dataset that :func:`to_dataset` made."""
    if dim not in history.coords:
        return []
    names = [dim, *(str(n) for n in history.data_vars if history[n].dims == (dim,))]
    columns = [history[n].values.tolist() for n in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
