"""The training loop: data in, bound up, everything on disk needed to go on after any interruption."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import infer
from torch import Tensor

from pyro_hvae.errors import HVAEError, unknown
from pyro_hvae.inference.config import (
    FitConfig,
    Value,
    default_objective,
    describe_objective,
    make_config,
    objective_from,
)
from pyro_hvae.inference.objectives import ELBO, Bound
from pyro_hvae.inference.progress import Progress
from pyro_hvae.inference.pyro_objectives import check_objective
from pyro_hvae.inference.runs import RECORDED, Checkpoint, RunDirectory, differences, digest, fingerprint
from pyro_hvae.inference.step import TrainingStep
from pyro_hvae.programs import HVAE, from_config
from pyro_hvae.stimuli import PatchData, natural_patches

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Run:
    """What :func:`fit` returns."""

    vae: HVAE
    """The pair that was passed in, trained in place."""
    history: xr.Dataset
    """By ``step`` (means since the previous row): ``bound`` (annealed), ``elbo`` (un-annealed), ``reconstruction``,
    ``kl_z1``, … in nats an image; ``beta_*``, ``learning_rate``, ``grad_norm``, ``clipped``, ``skipped``, ``seconds``.
    By ``evaluation`` (the step): ``test_elbo``, ``test_reconstruction``, ``test_kl_*`` on held-out patches, un-annealed."""
    step: int
    """Steps taken."""
    path: Path | None
    """The run directory, if one was asked for."""
    interrupted: str | None
    """Name of the signal that stopped the run before its end, or None."""


def fit(
    vae: HVAE,
    data: PatchData,
    *,
    steps: int | None = None,
    objective: Bound | infer.ELBO | None = None,
    batch: int | None = None,
    learning_rate: Value | None = None,
    beta: Value | Mapping[str, Value] | None = None,
    train: str = "both",
    clip: float | None = None,
    skip: float | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    device: str = "auto",
    seed: int = 0,
    log_every: int = 50,
    evaluate_every: int = 1000,
    evaluate_images: int = 2000,
    checkpoint_every: int = 1000,
    progress: bool = True,
) -> Run:
    """Train a pair by stochastic gradient ascent on a bound (Adam, no weight decay); the pair is changed in place.

    What is not given comes from the pair's preset: its objective, batch, learning rate and beta schedules, the latter
    stretched from the published number of steps to ``steps``.

    :param data: patches; ``data.train`` is trained on, ``data.test`` evaluated on.
    :param steps: number of updates; by default the published number (tens of millions).
    :param objective: a bound of ours, or ``pyro.infer.Trace_ELBO``, ``TraceMeanField_ELBO`` or ``RenyiELBO``.
    :param learning_rate, beta: numbers, :class:`~pyro_hvae.inference.schedules.Schedule` objects, or ``"0:0.1,10000:1"``;
        beta for all sites or by site.
    :param train: ``"both"``, ``"guide"`` (the generative model stays as it is) or ``"model"``.
    :param clip, skip: gradient norms above which a gradient is shortened, or its step left out; both are counted.
    :param out: run directory; refused if it exists, unless ``overwrite`` or ``resume``.
    :param resume: go on from the newest checkpoint in ``out``; on a CPU the parameters end bit for bit as if the run had
        never stopped. Everything but ``steps`` (which may grow) must be as in the run.
    :param device: ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.
    :param progress: show a progress bar with the terms of the bound.
    :raises HVAEError: for options that do not fit, a run that cannot be resumed, or a loss that is not finite: with the
        step, the term and the last good checkpoint.

    Ctrl-C and SIGTERM save a checkpoint and end the run early; ``Run.interrupted`` says so.
    """
    target = torch_device(device)
    objective = default_objective(vae) if objective is None else objective
    config = make_config(
        vae, steps=steps, batch=batch, learning_rate=learning_rate, beta=beta, train=train, clip=clip, skip=skip,
        log_every=log_every, evaluate_every=evaluate_every, evaluate_images=evaluate_images,
        checkpoint_every=checkpoint_every, seed=seed,
    )  # fmt: skip
    _check_data(vae, data, config)
    vae.to(target)
    check_objective(objective, vae, torch.zeros(2, vae.pixels, device=target))
    if not isinstance(objective, Bound) and any(schedule.knots != ((0, 1),) for _, schedule in config.beta):
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
    }
    directory = _directory(out, described, data, overwrite, resume)
    return _Loop(vae, data, objective, config, directory, described, target).run(resume, progress)


def resume(
    out: str | os.PathLike[str], *, steps: int | None = None, device: str = "auto", progress: bool = True
) -> Run:
    """Go on with the run in ``out`` under its own settings: pair, objective and data are made again from its record.

    :param steps: another end than the run's own; may only be later than its newest checkpoint.
    :raises HVAEError: where the record does not suffice (programs, objectives or patches of your own): then call
        :func:`fit` with ``resume=True``.
    """
    directory = RunDirectory.open(out)
    config = directory.fit_config
    return fit(
        from_config(directory.config["vae"]),
        _recorded_data(directory),
        objective=objective_from(directory.config["objective"]),
        steps=config.steps if steps is None else steps,
        batch=config.batch, learning_rate=config.learning_rate, beta=dict(config.beta), train=config.train, clip=config.clip,
        skip=config.skip, seed=config.seed, log_every=config.log_every, evaluate_every=config.evaluate_every,
        evaluate_images=config.evaluate_images, checkpoint_every=config.checkpoint_every,
        out=out, resume=True, device=device, progress=progress,
    )  # fmt: skip


def _recorded_data(directory: RunDirectory) -> PatchData:
    """Cut the patches of a run again; the digest of the training set is compared by :func:`fit`."""
    provenance = directory.config["data"]["provenance"]
    options = provenance.get("options", {})
    if provenance.get("kind") != "natural" or provenance.get("source") == "array":
        raise HVAEError(f"{directory.path} was trained on patches that cannot be cut again from its record; resume it with "
                        "fit(vae, data, ..., resume=True) and the same data")  # fmt: skip
    return natural_patches(source=provenance["source"], train=provenance["train"], test=provenance["test"], **options)


def torch_device(name: str) -> torch.device:
    """The device of ``"auto"``, ``"cpu"`` or ``"cuda"``; an error where there is no such device."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise HVAEError("device='cuda' was asked for, but torch finds no CUDA device; use 'cpu' or 'auto'")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


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
        if directory.fingerprint != fingerprint(described):
            ours = json.loads(json.dumps({key: described[key] for key in RECORDED}))  # as the run's went through JSON
            found = differences(ours, {key: directory.config[key] for key in RECORDED})
            found = [line for line in found if not line.startswith("fit.steps")]
            raise HVAEError(
                f"{out} cannot be resumed: it was begun with another configuration ({'; '.join(found[:5])})"
            )
        return directory
    directory = RunDirectory.create(out, described, overwrite=overwrite)
    directory.write_data(data)
    return directory


class _Loop:
    """One run of :func:`fit`."""

    def __init__(
        self,
        vae: HVAE,
        data: PatchData,
        objective: Any,
        config: FitConfig,
        directory: RunDirectory | None,
        described: dict[str, Any],
        device: torch.device,
    ):
        self.vae, self.config, self.directory, self.device = vae, config, directory, device
        self.described, self.fingerprint = described, fingerprint(described)
        self.x = torch.from_numpy(np.ascontiguousarray(data.train["x"].values)).to(device)
        self.test = torch.from_numpy(data.test["x"].values[: config.evaluate_images]).to(device)
        trained = {"both": vae, "model": vae.model, "guide": vae.guide}[config.train]
        ids = {id(p) for p in trained.parameters()}
        self.named = {name: p for name, p in vae.named_parameters() if id(p) in ids and p.requires_grad}
        self.optimizer = torch.optim.Adam(self.named.values(), lr=config.learning_rate(0), fused=True)
        like = next(iter(self.named.values()))
        self.betas = {site: torch.ones((), dtype=like.dtype, device=device) for site, _ in config.beta}
        self.step = TrainingStep(vae, objective, self.optimizer, self.betas, config.clip, config.skip)
        self.rows: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float]] = []
        self.done = 0
        self.order: tuple[int, Tensor] | None = None
        self.interrupted: str | None = None

    def run(self, resume: bool, progress: bool) -> Run:
        config = self.config
        frozen = [p for p in self.vae.parameters() if p.requires_grad and all(p is not q for q in self.named.values())]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _Signals(self), _frozen(frozen):
            torch.manual_seed(config.seed)
            if resume:
                self._resume()
            with Progress(config.steps, self.done, enabled=progress) as bar:
                began = time.perf_counter()
                while self.done < config.steps and self.interrupted is None:
                    step = self.done
                    for group in self.optimizer.param_groups:
                        group["lr"] = config.learning_rate(step)
                    for site, schedule in config.beta:
                        self.betas[site].fill_(schedule(step))
                    self.step(self._batch(step), step)
                    self.done = step + 1
                    last = self.done == config.steps or self.interrupted is not None
                    if last or self.done % config.log_every == 0 or self.done % config.checkpoint_every == 0:
                        self._log(time.perf_counter() - began)
                        bar.update(self.rows[-1])
                        began = time.perf_counter()
                    if last or self.done % config.evaluate_every == 0:
                        self.evaluations.append({"evaluation": self.done, **self.evaluate()})
                        bar.evaluated(self.evaluations[-1])
                    if last or self.done % config.checkpoint_every == 0:
                        self._save()
        self.vae.record = self.described | {"step": self.done}
        path = self.directory.path if self.directory else None
        return Run(self.vae, self._history(), self.done, path, self.interrupted)

    # -- data

    def _batch(self, step: int) -> Tensor:
        """The batch of a step is a function of seed and step alone: every epoch its own permutation, the rest dropped."""
        batch = self.config.batch
        epoch, position = divmod(step, len(self.x) // batch)
        if self.order is None or self.order[0] != epoch:
            generator = torch.Generator().manual_seed((self.config.seed << 32) + epoch)
            self.order = (epoch, torch.randperm(len(self.x), generator=generator).to(self.device))
        return self.x[self.order[1][position * batch : (position + 1) * batch]]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Un-annealed ELBO and its terms on held-out patches; leaves the random state of the training alone."""
        sums: dict[str, float] = {}
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            for x in self.test.split(500):
                evaluation = ELBO().evaluate(self.vae.model, self.vae.guide, x)
                for name, term in {"test_elbo": evaluation.elbo, **evaluation.terms}.items():
                    sums[name] = sums.get(name, 0.0) + float(term.double().sum())
        return _nats({name: total / len(self.test) for name, total in sums.items()}, "test_")

    # -- history and checkpoints

    def _log(self, seconds: float) -> None:
        metrics = self.step.fetch()
        if metrics.first_bad is not None:
            raise HVAEError(self._explain(metrics.first_bad, metrics.bad_terms))
        step = self.done - 1
        self.rows.append({
            "step": self.done,
            **_nats(metrics.means, ""),
            **{f"beta_{site}": schedule(step) for site, schedule in self.config.beta},
            "learning_rate": self.config.learning_rate(step),
            "clipped": metrics.clipped,
            "skipped": metrics.skipped,
            "seconds": seconds,
        })  # fmt: skip

    def _explain(self, step: int, terms: tuple[str, ...]) -> str:
        names = {"x": "reconstruction", "grad_norm": "gradient"} | {s: f"KL of {s}" for s in self.vae.sites}
        culprits = [names[t] for t in terms if t in names and (t != "grad_norm" or len(terms) == 1)]
        checkpoints = self.directory.checkpoints() if self.directory else []
        good = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
        return (
            f"step {step}: not finite: {', '.join(culprits) or 'the bound'}. The parameters were left as before that step; "
            f"{good}. Lower the learning rate, raise beta more slowly, or set clip=..."
        )

    def _save(self) -> None:
        if self.directory is None:
            return
        tensors = {f"vae.{name}": tensor for name, tensor in self.vae.state_dict().items()}
        for name, p in self.named.items():
            for key, value in self.optimizer.state[p].items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        self.directory.write_history(self._history())  # first: rows beyond the checkpoint are dropped on resuming
        self.directory.write_checkpoint(Checkpoint(self.done, tensors, self.fingerprint))

    def _resume(self) -> None:
        assert self.directory is not None
        checkpoint = self.directory.latest()
        if checkpoint.configuration != self.fingerprint:
            raise HVAEError(f"the newest checkpoint of {self.directory.path} is of another configuration")
        checkpoint.load_into(self.vae)
        for name, p in self.named.items():
            prefix = f"optimizer.{name}."
            state = {k[len(prefix):]: v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}  # fmt: skip
            self.optimizer.state[p] = {k: v.to(self.device) for k, v in state.items()}
        torch.set_rng_state(checkpoint.tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["rng.cuda"], self.device)
        self.done = checkpoint.step
        history = self.directory.history()
        self.rows = [r for r in _records(history, "step") if r["step"] <= self.done]
        self.evaluations = [r for r in _records(history, "evaluation") if r["evaluation"] <= self.done]

    def _history(self) -> xr.Dataset:
        variables: dict[str, Any] = {}
        for dim, records in (("step", self.rows), ("evaluation", self.evaluations)):
            for name in records[0] if records else ():
                kind = np.int64 if name in ("step", "evaluation", "clipped", "skipped") else np.float64
                variables[name] = (dim, np.array([r[name] for r in records], kind), _attributes(name))
        coordinates = {name: variables.pop(name) for name in ("step", "evaluation") if name in variables}
        return xr.Dataset(variables, coordinates)


def _nats(terms: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Terms under their names in the history: log p(x|z) is ``reconstruction``, log p - log q of a site minus its KL."""
    named = {}
    for name, value in terms.items():
        if name == "x":
            named[f"{prefix}reconstruction"] = value
        elif name in ("bound", "elbo", "grad_norm", "test_elbo"):
            named[name] = value
        else:
            named[f"{prefix}kl_{name}"] = -value
    return named


def _attributes(name: str) -> dict[str, str]:
    if name == "seconds":
        return {"units": "s"}
    in_nats = name in ("bound", "elbo") or "kl_" in name or "reconstruction" in name or name == "test_elbo"
    return {"units": "nats/image"} if in_nats else {}


def _records(history: xr.Dataset, dim: str) -> list[dict[str, float]]:
    if dim not in history.coords:
        return []
    names = [dim, *(str(n) for n in history.data_vars if history[n].dims == (dim,))]
    columns = [history[n].values.tolist() for n in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


class _frozen:
    """Parameters that are not trained do not require gradients meanwhile."""

    def __init__(self, parameters: list[torch.nn.Parameter]):
        self.parameters = parameters

    def __enter__(self) -> None:
        for p in self.parameters:
            p.requires_grad_(False)

    def __exit__(self, *exception: object) -> None:
        for p in self.parameters:
            p.requires_grad_(True)


class _Signals:
    """Ctrl-C and SIGTERM end the loop after the step under way; a second Ctrl-C ends it at once."""

    def __init__(self, loop: _Loop):
        self.loop = loop
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self.loop.interrupted = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def __exit__(self, *exception: object) -> None:
        self._restore()
