"""What a process that was killed leaves beside its files: temporaries, recognised by their names and removed by the next.

Temporaries are called ``.NAME.MACHINE-PROCESS-NUMBER.partial``, a zarr store about to be replaced ``….replaced``. Those of
processes of this machine that are no more are removed; those of other machines, on a shared file system, are left to their own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import uuid
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.(?P<kind>partial|replaced)")


def own_name(name: str, *, replaced: bool = False) -> str:
    """A new name for a temporary of this process that is to become ``name``, or for what stood there before."""
    kind = "replaced" if replaced else "partial"
    return f".{name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}"


def remove_abandoned(folder: Path) -> None:
    """Remove the temporaries of processes that are no more from a folder; a store that was being replaced is put back where
    nothing has taken its place."""
    with suppress(OSError):  # a folder that cannot be listed is not ours to clean
        for file in list(folder.iterdir()):
            if (found := _NAME.fullmatch(file.name)) is None or not _gone(found):
                continue
            with suppress(OSError):
                if found["kind"] == "replaced" and not os.path.lexists(file.with_name(found["name"])):
                    file.rename(file.with_name(found["name"]))
                elif file.is_dir() and not file.is_symlink():
                    shutil.rmtree(file)
                else:
                    file.unlink()


def put_back(path: Path) -> None:
    """Where a process was killed between taking a store away and putting the new one there, bring the old one back."""
    with suppress(OSError):
        path = Path(os.path.realpath(path))
        if os.path.lexists(path) or not path.parent.is_dir():
            return
        for file in path.parent.iterdir():
            found = _NAME.fullmatch(file.name)
            if found is not None and found["kind"] == "replaced" and found["name"] == path.name and _gone(found):
                file.rename(path)
                return


def _machine() -> str:
    """Host and, where there are several, space of process numbers (containers)."""
    space = ""
    with suppress(OSError):
        space = str(os.stat("/proc/self/ns/pid").st_ino)
    return hashlib.blake2b(f"{socket.gethostname()} {space}".encode(), digest_size=4).hexdigest()


def _gone(found: re.Match[str]) -> bool:
    """Whether the process of a temporary was one of this machine and has ended."""
    if found["machine"] != _machine() or os.name != "posix":
        return False
    try:
        os.kill(int(found["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
