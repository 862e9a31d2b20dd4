"""How everything is put on disk: written beside its place, synced, renamed. Every writer of the package goes through here.

What is overwritten is first recognised: a file or zarr store of the very schema that is to be written, or an empty file.
Anything else (a directory, a file of another kind, a device) is refused, whatever ``overwrite`` says. Writing through a
symbolic link keeps the link.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xarray.backends.locks import HDF5_LOCK, NETCDFC_LOCK, combine_locks

from pyro_hvae.errors import HVAEError
from pyro_hvae.storage.abandoned import own_name, put_back, remove_abandoned
from pyro_hvae.storage.seals import seal

REPORT, RESULTS, FIGURE, EVIDENCE = "pyro_hvae.report", "pyro_hvae.results", "pyro_hvae.figure", "pyro_hvae.evidence"
#: The netCDF library is not safe in threads, and one that collects garbage may close a file at any moment: xarray's own lock,
#: which its files hold whenever they are read or closed.
NETCDF_LOCK = combine_locks([NETCDFC_LOCK, HDF5_LOCK])
_OURS = re.compile(rb"pyro_hvae\.[a-z_]+")
_NETCDF_HEAD = 2**20  # bytes in which the attributes of a netCDF file are looked for
_HEAD = 4096  # bytes at the start of a page or picture in which its kind is said


def kind_of(path: Path) -> str | None:
    """The schema that a file or zarr store says it is of; None for what is not one of ours, or cannot be read."""
    with suppress(OSError, ValueError, RuntimeError):
        if path.is_dir():
            if (path / ".zgroup").is_file() and (path / ".zattrs").is_file():
                return _named(json.loads((path / ".zattrs").read_bytes()).get("schema"))
            return None
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if head.startswith((b"\x89HDF", b"CDF")):
            # Not through the netCDF library: 4.10 with HDF5 2.0 crashes at the third opening of a file that is open already.
            # Our attribute of that name is written first, among the first kilobytes.
            with open(path, "rb") as file:
                head = file.read(_NETCDF_HEAD)
            found = _OURS.search(head) if b"schema" in head else None
            return None if found is None else found[0].decode()
        if head.startswith(b"\x89PNG"):
            return FIGURE if f"Source\0{FIGURE}".encode() in head else None
        if head.lower().startswith(b"<!doctype html>"):
            return REPORT if f'<meta name="generator" content="{REPORT}">'.encode() in head else None
        if head.startswith((b"{", b"[")):
            found = json.loads(path.read_bytes())
            if isinstance(found, dict):
                return _named(found.get("schema"))
            return RESULTS if found and all(isinstance(e, dict) and "analysis" in e for e in found) else None
    return None


def _named(schema: object) -> str | None:
    return schema if isinstance(schema, str) else None


def check_target(path: str | os.PathLike[str], *, overwrite: bool, schema: str) -> None:
    """Refuse a path that cannot, or must not, be written to; for before anything is computed. Leaves nothing behind.

    Raises
    ------
    HVAEError
        Where the path exists and ``overwrite`` is off, or is no file (or zarr store) of ``schema``, or its directory is
        missing or not writable.
    """
    path = Path(path)
    try:
        target = _examined(path, overwrite, schema)
        _probe(target.parent)
    except OSError as error:
        raise HVAEError(f"{path} cannot be written ({error.strerror or error}); choose another path") from error


def check_directory(path: str | os.PathLike[str]) -> None:
    """Refuse a directory that cannot be made or written into; for before anything is computed. Leaves nothing behind."""
    path = Path(path)
    try:
        real = Path(os.path.realpath(path))
        while not os.path.lexists(real):
            real = real.parent
        if not real.is_dir():
            raise HVAEError(f"cannot write into {path}: {real} is a file, not a directory; choose another")
        _probe(real)
    except OSError as error:
        raise HVAEError(f"cannot write into {path} ({error.strerror or error}); choose another directory") from error


def _probe(directory: Path) -> None:
    probe = directory / own_name("probe")
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    probe.unlink()


def _examined(path: Path, overwrite: bool, schema: str | None) -> Path:
    """Where a path leads, links followed, once it is clear that it may be written; ``schema=None`` in directories of ours."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise HVAEError(f"cannot write {path}: there is no directory {path.parent}; make it first")
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        return target
    wants_directory = target.suffix == ".zarr" or path.suffix == ".zarr"
    if stat.S_ISDIR(found.st_mode) and not wants_directory:
        raise HVAEError(
            f"{path} is a directory, which is never replaced by a file; name a file, {path / 'NAME.nc'} say"
        )
    if not overwrite:
        raise HVAEError(f"{path} exists; choose another path or pass overwrite=True (--overwrite)")
    if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
        raise HVAEError(f"{path} is neither a file nor a directory, so it is not overwritten; choose another path")
    if schema is None or (stat.S_ISREG(found.st_mode) and not found.st_size):
        return target
    if (there := kind_of(target)) != schema or stat.S_ISDIR(found.st_mode) != wants_directory:
        what = f"a file of {there}" if there else "nothing that this command has written, or damaged"
        raise HVAEError(
            f"{path} is {what}, where only an earlier {schema} is overwritten; choose another path, or remove it yourself"
        )
    return target


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool, schema: str | None) -> Iterator[Path]:
    """A path to write to that becomes ``path``, complete and on disk, when the block ends without an error.

    Parameters
    ----------
    overwrite
        Replace what stands there; without it a path that came into being meanwhile is kept as well.
    schema
        Of what may be replaced; None for the files of a directory that is known to be ours.

    Raises
    ------
    HVAEError
        As :func:`check_target`, and where the disk does not take it. What was there before is unchanged then.
    """
    path = Path(path)
    partial: Path | None = None
    try:
        put_back(path)
        target = _examined(path, overwrite, schema)
        remove_abandoned(target.parent)
        partial = beside(target)
        yield partial
        put(partial, path, overwrite=overwrite, schema=schema)
    except (OSError, RuntimeError) as error:  # netCDF reports a full disk as RuntimeError
        raise HVAEError(f"{path} could not be written ({error}); what was there before is unchanged") from error
    finally:
        if partial is not None:
            with suppress(OSError):
                remove(partial)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """A file of a directory of ours: after a crash or on a full disk it holds the old content or the new, never a part."""
    with replacing(path, overwrite=True, schema=None) as partial:
        write(partial)


def write_figure(path: str | os.PathLike[str], image: bytes, *, overwrite: bool) -> None:
    """A picture of :class:`~pyro_hvae.analysis.style.Picture` as a file; with ``overwrite`` in place of an earlier one."""
    with replacing(path, overwrite=overwrite, schema=FIGURE) as partial:
        partial.write_bytes(image)


def beside(path: Path) -> Path:
    """A name of our own for what is to become ``path``, in the directory that the path leads to."""
    target = Path(os.path.realpath(path))
    return target.with_name(own_name(target.name))


def put(partial: Path, path: Path, *, overwrite: bool, schema: str | None) -> None:
    """Seal ``partial``, sync it and rename it to ``path``; see :func:`replacing`. Raises OSError where the disk refuses."""
    seal(partial)
    fsync(partial)
    try:
        target = _examined(path, overwrite, schema)
        if overwrite:
            _exchange(partial, target)
        else:
            _claim(partial, target)
    except (HVAEError, FileExistsError) as error:
        if schema is None:
            raise
        kept = _kept(partial, Path(os.path.realpath(path)))
        raise HVAEError(f"{path} came into being while its content was computed; that is in {kept} now") from error
    fsync_directory(target.parent)


def _exchange(partial: Path, target: Path) -> None:
    if not target.is_dir():
        os.replace(partial, target)
        return
    # A directory cannot be renamed over another one. After a crash between the two it is put back (abandoned.py).
    old = target.with_name(own_name(target.name, replaced=True))
    target.rename(old)
    try:
        os.rename(partial, target)
    except OSError:
        old.rename(target)
        raise
    remove(old)


def _claim(partial: Path, target: Path) -> None:
    """Rename unless there is something; FileExistsError there. Of two processes one gets the name."""
    if partial.is_dir():
        try:
            os.rename(partial, target)  # refused where a directory with files, or a file, has the name
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(error.errno, error.strerror, str(target)) from error
            raise
        return
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(partial, target)
    else:
        partial.unlink()


def _kept(partial: Path, target: Path) -> Path:
    """Keep what was computed under the next free name."""
    number = 2
    while True:
        with suppress(FileExistsError):
            other = target.with_name(f"{target.stem}-{number}{target.suffix}")
            _claim(partial, other)
            return other
        number += 1


def fsync(path: Path) -> None:
    """Force a file, or every file of a directory, to disk."""
    for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
        fsync_directory(each)


def fsync_directory(path: Path) -> None:
    """Force one directory entry, or one file, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file or directory of our own making, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
