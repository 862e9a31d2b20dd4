"""What is asked of files before they are believed: JSON of a bounded size, arrays that can be held, codecs that run nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from pyro_hvae.errors import HVAEError

PROMISED = 2**30
"""Bytes that the header of any file may promise, however small it is."""
RATIO = 100
"""How many times its own size a file may promise beyond that: more no compression of measured numbers comes to."""
JSON_LIMIT = 64 * 2**20
#: Codecs of zarr that run nothing: others (``pickle`` above all) are programs, or read elsewhere.
CODECS = frozenset(
    {
        "blosc",
        "zlib",
        "gzip",
        "bz2",
        "lzma",
        "lz4",
        "zstd",
        "shuffle",
        "bitround",
        "delta",
        "fixedscaleoffset",
        "quantize",
    }
    | {
        "packbits",
        "astype",
        "crc32",
        "crc32c",
        "adler32",
        "fletcher32",
        "vlen-utf8",
        "vlen-bytes",
        "vlen-array",
        "bytes",
    }
)


def check_promise(promised: int, held: int, path: Path, mend: str) -> None:
    """Refuse a file of ``held`` bytes whose header promises arrays of ``promised`` bytes, before they are allocated."""
    if promised > max(PROMISED, RATIO * held):
        raise HVAEError(
            f"{path} promises {promised / 2**30:,.1f} GiB in a file of {held:,} bytes, so it is damaged or made up; {mend}"
        )


def check_promises(tree: xr.DataTree | xr.Dataset, path: Path, mend: str) -> None:
    """:func:`check_promise` for everything in an opened file or store, chunks of zarr too, which are read whole."""
    datasets = [n.to_dataset(inherit=False) for n in tree.subtree] if isinstance(tree, xr.DataTree) else [tree]
    promised = 0
    for variable in (v for dataset in datasets for v in dataset.variables.values()):
        chunk = 1
        for length in variable.encoding.get("preferred_chunks", {}).values():
            chunk *= int(length)
        promised += variable.dtype.itemsize * max(variable.size, chunk)
    check_promise(promised, size_of(path), path, mend)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a store."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def check_codecs(store: Path, mend: str) -> None:
    """Refuse a zarr store that names codecs which could run something, before zarr makes them."""
    for file in (p for p in store.rglob("*") if p.name in (".zarray", ".zmetadata", "zarr.json")):
        for name in _codecs(read_json(file, mend)):
            if name not in CODECS:
                raise HVAEError(f"{file} names the codec {name!r}, which is not read: it could run a program; {mend}")


def _codecs(found: Any) -> Iterator[str]:
    """Names of codecs anywhere in the metadata of zarr, of both formats."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key in ("compressor", "filters", "codecs", "index_codecs"):
                for codec in value if isinstance(value, list) else [value]:
                    if isinstance(codec, dict):
                        yield str(codec.get("id", codec.get("name")))
            yield from _codecs(value)
    elif isinstance(found, list):
        for value in found:
            yield from _codecs(value)


def read_json(path: Path, mend: str) -> Any:
    """A JSON file of at most 64 MiB; :class:`HVAEError` that names it where it is damaged, with ``mend``."""
    try:
        if (size := path.stat().st_size) > JSON_LIMIT:
            raise HVAEError(f"{path} holds {size:,} bytes, more than any of ours; {mend}")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        if isinstance(error, HVAEError):
            raise
        raise HVAEError(f"{path} is damaged ({error}); {mend}") from error
    except OSError as error:
        raise HVAEError(f"{path} cannot be read ({error.strerror or error}); {mend}") from error


@contextmanager
def content_of(path: Path, mend: str) -> Iterator[None]:
    """What is wrong with the content of a file, as an error that names the file: for all that is made of what was read."""
    try:
        yield
    except Exception as error:  # damaged content fails anywhere in what is made of it
        if isinstance(error, HVAEError) and str(path) in str(error):
            raise
        said = (
            str(error)
            if isinstance(error, HVAEError)
            else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
        raise HVAEError(f"{path} does not hold what it should ({said}); {mend}") from error
