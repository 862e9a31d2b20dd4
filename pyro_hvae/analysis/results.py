"""The form in which analyses hand on their numbers: quantities with uncertainty, count and unit, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.errors import HVAEError

#: Root attributes of the posterior file that every result carries on, those that it has.
PROVENANCE = (
    "file", "preset", "model", "guide", "objective", "particles", "seed", "git_revision", "created", "texture_intensity",
    "texture_whitening",
)  # fmt: skip


def result(
    tree: xr.DataTree, analysis: str, variables: dict[str, Any], coords: dict[str, Any], notes: Sequence[str]
) -> xr.Dataset:
    """Dataset of one analysis with the attributes of the file it came from and the notes a reader must see."""
    attrs = {"analysis": analysis} | {name: tree.attrs[name] for name in PROVENANCE if name in tree.attrs}
    return xr.Dataset(variables, coords, attrs | {"notes": "\n".join(notes)})


def quantity(
    name: str,
    dims: Sequence[str],
    value: Any,
    *,
    title: str,
    unit: str,
    n: Any,
    se: Any = None,
    interval: Any = None,
) -> dict[str, xr.Variable]:
    """Variables of one reported quantity: ``name``, ``name_n`` and ``name_se`` or ``name_interval (..., end)``.

    ``interval`` holds both ends of a 95% interval along its last axis. NaN stands for "not available".
    """
    if (se is None) == (interval is None):
        raise HVAEError(f"quantity {name}: give either se or interval")
    value = np.asarray(value, dtype=float)
    made = {
        name: xr.Variable(dims, value, {"long_name": title, "units": unit, "quantity": 1}),
        f"{name}_n": xr.Variable(dims, np.broadcast_to(np.asarray(n), value.shape).copy()),
    }
    if se is not None:
        made[f"{name}_se"] = xr.Variable(dims, np.broadcast_to(np.asarray(se, dtype=float), value.shape).copy())
    else:
        made[f"{name}_interval"] = xr.Variable((*dims, "end"), np.asarray(interval, dtype=float))
    return made


def entry_name(quantity: str, coordinates: Sequence[str]) -> str:
    """Name of one number of a quantity: ``kl[z1]``, ``bound[natural, elbo]``; the quantity alone where it is one number."""
    return f"{quantity}[{', '.join(coordinates)}]" if coordinates else quantity


def collect(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Every quantity of a result as JSON-ready objects; NaN becomes None.

    Each object holds ``analysis``, ``name`` (:func:`entry_name`), ``title``,
    ``value``, ``se`` or ``interval`` (95%), ``n`` and ``unit``.
    """
    found = []
    for name, variable in dataset.data_vars.items():
        if not variable.attrs.get("quantity"):
            continue
        for index in np.ndindex(variable.shape):
            at = dict(zip(variable.dims, index, strict=True))
            keys = [str(dataset[dim].values[i]) for dim, i in at.items()]
            entry: dict[str, Any] = {
                "analysis": dataset.attrs["analysis"],
                "name": entry_name(str(name), keys),
                "title": ", ".join([variable.attrs["long_name"], *keys]).replace("_", " "),
                "value": number(variable.values[index]),
                "n": int(dataset[f"{name}_n"].values[index]),
                "unit": variable.attrs["units"],
            }
            if f"{name}_se" in dataset:
                entry["se"] = number(dataset[f"{name}_se"].values[index])
            else:
                entry["interval"] = [number(bound) for bound in dataset[f"{name}_interval"].isel(at).values]
            found.append(entry)
    return found


def number(value: Any) -> float | int | None:
    """A Python number for JSON: integers stay integers, NaN and infinities become None."""
    value = float(value)
    if not np.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
