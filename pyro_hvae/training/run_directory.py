"""The run directory: configuration, transform, held-out patches, history, checkpoints. Nothing in it needs unpickling.

config.json                         the pair, the training, the data and the versions
transform.nc                        the whitening transform (absent for data that arrived preprocessed)
heldout.nc                          held-out patches, the default images of export, evidence and audit
history.nc                          training metrics by step, held-out evaluations
yardsticks.nc                       what other densities reach on heldout.nc (`pyro-hvae yardstick`; absent until then)
checkpoints/step-00001000.safetensors   parameters, optimizer, random state; the last two are kept
model.safetensors                   instead of checkpoints: parameters alone, of a packed run (`pyro-hvae pack`)
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pyro_hvae.arguments import checked
from pyro_hvae.densities.matching import SCHEMA as YARDSTICKS
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE, from_config
from pyro_hvae.stimuli import PatchData, Whitening
from pyro_hvae.storage.guards import PROMISED, RATIO, check_promises, content_of, read_json
from pyro_hvae.storage.provenance import git_revision, versions
from pyro_hvae.storage.seals import check_seal
from pyro_hvae.storage.writing import check_directory, kind_of, write_atomically
from pyro_hvae.training.config import FitConfig
from pyro_hvae.training.recorded import RECORDED, check_record, earlier_fingerprint, fingerprint, numbers

SCHEMA, SCHEMA_VERSION = "pyro_hvae.run", 1
KEPT_CHECKPOINTS = 2
MEND = "copy the file from a backup, or train again with overwrite=True (--overwrite)"
HELD_OUT = 10_000
WEIGHTS = "model.safetensors"
_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")


def digest(x: np.ndarray) -> str:
    """Digest of an array's values, to tell whether a run goes on with the data it began with."""
    return hashlib.blake2b(np.ascontiguousarray(x).view(np.uint8).data, digest_size=16).hexdigest()


def checkpoint_files(folder: Path) -> list[Path]:
    """Checkpoints by step: names of other numbers of digits do not sort by it."""
    found = {p: match for p in folder.glob("step-*.safetensors") if (match := _CHECKPOINT.fullmatch(p.name))}
    return sorted(found, key=lambda p: int(found[p][1]))


@dataclass(frozen=True)
class Checkpoint:
    """A state from which training goes on bit for bit."""

    step: int
    tensors: dict[str, Tensor]
    """``vae.*`` parameters and buffers, ``optimizer.<parameter>.*``, ``rng.cpu``, ``rng.cuda``."""
    configuration: str
    """Digest of the run's configuration."""

    def bytes(self) -> bytes:
        """The safetensors file."""
        # Copies: a parameter that model and guide share appears under both names, which safetensors refuses.
        contiguous = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                      for name, tensor in self.tensors.items()}  # fmt: skip
        meta = {"schema": "pyro_hvae.checkpoint", "schema_version": SCHEMA_VERSION, "step": self.step,
                "configuration": self.configuration, "digest": _digest_of_state(self.step, contiguous)}  # fmt: skip
        return save(contiguous, metadata={"pyro_hvae": json.dumps(meta)})

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; :class:`HVAEError` if the file is missing, damaged or of another kind."""
        if not path.is_file():
            raise HVAEError(f"{path}: no such checkpoint")
        others = [p for p in checkpoint_files(path.parent) if p != path]
        advice = f"delete it to go on from {others[-1].name}" if others else f"there is no earlier one: {MEND}"
        try:
            with safe_open(str(path), "pt") as file:
                meta = json.loads((file.metadata() or {}).get("pyro_hvae", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except (SafetensorError, OSError, ValueError, RuntimeError, RecursionError) as error:
            raise HVAEError(f"{path}: damaged or truncated checkpoint ({error}); {advice}") from error
        if not isinstance(meta, dict) or (meta.get("schema"), meta.get("schema_version")) != (
            "pyro_hvae.checkpoint",
            SCHEMA_VERSION,
        ):
            raise HVAEError(
                f"{path}: not a checkpoint of this version of pyro_hvae (found {meta or 'no description'}); {advice}"
            )
        step, configuration = meta.get("step"), meta.get("configuration")
        named = _CHECKPOINT.fullmatch(path.name)
        if not isinstance(step, int) or (named is not None and int(named[1]) != step):
            raise HVAEError(f"{path}: is of step {step}, not of the one in its name; {advice}")
        if "digest" in meta and meta["digest"] != _digest_of_state(step, tensors):
            raise HVAEError(f"{path}: damaged checkpoint, other numbers are in it than were written; {advice}")
        return cls(step, tensors, str(configuration))

    def as_of(self, dtype: str) -> Checkpoint:
        """The same with floating point tensors in the precision of the pair: half precision is for storage alone."""
        kind = getattr(torch, dtype)
        return replace(self, tensors={n: t.to(kind) if t.is_floating_point() else t for n, t in self.tensors.items()})

    def load_into(self, vae: HVAE) -> None:
        """Give the pair the checkpoint's parameters; an error names what does not fit."""
        state = {name[len("vae."):]: t for name, t in self.tensors.items() if name.startswith("vae.")}  # fmt: skip
        own = vae.state_dict()
        live = dict(vae.named_parameters()) | dict(vae.named_buffers())
        wrong = [f"{n} is {tuple(state[n].shape)}, the pair's {tuple(own[n].shape)}"
                 for n in state.keys() & own.keys() if state[n].shape != own[n].shape]  # fmt: skip
        wrong += [f"{n} only in the {'checkpoint' if n in state else 'pair'}" for n in state.keys() ^ own.keys()]
        if wrong:
            raise HVAEError("the checkpoint is of another configuration: " + "; ".join(sorted(wrong)[:4]))
        for tensor, name in ((t, n) for n, t in own.items() if n in state and t.is_floating_point()):
            if tensor.dtype != state[name].dtype:  # the precision belongs to the run
                live[name].data = live[name].data.to(state[name].dtype)
        vae.load_state_dict(state)


def _digest_of_state(step: int, tensors: Mapping[str, Tensor]) -> str:
    """Digest of everything in a checkpoint, which safetensors does not check."""
    found = hashlib.blake2b(str(step).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_run_target(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse a directory in which no run can begin: it is taken, not a run, or not writable."""
    path = Path(path)
    with as_hvae_error(path):
        check_directory(path)
        if not path.is_dir() or not any(p for p in path.iterdir() if not p.name.endswith(".partial")):
            return
        if not overwrite:
            raise HVAEError(f"{path} exists; use overwrite=True (--overwrite) to replace it, resume=True (--resume) to go "
                            "on with it, or another directory")  # fmt: skip
        if (path / WEIGHTS).exists():
            raise HVAEError(f"{path} is a packed run, which is not overwritten; choose another directory, or delete it")
        if kind_of(path / "config.json") != SCHEMA:
            raise HVAEError(
                f"{path} is not a run directory (no config.json of {SCHEMA}), so it is not overwritten; choose another"
            )


def _written_by_a_run(path: Path) -> list[Path]:
    """Files of an earlier run in a directory, its configuration last."""
    names = ("transform.nc", "heldout.nc", "history.nc", "yardsticks.nc", "summary.json", "config.json")
    partials = [*path.glob(".*.partial"), *path.glob("checkpoints/.*.partial")]
    found = [*path.glob("checkpoints/step-*.safetensors"), *partials, *(path / name for name in names)]
    return [file for file in found if file.is_file()]


@contextmanager
def as_hvae_error(path: Path) -> Iterator[None]:
    """What the file system refuses, as an error that names the path."""
    try:
        yield
    except OSError as error:
        raise HVAEError(f"{path} cannot be written ({error.strerror or error}); choose another directory") from error


class RunDirectory:
    """A run on disk. Make one with :meth:`create` or open one with :meth:`open`."""

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path, self.config = path, config
        self._claim: int | None = None

    # -- making and opening

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, overwrite: bool) -> RunDirectory:
        """A new run directory; one that exists is refused unless ``overwrite``, and then only what a run has written is
        removed: other files in it stay."""
        path = Path(path)
        full = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **config, "versions": versions(),
                "git_revision": git_revision(), "created": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        text = json.dumps(full, indent=1)
        check_run_target(path, overwrite=overwrite)
        made = cls(path, full)
        with as_hvae_error(path):
            path.mkdir(parents=True, exist_ok=True)
            made.claim()
            try:
                for old in _written_by_a_run(path):
                    old.unlink()
                write_atomically(path / "config.json", lambda file: file.write_text(text, encoding="utf-8"))
                (path / "checkpoints").mkdir(exist_ok=True)
            except BaseException:
                made.release()
                raise
        return made

    def discard(self) -> None:
        """Remove what was written, where nothing came of the run; other files stay."""
        with suppress(OSError):  # a folder that has vanished, or became read-only
            for file in _written_by_a_run(self.path):
                file.unlink()
        for folder in (self.path / "checkpoints", self.path):
            with suppress(OSError):  # not empty
                folder.rmdir()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """A run directory that exists."""
        path = Path(path)
        file = path / "config.json"
        if not file.is_file():
            raise HVAEError(
                f"{path} is not a run directory: it has no config.json. "
                f"`pyro-hvae train … --out {shlex.quote(str(path))}` makes one"
            )
        config = read_json(file, MEND)
        if isinstance(config, dict) and (
            config.get("schema") != SCHEMA or config.get("schema_version") != SCHEMA_VERSION
        ):
            raise HVAEError(f"{file} has schema {config.get('schema')} version {config.get('schema_version')}, expected "
                            f"{SCHEMA} version {SCHEMA_VERSION}")  # fmt: skip
        check_record(config, file, MEND)
        return cls(path, config)

    def claim(self) -> None:
        """Keep other processes from writing this run, until :meth:`release` or the end of this process, however it ends.

        :raises HVAEError: where another one is at work on it. File systems that know no locks are written without.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise HVAEError(
                f"{self.path}: another process is training this run; wait until it has ended, or choose another directory"
            ) from error
        except OSError:
            os.close(handle)
        else:
            self._claim = handle

    def release(self) -> None:
        """Undo :meth:`claim`."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def pair(self) -> HVAE:
        """The pair that the run records, freshly initialised; not larger than its parameters on disk allow."""
        file = self.path / "config.json"
        weights = self.path / WEIGHTS if self.packed else max(self.checkpoints(), default=file, key=os.path.getsize)
        largest = sorted([abs(n) for n in numbers(self.config["vae"])] + [1, 1])[-2:]
        if 4 * largest[0] * largest[1] > max(PROMISED, RATIO * weights.stat().st_size):
            raise HVAEError(
                f"{file} speaks of layers of {largest[1]:,} units, for which {weights.name} is too small; {MEND}"
            )
        with content_of(file, MEND):
            return from_config(self.config["vae"])

    def check_same(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint of another run, or a ``config.json`` that was changed."""
        if checkpoint.configuration not in (self.fingerprint, earlier_fingerprint(self.config)):
            raise HVAEError(
                f"the newest checkpoint of {self.path} is of another configuration than config.json has; {MEND}"
            )

    # -- data

    def write_data(self, data: PatchData) -> None:
        """Keep the transform and the first held-out patches."""
        if data.transform is not None:
            write_netcdf(data.transform.to_dataset(), self.path / "transform.nc")
        write_netcdf(data.test.isel(image=slice(HELD_OUT)), self.path / "heldout.nc")

    def transform(self) -> Whitening | None:
        """The whitening transform that the run's data went through."""
        file = self.path / "transform.nc"
        if not file.exists() and not self.config.get("transform", False):
            return None
        found = read_netcdf(file)
        with content_of(file, MEND):
            return Whitening.from_dataset(found)

    def held_out(self) -> xr.Dataset:
        """The held-out patches (at most 10,000)."""
        dataset = read_netcdf(self.path / "heldout.nc")
        if "x" not in dataset or dataset["x"].dims != ("image", "pixel"):
            raise HVAEError(f"{self.path / 'heldout.nc'} holds no patches, x (image, pixel); {MEND}")
        text = {n: ("image", dataset[n].values.astype(str)) for n in ("source", "family", "split") if n in dataset}
        return dataset.assign_coords(text)

    def write_yardsticks(self, found: xr.Dataset) -> None:
        """Keep what :func:`~pyro_hvae.densities.yardsticks.yardsticks` gave on the held-out patches."""
        write_netcdf(found, self.path / "yardsticks.nc")

    def yardsticks(self) -> xr.Dataset | None:
        """What :meth:`write_yardsticks` kept; None where there is nothing yet."""
        file = self.path / "yardsticks.nc"
        if not file.exists():
            return None
        found = read_netcdf(file)
        if found.attrs.get("schema") != YARDSTICKS or "log_density" not in found:
            raise HVAEError(
                f"{file} does not hold yardsticks; delete it and run `pyro-hvae yardstick {shlex.quote(str(self.path))}`"
            )
        return found.assign_coords(yardstick=found["yardstick"].values.astype(str))

    # -- history and checkpoints

    def write_history(self, history: xr.Dataset) -> None:
        """Replace history.nc."""
        write_netcdf(history, self.path / "history.nc")

    def history(self) -> xr.Dataset:
        """Training metrics by ``step``, held-out ones by ``evaluation``."""
        return read_netcdf(self.path / "history.nc")

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return checkpoint_files(self.path / "checkpoints")

    @property
    def packed(self) -> bool:
        """Whether this is a packed run: parameters alone, with which nothing can be resumed."""
        return (self.path / WEIGHTS).is_file()

    def latest(self) -> Checkpoint:
        """The newest checkpoint, or the parameters of a packed run."""
        if self.packed:
            return Checkpoint.read(self.path / WEIGHTS).as_of(self.config["vae"].get("dtype", "float32"))
        if not (paths := self.checkpoints()):
            raise HVAEError(f"{self.path} has no checkpoint yet; start the run again with overwrite=True (--overwrite)")
        return Checkpoint.read(paths[-1])

    def write_checkpoint(self, checkpoint: Checkpoint) -> Path:
        """Write, sync, rename; then drop all but the newest two."""
        path = self.path / "checkpoints" / f"step-{checkpoint.step:08d}.safetensors"
        content = checkpoint.bytes()
        write_atomically(path, lambda file: file.write_bytes(content))
        with as_hvae_error(path):
            for old in self.checkpoints()[:-KEPT_CHECKPOINTS]:
                old.unlink(missing_ok=True)
        return path

    # -- what a checkpoint must agree with

    @property
    def fingerprint(self) -> str:
        """Digest of what must not change when a run goes on: everything but the number of steps."""
        with content_of(self.path / "config.json", MEND):
            return fingerprint(self.config)

    @property
    def fit_config(self) -> FitConfig:
        """The training configuration."""
        with content_of(self.path / "config.json", MEND):
            return FitConfig.from_dict(self.config["fit"])


def write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """A netCDF-4 file, atomically."""
    write_atomically(path, lambda file: dataset.to_netcdf(file, engine="netcdf4"))


def read_netcdf(path: Path) -> xr.Dataset:
    """A netCDF-4 file in memory; :class:`HVAEError` if missing or damaged."""
    if not path.is_file():
        raise HVAEError(f"{path}: no such file; the run directory is incomplete: {MEND}")
    check_seal(path, MEND)
    try:
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            check_promises(dataset, path, MEND)
            return dataset.load()
    except HVAEError:
        raise
    except Exception as error:  # the netCDF and HDF5 layers raise many kinds on damaged files
        raise HVAEError(f"{path}: damaged or not a netCDF file ({type(error).__name__}: {error}); {MEND}") from error


@checked
def load(path: str | os.PathLike[str], *, vae: HVAE | None = None) -> HVAE:
    """The trained pair of a run directory (its newest checkpoint), or of one checkpoint inside a run directory.

    :param vae: a freshly built pair to load into, needed where the run holds programs of your own.
    :raises HVAEError: for a missing or damaged run or checkpoint, or one of another configuration.
    """
    path = Path(path)
    if path.is_file():
        checkpoint, run = Checkpoint.read(path), RunDirectory.open(path.parent.parent)
    else:
        run = RunDirectory.open(path)
        checkpoint = run.latest()
    run.check_same(checkpoint)
    if vae is None:
        vae = run.pair()
    checkpoint.load_into(vae)
    vae.starts = run.config.get("starts", [])
    vae.record = {key: run.config[key] for key in RECORDED} | {"starts": vae.starts, "step": checkpoint.step}
    return vae
