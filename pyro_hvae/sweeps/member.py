"""One run of a sweep, as a worker carries it out: train or go on, measure, export. What came of it is on disk."""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
import distributed
import torch

from pyro_hvae.analysis import active_dimensions
from pyro_hvae.errors import HVAEError
from pyro_hvae.export.posterior import export_posterior
from pyro_hvae.published.options import Device
from pyro_hvae.stimuli import PatchData
from pyro_hvae.storage.writing import write_atomically
from pyro_hvae.sweeps.design import Settings
from pyro_hvae.training.contexts import ask_to_stop
from pyro_hvae.training.fit import fit_with, torch_device
from pyro_hvae.training.run_directory import load
from pyro_hvae.training.training_loop import Run

FINISHED, FAILED, UNFINISHED, WAITING = "finished", "failed", "unfinished", "waiting"
MEASURED = 1000
"""Held-out images that active dimensions are counted on where no posterior file is asked for."""
MOMENT_DRAWS = 32

TURN = threading.Lock()
"""Held by whoever trains or writes netCDF: torch's random state and Pyro's validation belong to the process, and the netCDF
library is not safe in threads. Only a cluster within one process ever waits for it."""


_stopped: set[str] = set()


def stop(sweep: str) -> None:
    """End the runs of a sweep in this process: the one under way after its step, or its first, with a checkpoint, the others
    before they begin."""
    _stopped.add(sweep)


def summary_file(run: Path) -> Path:
    """Where a finished run's results are."""
    return run / "summary.json"


def error_file(run: Path) -> Path:
    """Where the traceback of a failed run is: beside its directory, which may not have come about."""
    return run.with_name(f"{run.name}.error.txt")


def summary(run: Path) -> dict[str, Any] | None:
    """Results of a finished run, or None."""
    file = summary_file(run)
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found["exported"], int) or not all(
            isinstance(value, int | float) for value in found.values()
        ):
            raise ValueError("it does not hold the results of a run")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HVAEError(f"{file} is damaged ({error}); delete it, and the run is measured again") from error
    return found


def status(run: Path) -> str:
    """``finished``, ``failed``, ``unfinished`` (begun, and neither) or ``waiting``."""
    if error_file(run).is_file():
        return FAILED
    if summary_file(run).is_file():
        return FINISHED
    return UNFINISHED if run.exists() else WAITING


def is_done(run: Path, export: int) -> bool:
    """Whether nothing is left to do for a run: it is finished, and its posterior file, if asked for, is there."""
    found = summary(run)
    return found is not None and (not export or found["exported"] == export)


def carry_out(
    settings: Mapping[str, Any], patches: str, out: str, export: int, device: Device, threads: int, sweep: str = ""
) -> str:
    """Bring one run to its end; the task that workers are sent.

    :param settings: fields of :class:`~pyro_hvae.sweeps.design.Settings`.
    :param patches: file of :meth:`PatchData.save`.
    :param out: run directory; training goes on from its newest checkpoint, if it has one.
    :param export: held-out images in its ``posterior.nc``; 0 for none.
    :param threads: of torch.
    :param sweep: by which :func:`stop` knows the runs that it ends.
    :returns: the run's status; the error of a failed one is in :func:`error_file`.
    """
    run = Path(out)
    with TURN, _claimed(run) as ours, _threads(threads), _without_scheduler():
        if not ours:
            return UNFINISHED
        try:
            if sweep in _stopped:
                return status(run)
            error_file(run).unlink(missing_ok=True)
            _carry_out(Settings(**settings), PatchData.load(patches), run, export, device, sweep)
        except Exception as error:
            note_error(run, error)
    return status(run)


def note_error(run: Path, error: BaseException) -> None:
    """Write down what ended a run: the message, then the traceback."""
    text = f"{type(error).__name__}: {error}\n\n{''.join(traceback.format_exception(error))}"
    write_atomically(error_file(run), lambda file: file.write_text(text, encoding="utf-8"))


def error_of(run: Path) -> str:
    """The message of what ended a failed run, in a line."""
    return error_file(run).read_text(encoding="utf-8", errors="replace").partition("\n")[0]


def _carry_out(settings: Settings, data: PatchData, run: Path, export: int, device: Device, sweep: str) -> None:
    found = summary(run)
    if found is None:
        trained = _train(settings, data, run, device, sweep)
        if trained.interrupted:
            return
        vae, last = trained.vae, trained.history.isel(evaluation=-1)
        found = {"step": trained.step, "seconds": float(trained.history["seconds"].sum())}
        found |= {str(name): float(last[name]) for name in last if str(name).startswith("test_")}
    else:
        vae = load(run).to(torch_device(device))
    # Without a file the moments alone are wanted: no ancestral samples to speak of, no receptive fields.
    images = data.test.isel(image=slice(export or MEASURED))
    options: dict[str, Any] = dict(moment_draws=MOMENT_DRAWS, transform=data.transform, seed=settings.seed)
    if export:
        options |= dict(path=run / "posterior.nc", overwrite=True)
    else:
        options |= dict(prior_samples=1, receptive_fields=0)
    with export_posterior(vae, images, **options) as tree:
        counts = active_dimensions(tree)["count"]
    for site in counts["site"].values:
        found[f"active_{site}"] = float(counts.sel(site=site))
    found["exported"] = export
    write_atomically(summary_file(run), lambda file: file.write_text(json.dumps(found, indent=1), encoding="utf-8"))


def _train(settings: Settings, data: PatchData, run: Path, device: Device, sweep: str) -> Run:
    """Train from the newest checkpoint, or from the start where there is none: nothing is lost then."""
    begun = any((run / "checkpoints").glob("step-*.safetensors"))

    def heed(step: int, images: torch.Tensor) -> None:
        if sweep in _stopped:  # before each step, so that a stop which comes while the run is set up is not lost
            ask_to_stop("SIGINT")

    return fit_with(
        settings.build(data, resumed=begun),
        data,
        settings.training(),
        recipe=settings.recipe,
        out=run,
        resume=begun,
        overwrite=not begun,
        device=device,
        progress=False,
        on_step=heed,
    )


@contextlib.contextmanager
def _claimed(run: Path) -> Iterator[bool]:
    """Whether this is the only process at work on the run; the claim ends with the process, however it ends."""
    with open(run.with_name(f".{run.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _without_scheduler() -> Iterator[None]:
    """Inside a dask worker xarray would ask the scheduler for a lock at every file that it writes; each run has its own."""
    try:
        with dask.config.set(scheduler="synchronous"):
            yield
    finally:
        forget_closed_client()


def forget_closed_client() -> None:
    """Take dask's default scheduler out where its client is closed: else nothing can be written in this process any more.

    In a cluster of threads a run may outlive the client, and then puts back the setting that it found.
    """
    try:
        alive = distributed.default_client().status in ("running", "connecting")
    except ValueError:
        alive = False
    if not alive and dask.config.get("scheduler", None) == "dask.distributed":
        dask.config.config.pop("scheduler", None)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
