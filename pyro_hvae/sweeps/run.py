"""A sweep from its design to one dataset: runs handed to ``dask.distributed`` workers, results gathered from disk."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, as_completed, wait

from pyro_hvae.arguments import checked, whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.published.options import Device
from pyro_hvae.stimuli import PatchData
from pyro_hvae.storage.provenance import git_revision, versions
from pyro_hvae.sweeps import member
from pyro_hvae.sweeps.design import SCHEMA, SCHEMA_VERSION, Design, SweepDirectory, directory_name
from pyro_hvae.training.fit import torch_device
from pyro_hvae.training.run_directory import write_netcdf

CONNECT = "20s"
"""How long a scheduler may take to answer."""
STOPPING = 120
"""Seconds that workers have to save a checkpoint each after Ctrl-C; an export under way is finished first."""

# A shell sends Ctrl-C to every process of the group; here the one that submits decides, and ends its workers.
IGNORE_INTERRUPT = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@checked
def sweep(
    settings: Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]],
    data: PatchData | str | os.PathLike[str] | Mapping[str, Any] = "embedded",
    *,
    out: str | os.PathLike[str],
    export: int = 0,
    workers: int | None = None,
    threads: int = 1,
    scheduler: str | Client | None = None,
    device: Device = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Train a pair at every point of a grid of settings; each run is what ``build`` and ``fit`` give.

    Calling it again with the same design goes on where it stopped: finished runs are not trained again, others go on from their
    newest checkpoint, failed ones are tried again. A run that fails does not keep the others from finishing::

        hvae.sweep(
            {"preset": "TDVAE20", "steps": 20_000, "start": "linear_regime", "learning_rate": 1e-3},
            {"dim_z2": [5, 20, 70, 140], "seed": range(3)},
            out="sweeps/dim_z2",
        )

    Worker processes import the script that starts them: keep the call under ``if __name__ == "__main__":``.

    :param settings: what all runs share, by the names of :class:`~pyro_hvae.sweeps.design.Settings`.
    :param axes: values by setting; the grid is their product.
    :param data: patches that all runs share: a :class:`~pyro_hvae.stimuli.PatchData` or its ``.nc`` file, a source for
        :func:`~pyro_hvae.stimuli.natural_patches`, or a mapping of its arguments. Kept as ``patches.nc`` in ``out``.
    :param out: directory of the sweep, on a file system that all workers share.
    :param export: held-out images in a ``posterior.nc`` in every run directory; 0 for no such files.
    :param workers: processes on this machine; by default one a core (one alone with a GPU), at most one a run.
    :param threads: of torch, a worker.
    :param scheduler: address of a dask scheduler, or a ``distributed.Client``, instead of processes on this machine.
    :param device: as for :func:`~pyro_hvae.training.fit.fit`.
    :param progress: print a line a run.
    :returns: dims: the axes. ``status``, ``error``, ``run`` (directory, relative to ``out``), ``step``, ``seconds`` (training),
        ``test_elbo``, ``test_reconstruction``, ``test_kl_*`` (nats an image, held out, un-annealed, after the last step),
        ``active_z1``, ``active_z2`` (:func:`~pyro_hvae.analysis.active_dimensions`); NaN where a run is not finished. Also
        in ``sweep.nc``, which is written again whenever a run ends.
    :raises HVAEError: for designs that cannot be carried out, and for a directory with another one.
    :raises KeyboardInterrupt: after Ctrl-C, once the workers have been stopped; checkpoints and results stand.
    """
    _check(export, workers, threads, scheduler, device)
    if scheduler is None:
        _check_main_guard()
    design = Design.of(settings, axes)
    directory = SweepDirectory.open(out, design, data)
    members = {directory.path / name: values for name, values in design.members().items()}
    todo = {run: values for run, values in members.items() if not member.is_done(run, export)}
    if progress:
        print(f"{directory.path}: {len(members)} runs, {len(members) - len(todo)} of them finished before", flush=True)
    if todo:
        ours = uuid.uuid4().hex
        with _client(scheduler, workers, threads, len(todo)) as client:
            patches = str(directory.patches.resolve())
            # A key of its own, for dask would take a run of an earlier sweep with the same arguments for this one.
            futures = {
                client.submit(
                    member.carry_out, asdict(values), patches, str(run.resolve()), export, device, threads, ours,
                    key=f"{run.name}-{ours}",
                ): run
                for run, values in todo.items()
            }  # fmt: skip
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    run = futures[future]
                    if future.status != "finished":  # the worker itself was lost, or the scheduler
                        member.note_error(
                            run, future.exception() or HVAEError(f"dask gave the run up ({future.status})")
                        )
                    _save(directory)
                    if progress:
                        print(f"[{done}/{len(todo)}] {_line(run)}", flush=True)
            except BaseException:
                try:
                    _stop(client, ours, list(futures))
                finally:  # at once after a second Ctrl-C
                    client.cancel(list(futures), force=True)
                _save(directory)
                raise
    return _save(directory)


def _check(export: int, workers: int | None, threads: int, scheduler: str | Client | None, device: Device) -> None:
    torch_device(device)
    for name, value, least in (("export", export, 0), ("workers", workers, 1), ("threads", threads, 1)):
        if value is not None:
            whole_number(name, value, least)
    if scheduler is not None and workers is not None:
        raise HVAEError("workers are processes on this machine; a scheduler has its own, so give one of the two")


def _stop(client: Client, sweep: str, futures: list[Future]) -> None:
    """Have every worker end its run of the sweep with a checkpoint, and wait for it."""
    with contextlib.suppress(
        TimeoutError, OSError
    ):  # workers that are lost, or take longer: their newest checkpoint stands
        client.run(member.stop, sweep, on_error="ignore")
        wait(futures, timeout=STOPPING)


def _check_main_guard() -> None:
    """Refuse a script that starts the sweep while it is imported: every worker imports it, and would start its own."""
    main = sys.modules["__main__"]
    frame = sys._getframe()
    while frame is not None and not (frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"):
        frame = frame.f_back  # type: ignore[assignment]
    name = getattr(getattr(main, "__spec__", None), "name", "")
    if frame is None or name.endswith("__main__") or name.partition(".")[0] in ("pyro_hvae", "IPython"):
        return
    try:
        statements = ast.parse(Path(frame.f_code.co_filename).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return  # typed in, or no file that workers could import
    here = next((s for s in statements if s.lineno <= frame.f_lineno <= (s.end_lineno or s.lineno)), None)
    if here is not None and not (isinstance(here, ast.If) and "__name__" in ast.unparse(here.test)):
        raise HVAEError(
            f'{frame.f_code.co_filename}, line {frame.f_lineno}: the sweep is started outside `if __name__ == "__main__":`. '
            "Its worker processes import this script, and would each start it again: put the call below that line"
        )


@contextlib.contextmanager
def _client(scheduler: str | Client | None, workers: int | None, threads: int, runs: int) -> Iterator[Client]:
    if isinstance(scheduler, Client):
        yield scheduler
        return
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT)
        except Exception as error:  # an address may fail in any way that the network and its libraries have
            raise HVAEError(
                f"there is no dask scheduler at {scheduler} ({error}); expected an address such as tcp://host:8786"
            ) from error
        with client:
            yield client
        return
    if workers is None:
        workers = 1 if torch.cuda.is_available() else max(CPU_COUNT // threads, 1)
    # One thread a worker: a process trains one run at a time. No limit of memory: dask holds none of the arrays.
    with (
        LocalCluster(
            n_workers=min(workers, runs),
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
            preload=[IGNORE_INTERRUPT],
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _save(directory: SweepDirectory) -> xr.Dataset:
    results = _collect(directory)
    with member.TURN:
        write_netcdf(results, directory.path / "sweep.nc")
    return results


def _collect(directory: SweepDirectory) -> xr.Dataset:
    """Everything that is known from disk of the runs, over the axes."""
    axes, points = directory.design.axes, directory.design.points()
    rows: list[dict[str, Any]] = []
    for point in points:
        run = directory.path / directory_name(point)
        status = member.status(run)
        error = member.error_of(run) if status == member.FAILED else ""
        rows.append({"status": status, "error": error, "run": run.name, **(member.summary(run) or {})})
    shape = tuple(len(values) for values in axes.values())
    variables: dict[str, Any] = {
        name: (tuple(axes), np.array([row[name] for row in rows], dtype=object).reshape(shape))
        for name in ("status", "error", "run")
    }
    numbers = dict.fromkeys(["step", "seconds", "test_elbo", *(name for row in rows for name in row)])
    for name in numbers:
        if name not in variables and name != "exported":
            values = np.array([row.get(name, np.nan) for row in rows], np.float64)
            variables[name] = (tuple(axes), values.reshape(shape), _attributes(name))
    coordinates = {
        name: values if all(isinstance(v, int | float) for v in values) else [str(v) for v in values]
        for name, values in axes.items()
    }
    attrs = {
        "schema": f"{SCHEMA}.results",
        "schema_version": SCHEMA_VERSION,
        "settings": json.dumps(directory.design.settings),
        "versions": json.dumps(versions()),
        "git_revision": git_revision(),
    }
    return xr.Dataset(variables, coordinates, attrs)


def _attributes(name: str) -> dict[str, str]:
    if name == "seconds":
        return {"units": "s", "long_name": "training time"}
    if name.startswith("test_"):
        return {"units": "nats/image"}
    return {"units": "1"}


def _line(run: Path) -> str:
    status = member.status(run)
    if status == member.FAILED:
        return f"{run.name}: failed: {member.error_of(run)}"
    if (found := member.summary(run)) is None:
        return f"{run.name}: skipped, another process is at work on it"
    active = ", ".join(f"{found[name]:g} active {name[7:]}" for name in found if name.startswith("active_"))
    return f"{run.name}: held-out ELBO {found['test_elbo']:.1f}, {active}, {found['seconds']:.0f} s"
