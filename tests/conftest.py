"""Fixtures of the tests that read posterior files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from planted import Planted

from pyro_hvae.analysis import style


@pytest.fixture(scope="session", autouse=True)
def coarse_figures() -> Iterator[None]:
    """Drawing at print resolution is most of the time a report takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "DPI", 50)
        yield


@pytest.fixture(autouse=True)
def no_scheduler_of_a_closed_client() -> Iterator[None]:
    """A dask client that was closed by another test must not be asked for a lock by this one."""
    if "pyro_hvae.sweeps.member" in sys.modules:
        sys.modules["pyro_hvae.sweeps.member"].forget_closed_client()
    yield


@pytest.fixture
def plant(tmp_path: Path) -> Callable[..., Planted]:
    """Write a posterior file with the given truth into the test's own directory."""

    def make(name: str = "planted.nc", **truth: Any) -> Planted:
        return Planted(tmp_path / name, **truth).write()

    return make


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """One file of the default truth for all tests that only read it."""
    return Planted(tmp_path_factory.mktemp("planted") / "planted.nc", draws=60).write()


@pytest.fixture
def edit(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a posterior file with a change made to its loaded tree: ``edit(path, change)``."""

    def make(path: Path, change: Callable[[xr.DataTree], Any], name: str = "edited.nc") -> Path:
        with xr.open_datatree(path, engine="netcdf4") as source:
            tree = source.load().copy(deep=True)
        change(tree)
        tree.to_netcdf(tmp_path / name, engine="netcdf4")
        return tmp_path / name

    return make
