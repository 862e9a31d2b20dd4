"""What made a file: versions of the packages, commit of the checkout."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    packages = ("pyro-hvae", "pyro-ppl", "torch", "numpy", "scipy", "xarray", "arviz", "scikit-learn", "scikit-image")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def without_places(value: Any) -> Any:
    """JSON values with the names of files in place of absolute paths: where they lay on a machine is nobody else's business."""
    if isinstance(value, Mapping):
        return {key: without_places(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(v) for v in value]
    if isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        return PureWindowsPath(value).name  # both kinds of separators
    return value


def git_revision() -> str:
    """Commit of the package's own checkout, with "+" if it has changes; empty for an installed package."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return ""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        status = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
