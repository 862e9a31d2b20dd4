"""Training: data in, bound up, everything on disk needed to go on after any interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from pyro import infer
from torch import Tensor

from pyro_hvae.arguments import checked, contiguous
from pyro_hvae.bounds.objectives import Bound
from pyro_hvae.bounds.pyro_objectives import check_objective
from pyro_hvae.bounds.traces import check_all_images, check_layout, check_support, trace_pair
from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.program import evaluating
from pyro_hvae.published import Training
from pyro_hvae.published.options import Compile, Device, Precision, RecipeName, TrainedPart, Value
from pyro_hvae.stimuli import PatchData, natural_patches
from pyro_hvae.storage.guards import content_of
from pyro_hvae.training.callbacks import Callback
from pyro_hvae.training.config import FitConfig, default_objective, describe_objective, fill_in, objective_from
from pyro_hvae.training.contexts import exclusive
from pyro_hvae.training.distributed import Processes, processes
from pyro_hvae.training.recorded import comparable, differences
from pyro_hvae.training.run_directory import MEND, RunDirectory, digest
from pyro_hvae.training.tracing import COMPILE_FROM
from pyro_hvae.training.training_loop import Loop, OnStep, Run, trained_parameters


@checked
def fit(
    vae: HVAE,
    data: PatchData,
    *,
    recipe: RecipeName | None = None,
    steps: int | None = None,
    objective: Bound | infer.ELBO | None = None,
    batch: int | None = None,
    learning_rate: Value | None = None,
    beta: Value | Mapping[str, Value] | None = None,
    train: TrainedPart = "both",
    clip: float | None = None,
    skip: float | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    device: Device = "auto",
    compile: Compile = "auto",
    precision: Precision = "float32",
    seed: int = 0,
    log_every: int = 50,
    evaluate_every: int = 1000,
    evaluate_images: int = 2000,
    checkpoint_every: int = 1000,
    early_stopping: int | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a pair by stochastic gradient ascent on a bound (Adam, no weight decay); the pair is changed in place.

    What is not given comes from a recipe: objective, batch, learning rate and beta schedules, clipping, the schedules stretched
    from the recipe's number of steps to ``steps``. Nothing of it touches the weights: a recipe's start belongs to
    :func:`~pyro_hvae.build`.

    :param data: patches; ``data.train`` is trained on, ``data.test`` evaluated on.
    :param recipe: ``"published"`` (the preset's own) or ``"fast"`` (:mod:`~pyro_hvae.published.recipes`); by default the one
        the pair was built with.
    :param steps: number of updates; by default the recipe's (tens of millions as published, 8000 if fast).
    :param objective: a bound of ours, or ``pyro.infer.Trace_ELBO``, ``TraceMeanField_ELBO`` or ``RenyiELBO``.
    :param learning_rate, beta: numbers, :class:`~pyro_hvae.published.schedules.Schedule` objects, or ``"0:0.1,10000:1"``;
        beta for all sites or by site.
    :param train: ``"both"``, ``"guide"`` (the generative model stays as it is) or ``"model"``.
    :param clip, skip: gradient norms above which a gradient is shortened, or its step left out; both are counted.
    :param out: run directory; refused if it exists, unless ``overwrite`` or ``resume``.
    :param resume: go on from the newest checkpoint in ``out``; on a CPU the parameters end bit for bit as if the run had
        never stopped. Everything but ``steps`` (which may grow) must be as in the run.
    :param device: ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
    :param compile: trace the step through Pyro once and compile it (:mod:`~pyro_hvae.training.tracing`): ``"auto"`` for
        runs of at least 5000 steps, with a warning where it is impossible; ``True`` insists; ``False`` does not.
    :param precision: of matrix products: ``"float32"``, ``"tf32"`` (CUDA only), ``"bfloat16"`` (autocast).
    :param progress: show a progress bar with the terms of the bound.
    :param early_stopping: end the run after this many held-out evaluations in which the ELBO has not grown
        (:class:`~pyro_hvae.EarlyStopping`); not kept in the record of the run.
    :param on_step: called before every step with its number (from 0) and its images ``(image, pixel)``, a copy on the device.
    :param callbacks: told of every row of the history, held-out evaluation and checkpoint; may end the run
        (:class:`~pyro_hvae.Callback`).
    :raises HVAEError: for options that do not fit, a run that cannot be resumed, a second run in another thread, or a loss that
        is not finite: with the step, the term and the last good checkpoint.

    Ctrl-C and SIGTERM save a checkpoint and end the run early; ``Run.interrupted`` says so. Under ``torchrun`` every process
    takes its share of each batch (:mod:`~pyro_hvae.training.distributed`), and the first writes the run.
    """
    training = Training.among(locals() | {"objective": None})
    return fit_with(
        vae, data, training, objective=objective, recipe=recipe, out=out, overwrite=overwrite, resume=resume, device=device,
        progress=progress, on_step=on_step, callbacks=callbacks,
    )  # fmt: skip


def fit_with(
    vae: HVAE,
    data: PatchData,
    training: Training,
    *,
    objective: Bound | infer.ELBO | None = None,
    recipe: RecipeName | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    device: Device = "auto",
    progress: bool = True,
    on_step: OnStep | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """:func:`fit` with its options in one.

    :param objective: instead of the one that the training names.
    """
    config = training if isinstance(training, FitConfig) else fill_in(vae, training, recipe)
    target = torch_device(device)
    objective = default_objective(vae, recipe, training) if objective is None else objective
    with exclusive(), processes(target) as together:
        loop = prepare(
            vae,
            data,
            objective,
            config,
            target,
            out,
            overwrite=overwrite,
            resume=resume,
            processes=together,
            on_step=on_step,
            callbacks=callbacks,
        )
        try:
            return loop.run(resume, progress)
        finally:
            if not resume:
                loop.discard_unbegun()
            loop.release()


def prepare(
    vae: HVAE,
    data: PatchData,
    objective: Bound | infer.ELBO,
    config: FitConfig,
    target: torch.device,
    out: str | os.PathLike[str] | None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    processes: Processes | None = None,
    on_step: OnStep | None = None,
    callbacks: Sequence[Callback] = (),
    images: Tensor | None = None,
) -> Loop:
    """Check everything that :func:`fit` was given and make its run directory.

    :param images: the training patches, where they are on the device already.
    """
    if config.precision == "tf32" and target.type != "cuda":
        raise HVAEError(
            "precision='tf32' is a mode of CUDA devices; this run is on the CPU: use 'float32' or 'bfloat16'"
        )
    vae.dtype  # noqa: B018  (refuses half precision)
    _check_data(vae, data, config)
    vae.to(target)
    probe = next(vae.parameters(), torch.zeros((), device=target)).new_zeros(2, vae.pixels)
    _check_support(vae, data, config, probe)
    check_objective(objective, vae, probe)
    if not isinstance(objective, Bound) and config.precision == "bfloat16":
        raise HVAEError(
            "precision='bfloat16' is for bounds of pyro_hvae; Pyro's own objectives take precision='float32'"
        )
    if not isinstance(objective, Bound) and any(schedule.knots != ((0, 1),) for schedule in config.beta.values()):
        raise HVAEError("Pyro's own objectives have no beta: pass beta=1, or use pyro_hvae.ELBO()")
    described = {
        "vae": vae.config,
        "objective": describe_objective(objective),
        "fit": config.to_dict(),
        "data": {
            "train": digest(data.train["x"].values),
            "images": data.train.sizes["image"],
            "provenance": data.provenance,
        },
        "starts": vae.starts,
    }
    named = trained_parameters(vae, config)
    like = next(iter(named.values()))
    if images is None:
        images = torch.from_numpy(contiguous(data.train["x"].values)).to(target, like.dtype)
    test = torch.from_numpy(contiguous(data.test["x"].values[: config.evaluate_images])).to(target, like.dtype)
    compiling = config.steps >= COMPILE_FROM if config.compile == "auto" else config.compile
    main = processes is None or processes.rank == 0
    # Last, when there is nothing left to refuse. Of several processes one makes the directory; the others read it where a run
    # is resumed.
    where = out if main or resume else None
    recorded = described | {"compile": compiling, "transform": data.transform is not None}
    directory = _directory(where, recorded, data, overwrite and main, resume)
    if resume and directory is not None:
        if main:
            directory.claim()
        described["starts"] = vae.starts = directory.config.get("starts", [])
    if resume and directory is not None and config.compile == "auto":
        compiling = directory.config.get("compile", compiling)  # a compiled step rounds otherwise than an eager one
    config = replace(config, compile="auto" if config.compile == "auto" and compiling else compiling)
    return Loop(
        vae,
        objective,
        config,
        images,
        test,
        directory=directory,
        described=described,
        processes=processes,
        on_step=on_step,
        callbacks=callbacks,
    )


@checked
def resume(
    out: str | os.PathLike[str],
    *,
    steps: int | None = None,
    device: Device = "auto",
    compile: Compile = "auto",
    progress: bool = True,
    images: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Go on with the run in ``out`` under its own settings: pair, objective and data are made again from its record.

    :param images: where the photographs are now, if they have moved; the patches must come out the same.

    :param steps: another end than the run's own; may only be later than its newest checkpoint.
    :raises HVAEError: where the record does not suffice (programs, objectives or patches of your own): then call
        :func:`fit` with ``resume=True``.
    """
    directory = RunDirectory.open(out)
    config = replace(directory.fit_config, compile=compile)
    return fit_with(
        directory.pair(),
        recorded_data(directory, images),
        config if steps is None else replace(config, steps=steps),
        objective=recorded_objective(directory),
        out=out, resume=True, device=device, progress=progress, callbacks=callbacks,
    )  # fmt: skip


def recorded_objective(directory: RunDirectory) -> Bound:
    """The objective that a run records."""
    with content_of(directory.path / "config.json", MEND):
        return objective_from(directory.config["objective"])


def recorded_data(directory: RunDirectory, images: str | os.PathLike[str] | None = None) -> PatchData:
    """Cut the patches of a run again; the digest of the training set is compared by :func:`fit`."""
    provenance = directory.config["data"]["provenance"]
    options = provenance.get("options", {})
    if provenance.get("kind") != "natural" or provenance.get("source") == "array":
        raise HVAEError(f"{directory.path} was trained on patches that cannot be cut again from its record; give the "
                        "same ones: fit(vae, data, ..., resume=True), or yardstick --patches FILE")  # fmt: skip
    source = provenance["source"] if images is None else images
    if source != "embedded" and not (isinstance(source, str | os.PathLike) and os.path.exists(source)):
        raise HVAEError(
            f"{source}, from which the patches of {directory.path} were cut, is not there; say where the images are now: "
            "--resume --images SOURCE"
        )
    try:
        return natural_patches(source=source, train=provenance["train"], test=provenance["test"], **options)
    except (TypeError, KeyError) as error:  # no such option
        raise HVAEError(
            f"{directory.path / 'config.json'} does not say how its patches were cut ({error}); {MEND}"
        ) from error


def torch_device(name: str) -> torch.device:
    """The device of ``"auto"``, ``"cpu"`` or ``"cuda"``; an error where there is no such device."""
    if name not in get_args(Device):
        raise unknown("device", name, get_args(Device))
    if name == "cuda" and not torch.cuda.is_available():
        raise HVAEError("device='cuda' was asked for, but torch finds no CUDA device; use 'cpu' or 'auto'")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


@torch.no_grad()
def _check_support(vae: HVAE, data: PatchData, config: FitConfig, probe: torch.Tensor) -> None:
    """Refuse images outside the support of the likelihood, which are found by no other check: validation is off in training."""
    with torch.random.fork_rng(devices=[probe.device] if probe.is_cuda else []), evaluating(vae):
        for images in (contiguous(data.train["x"].values), contiguous(data.test["x"].values)):
            x = torch.from_numpy(images[: config.batch]).to(probe)
            pair = trace_pair(vae.model, vae.guide, (x,), {})
            check_layout(pair)
            check_support(pair)
            check_all_images(pair, torch.from_numpy(images))


def _check_data(vae: HVAE, data: PatchData, config: FitConfig) -> None:
    for name, dataset in (("training", data.train), ("test", data.test)):
        images, pixels = dataset["x"].shape
        if pixels != vae.pixels:
            raise HVAEError(
                f"the {name} patches have {pixels} pixels ({data.size}×{data.size}) and the model {vae.pixels}; cut patches of "
                "its size, or build the model with pixels=..."
            )
        if images == 0 or not np.isfinite(dataset["x"].values).all():
            raise HVAEError(f"the {name} patches must be at least one and finite; got {images}, with NaN or infinite values"
                            if images else f"there are no {name} patches")  # fmt: skip
    if config.batch > data.train.sizes["image"]:
        raise HVAEError(f"batch={config.batch}, but there are only {data.train.sizes['image']} training patches")


def _directory(
    out: str | os.PathLike[str] | None, described: dict[str, Any], data: PatchData, overwrite: bool, resume: bool
) -> RunDirectory | None:
    if out is None:
        if resume or overwrite:
            raise HVAEError("resume and overwrite concern a run directory; give out=...")
        return None
    if resume and overwrite:
        raise HVAEError("resume goes on with a run and overwrite replaces it; give one of them")
    if resume:
        directory = RunDirectory.open(out)
        if directory.packed:
            raise HVAEError(
                f"{out} is a packed run, without optimizer and random state, so it cannot be resumed; start from its "
                "parameters instead: hvae.fit(hvae.load(...), ...), or --from on the command line"
            )
        ours = json.loads(json.dumps(comparable(described)))  # as the run's went through JSON
        # What an earlier version did not know of, its runs have as by default.
        theirs = comparable(directory.config | {"fit": directory.fit_config.to_dict()})
        if ours != theirs:
            found = differences(ours, theirs)
            raise HVAEError(
                f"{out} cannot be resumed: it was begun with another configuration ({'; '.join(found[:5])}); give the "
                "settings and images of the run, or another directory"
            )
        return directory
    directory = RunDirectory.create(out, described, overwrite=overwrite)
    try:
        directory.write_data(data)
    except BaseException:
        directory.discard()
        directory.release()
        raise
    return directory
