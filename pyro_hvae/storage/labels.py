"""Labels of images as files keep them: numbers, truth values and texts along ``image``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xarray as xr

from pyro_hvae.errors import HVAEError

TEXTS = ("family", "split", "source")  # numbers there become texts: analyses ask which are ""
_NAME = re.compile(r"[A-Za-z_][\w.+@-]*")
# Variables and dims of the posterior file's constant_data, of which a label cannot have the name.
_TAKEN = re.compile(
    r"A|c|sigma|x|mask|original|image|pixel|sample|chain|draw|half|unit|unit_bis|yardstick|z\d+_(dim|field)|"
    r"z\d+_to_z\d+_\w+|z1_receptive_field|transform_.*"
)


def storable(dataset: xr.Dataset, *, where: str = "the images", taken: bool = False) -> xr.Dataset:
    """The same dataset with its labels (coordinates along ``image``) as files keep them: a missing text is ``""``.

    :param taken: also refuse names that the posterior file has for something else.
    :raises HVAEError: for names and types that cannot be kept, with what to do.
    """
    found: dict[str, Any] = {}
    for name, label in dataset.coords.items():
        if label.dims != ("image",) or name == "image":
            continue
        if not isinstance(name, str) or not _NAME.fullmatch(name) or (taken and _TAKEN.fullmatch(name)):
            reason = "is the name of something else there" if isinstance(name, str) and _TAKEN.fullmatch(name) else ""
            raise HVAEError(
                f"{where} have a label {name!r}, which cannot stand in a file"
                f"{': it ' + reason if reason else ': names are letters, digits and _'}; rename it, "
                f"images.rename({{{name!r}: {f'{name}_label' if reason else 'label'!r}}}) say"
            )
        values = label.values
        kept = _kept(values, f"the label {name!r} of {where}")
        if name in TEXTS and kept.dtype.kind != "U":
            kept = np.array(["" if value != value else f"{value:g}" for value in kept.tolist()], dtype=str)
        if kept is not values:
            found[name] = ("image", kept, label.attrs)
    return dataset.assign_coords(found) if found else dataset


def _kept(values: np.ndarray, what: str) -> np.ndarray:
    kind = values.dtype.kind
    if (
        kind == "b"
        or (kind in "iu" and values.dtype.isnative)
        or (kind == "f" and values.dtype in (np.float32, np.float64))
    ):
        return values
    if kind in "iuf":
        narrow = "f4" if values.itemsize <= 4 else "f8"
        return values.astype(narrow if kind == "f" else f"{kind}{values.itemsize}")
    if kind == "U":
        codes = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("=")).view(np.uint32)
        if ((codes >= 0xD800) & (codes <= 0xDFFF)).any():
            raise HVAEError(f"{what} holds texts that are no Unicode (lone surrogates); replace them")
        return values
    if kind in "OT":
        return _of_objects(list(values), what)
    mend = {"M": "images[name].astype(str)", "m": "a number of seconds", "S": "numpy.char.decode(values)"}.get(
        kind, "numbers"
    )
    raise HVAEError(f"{what} is of type {values.dtype}, which a file does not keep; give texts or numbers, {mend} say")


def _of_objects(values: list[Any], what: str) -> np.ndarray:
    """Objects of one kind, with None and NaN for what is missing."""
    there = [v for v in values if not _missing(v)]
    if all(isinstance(v, str) for v in there):
        texts = np.array(["" if _missing(v) else v for v in values], dtype=str)
        return _kept(texts, what) if len(texts) else texts
    complete = len(there) == len(values)
    if all(isinstance(v, (bool, np.bool_)) for v in there) and complete:
        return np.array(values, bool)
    if all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in there) and complete:
        try:
            return np.array([int(v) for v in values], np.int64)
        except OverflowError:
            raise HVAEError(f"{what} holds numbers beyond 64 bits; give them as texts") from None
    if all(isinstance(v, (int, float, np.integer, np.floating)) and not isinstance(v, bool) for v in there):
        return np.array([np.nan if _missing(v) else float(v) for v in values])
    kinds = ", ".join(sorted({type(v).__name__ for v in there}))
    raise HVAEError(
        f"{what} holds objects ({kinds}), which a file does not keep; give texts or numbers, astype(str) say"
    )


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))
