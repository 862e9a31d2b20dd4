"""Seals: a digest that is written with a file and compared before a library parses it.

A netCDF-4 file checks its metadata but not the numbers, and the libraries below can hang, or end the process, on bytes that
they did not write. So every netCDF file of the package ends in a seal, behind the end that HDF5 knows of, where none looks:
other programs read it as ever, and one that changes it cuts the seal off. A zarr store has a file for it.

What has no seal is read as it is: files of earlier versions and of other programs.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from pyro_hvae.errors import HVAEError

SEAL_FILE = ".pyro_hvae.seal"
LIMIT = 2 * 2**30
"""Bytes up to which a file is compared with its seal, a second for each GiB; larger ones are opened at once."""
_HEAD = b"\npyro_hvae seal blake2b "
_LENGTH = len(_HEAD) + 32 + 1
_HDF5 = b"\x89HDF\r\n\x1a\n"


def seal(path: Path) -> None:
    """Seal a complete netCDF-4 file or zarr store that is not at its place yet; leaves everything else as it is."""
    if path.is_dir():
        if (path / ".zgroup").is_file():
            digests = {name: _digest(path / name) for name in _files(path)}
            (path / SEAL_FILE).write_text(json.dumps(digests, indent=0, sort_keys=True), encoding="utf-8")
    elif _hdf5_end(path) == path.stat().st_size:
        mark = _HEAD + _digest(path).encode() + b"\n"
        with open(path, "ab") as file:
            file.write(mark)


def check_seal(path: Path, mend: str) -> None:
    """Refuse what is not as it was sealed. ``mend`` is what to do about it.

    :raises HVAEError: for a file or store that is damaged, truncated or changed.
    """
    try:
        found = _store_fault(path) if path.is_dir() else _file_fault(path)
    except OSError as error:
        raise HVAEError(f"{path} cannot be read ({error.strerror or error}); {mend}") from error
    if found is not None:
        raise HVAEError(f"{path} is damaged, {found}; {mend}")


def _file_fault(path: Path) -> str | None:
    size, end = path.stat().st_size, _hdf5_end(path)
    if end is None or size == end:
        return None
    if size < end:
        return f"truncated to {size:,} of {end:,} bytes"
    with open(path, "rb") as file:
        file.seek(max(size - _LENGTH, 0))
        mark = file.read()
        if size - end != _LENGTH or not mark.startswith(_HEAD):
            return f"{size - end:,} bytes follow its end that are no seal of pyro_hvae"
    if size > LIMIT or mark == _HEAD + _digest(path, end).encode() + b"\n":
        return None
    return "other bytes are in it than were written"


def _store_fault(path: Path) -> str | None:
    file = path / SEAL_FILE
    if not file.is_file():
        return None
    try:
        digests = json.loads(file.read_bytes())
        sizes = sum((path / name).stat().st_size for name in digests if (path / name).is_file())
        expected = {str(name): str(digest) for name, digest in digests.items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"its {SEAL_FILE} cannot be read ({error})"
    for name, digest in expected.items():
        if not (path / name).is_file():
            return f"it lacks {name}"
        if sizes <= LIMIT and _digest(path / name) != digest:
            return f"other bytes are in {name} than were written (if that was meant, delete {SEAL_FILE})"
    return None


def _files(store: Path) -> list[str]:
    found = (p for p in store.rglob("*") if p.is_file() and p.name != SEAL_FILE)
    return sorted(p.relative_to(store).as_posix() for p in found)


def _hdf5_end(path: Path) -> int | None:
    """Where HDF5 says that a file ends (superblock of version 0, 2 or 3); None for what is no HDF5 file with 8-byte offsets."""
    with open(path, "rb") as file:
        head = file.read(48)
    if not head.startswith(_HDF5) or len(head) < 48:
        return None
    version = head[8]
    if version in (2, 3) and head[9] == 8:
        return struct.unpack_from("<Q", head, 28)[0]
    if version == 0 and head[13] == 8:
        return struct.unpack_from("<Q", head, 40)[0]
    return None


def _digest(path: Path, length: int | None = None) -> str:
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        left = path.stat().st_size if length is None else length
        while left > 0 and (piece := file.read(min(left, 2**20))):
            found.update(piece)
            left -= len(piece)
    return found.hexdigest()
