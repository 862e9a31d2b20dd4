"""The loop of a training run: batches, schedules, logging, checkpoints, signals."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
import xarray as xr
from torch import Tensor

from pyro_hvae.bounds.objectives import ELBO
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import HVAE
from pyro_hvae.programs.program import evaluating
from pyro_hvae.training import history
from pyro_hvae.training.callbacks import Callback, EarlyStopping, Row, TrainingState, told
from pyro_hvae.training.config import FitConfig
from pyro_hvae.training.contexts import Signals, frozen, matmul_precision
from pyro_hvae.training.distributed import Processes, share_batch
from pyro_hvae.training.progress import Progress
from pyro_hvae.training.recorded import fingerprint
from pyro_hvae.training.run_directory import Checkpoint, RunDirectory
from pyro_hvae.training.tracing import CudaGraph, NotCompilable, compile_step
from pyro_hvae.training.training_step import Advance, TrainingStep

STALLED = 10  # consecutive steps skipped from which on a run is said to have stalled
AGREE_EVERY = 10  # steps after which processes tell each other of signals


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
    stopped: str | None = None
    """Why a callback ended the run before its end, or None."""


#: Called before every step with its number and its images ``(image, pixel)``.
OnStep = Callable[[int, Tensor], None]


def trained_parameters(vae: HVAE, config: FitConfig) -> dict[str, torch.nn.Parameter]:
    """Parameters that are trained, by their names in the pair.

    :raises HVAEError: where there is none.
    """
    trained = {"both": vae, "model": vae.model, "guide": vae.guide}[config.train]
    ids = {id(p) for p in trained.parameters()}
    named = {name: p for name, p in vae.named_parameters() if id(p) in ids and p.requires_grad}
    if not named:
        raise HVAEError(
            f"there is nothing to train: train={config.train!r}, and no parameter of {type(trained).__name__} requires a "
            "gradient"
        )
    return named


class Loop:
    """One run of :func:`~pyro_hvae.training.fit.fit`: the state between steps, on disk and off."""

    def __init__(
        self,
        vae: HVAE,
        objective: Any,
        config: FitConfig,
        images: Tensor,
        test: Tensor,
        *,
        directory: RunDirectory | None,
        described: dict[str, Any],
        processes: Processes | None = None,
        on_step: OnStep | None = None,
        callbacks: Sequence[Callback] = (),
    ):
        """
        :param config: with ``compile`` settled: True insists, ``"auto"`` compiles where it can, False does not.
        :param images: training patches ``(image, pixel)`` on the device.
        :param test: patches to evaluate on.
        :param described: the configuration as the run directory records it.
        :param on_step: called before every step with its number and its images.
        :param callbacks: called by the process that writes the run.
        """
        self.vae, self.config, self.directory, self.processes, self.on_step = vae, config, directory, processes, on_step
        self.x, self.test, self.device = images, test, images.device
        self.described, self.fingerprint = described, fingerprint(described)
        self.named = trained_parameters(vae, config)
        self.betas = {site: torch.ones((), dtype=images.dtype, device=self.device) for site in config.beta}
        self.step = TrainingStep(vae, objective, self.named, self.betas, config)
        self.scheduled = {"learning rate": (self.step.learning_rate, config.learning_rate)}
        self.scheduled |= {site: (self.betas[site], schedule) for site, schedule in config.beta.items()}
        self._values: dict[str, float] = {}
        self.compile_seconds: float | None = None
        self.rows: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float]] = []
        self.done = 0
        self.order: tuple[int, Tensor] | None = None
        early = [] if config.early_stopping is None else [EarlyStopping(config.early_stopping)]
        self.callbacks = (*early, *callbacks)
        self.stop_reason: str | None = None  # of a callback that wants the run to stop
        self.stopped: str | None = None  # of the one that did
        self.stop_signal: str | None = None  # the signal that wants the run to stop
        self.interrupted: str | None = None  # the one that did: between steps, and in all processes at the same one

    def run(self, resume: bool, progress: bool) -> Run:
        """Train to the end, or to a signal."""
        with self.session(), Signals(self):
            self.begin(resume)
            take = self._step()
            with Progress(self.config.steps, self.done, enabled=progress and self.main) as bar:
                while self.unfinished:
                    take(self.next_batch())
                    self.finish_step(bar)
        return self.result()

    def _step(self) -> Callable[[Tensor], None]:
        """What takes a step: eager, compiled, or its process's part of one."""
        began = time.perf_counter()
        if self.processes is not None:
            self.processes.begin_alike(self.vae, self.fingerprint)
            x = self.x[: self.config.batch]
            advance = share_batch(self.step, x, self.processes, self.config.compile)
        elif self.config.compile:
            compiled = self._compiled()
            if compiled is None:
                return self.step
            advance = compiled
        else:
            return self.step
        if self.config.compile:
            self.compile_seconds = time.perf_counter() - began
        if self.device.type == "cuda" and self.processes is None:
            return CudaGraph(self.step, advance)
        return functools.partial(self.step, advance=advance)

    @property
    def main(self) -> bool:
        """Whether this process writes and shows the run."""
        return self.processes is None or self.processes.rank == 0

    # -- one run in parts, for those who run several at once

    @contextmanager
    def session(self) -> Iterator[None]:
        """Settings of PyTorch and Pyro that hold while training, the random state among them."""
        untrained = [
            p for p in self.vae.parameters() if p.requires_grad and all(p is not q for q in self.named.values())
        ]
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []))
            stack.enter_context(frozen(untrained))
            # Pyro's validation synchronises at every site; what is not finite is found by the step itself.
            stack.enter_context(pyro.validation_enabled(False))
            stack.enter_context(matmul_precision("high" if self.config.precision == "tf32" else "highest"))
            yield

    def begin(self, resume: bool) -> None:
        """Seed the run, or take up its newest checkpoint."""
        torch.manual_seed(self.config.seed)
        if resume:
            self._resume()
        self._began = time.perf_counter()

    @property
    def unfinished(self) -> bool:
        """Whether there is another step to take."""
        return self.done < self.config.steps and self.interrupted is None and self.stopped is None

    def next_batch(self) -> Tensor:
        """The images of the next step, with learning rate and betas set to its values."""
        for name, (tensor, schedule) in self.scheduled.items():
            if (value := schedule(self.done)) != self._values.get(name):
                tensor.fill_(value)
                self._values[name] = value
        images = self._batch(self.done)
        if self.on_step is not None:
            self.on_step(self.done, images)
        return images

    def finish_step(self, bar: Progress) -> None:
        """Count a step that was taken; log, evaluate and save where it is time to, and at the last step."""
        config = self.config
        self.done += 1
        self._settle()
        saves = self.done % config.checkpoint_every == 0
        if not self.unfinished or self.done % config.log_every == 0 or saves:
            self._logged(bar)
        if not self.unfinished or self.done % config.evaluate_every == 0:
            self._evaluated(bar)
        if not self.unfinished or saves:
            self._save()
        if not self.unfinished and (new := self._unrecorded()):
            # A callback has asked to stop when some of this was not due, or done already.
            for record in new:
                record(bar)
            self._save()

    def _settle(self) -> None:
        """Whether a signal or a callback ends the run here: in all processes at the same step."""
        if self.processes is None:
            self.interrupted = self.stop_signal
        elif self.done % AGREE_EVERY == 0:
            self.interrupted, asked = self.processes.agree(self.stop_signal, self.stop_reason is not None)
            self.stopped = (self.stop_reason or "a callback of the first process has asked to stop") if asked else None

    def _unrecorded(self) -> list[Callable[[Progress], None]]:
        """What the history lacks of this step."""
        last = [rows[-1][name] if rows else 0 for rows, name in ((self.rows, "step"), (self.evaluations, "evaluation"))]
        return [record for record, at in zip((self._logged, self._evaluated), last, strict=True) if at < self.done]

    def _logged(self, bar: Progress) -> None:
        self._log(time.perf_counter() - self._began)
        bar.update(self.rows[-1])
        self._tell("on_log", self.rows[-1])
        self._began = time.perf_counter()

    def _evaluated(self, bar: Progress) -> None:
        self.evaluations.append({"evaluation": self.done, **self.evaluate()})
        bar.evaluated(self.evaluations[-1])
        self._tell("on_evaluate", self.evaluations[-1])

    def _tell(self, event: str, what: Row | Path) -> None:
        """Call the callbacks; what they ask for holds at once, or where there are several processes once all know of it."""
        if not self.main:
            return
        path = self.directory.path if self.directory else None
        state = TrainingState(self.vae, self.done, self.config.steps, path, tuple(self.rows), tuple(self.evaluations))
        reason = told(self.callbacks, event, state, what)
        self.stop_reason = self.stop_reason or reason
        if self.processes is None and self.done < self.config.steps:
            self.stopped = self.stop_reason

    def discard_unbegun(self) -> None:
        """Leave no directory of a run that has not taken a step."""
        if self.directory is not None and self.main and not self.done:
            self.directory.discard()

    def release(self) -> None:
        """Let others write the run directory."""
        if self.directory is not None:
            self.directory.release()

    def result(self) -> Run:
        """What was trained."""
        self.step.optimizer.zero_grad()  # leave no gradients for others to add to
        self.vae.record = self.described | {"step": self.done}
        path = self.directory.path if self.directory and self.main else None
        return Run(self.vae, self._history(), self.done, path, self.interrupted, self.stopped)

    def _compiled(self) -> Advance | None:
        """The step compiled; None, with a warning, where that is impossible and was not insisted on."""
        try:
            return compile_step(self.step, self._batch(self.done))
        except NotCompilable as reason:
            if self.config.compile is True:
                raise HVAEError(f"compile=True: {reason}. compile=False trains without") from reason
            warnings.warn(f"training goes on without compilation: {reason}", stacklevel=4)
            return None

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
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), evaluating(self.vae):
            torch.manual_seed(self.config.seed)
            for x in self.test.split(500):
                evaluation = ELBO().evaluate(self.vae.model, self.vae.guide, x)
                for name, term in {"test_elbo": evaluation.elbo, **evaluation.terms}.items():
                    sums[name] = sums.get(name, 0.0) + float(term.double().sum())
        return history.in_nats({name: total / len(self.test) for name, total in sums.items()}, "test_")

    # -- history and checkpoints

    def _log(self, seconds: float) -> None:
        metrics = self.step.fetch()
        if metrics.first_bad is not None:
            raise HVAEError(self._explain(metrics.first_bad, metrics.bad_terms))
        since = self.done - (int(self.rows[-1]["step"]) if self.rows else 0)
        if metrics.skipped == since >= STALLED:
            raise HVAEError(
                f"step {self.done}: all of the last {since} steps were skipped, their gradients (mean norm "
                f"{metrics.means['grad_norm']:.3g}) being longer than skip={self.config.skip:g}; nothing is learnt any more. "
                "Raise skip, or lower the learning rate"
            )
        step = self.done - 1
        self.rows.append({
            "step": self.done,
            **history.in_nats(metrics.means, ""),
            **{f"beta_{site}": schedule(step) for site, schedule in self.config.beta.items()},
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
        if self.directory is None or not self.main:
            return
        tensors = {f"vae.{name}": tensor for name, tensor in self.vae.state_dict().items()}
        for name, p in self.named.items():
            for key, value in self.step.optimizer.state[p].items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        self.directory.write_history(self._history())  # first: rows beyond the checkpoint are dropped on resuming
        self._tell("on_checkpoint", self.directory.write_checkpoint(Checkpoint(self.done, tensors, self.fingerprint)))

    def _resume(self) -> None:
        assert self.directory is not None
        checkpoint = self.directory.latest()
        # The run's own digest: one that was begun by an earlier version lacks options that have come since.
        self.fingerprint = self.directory.fingerprint
        self.directory.check_same(checkpoint)
        checkpoint.load_into(self.vae)
        for name, p in self.named.items():
            prefix = f"optimizer.{name}."
            state = {k[len(prefix):]: v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}  # fmt: skip
            self.step.optimizer.state[p] = {
                # Moments laid out as the parameter: the fused update reads all of them as flat memory.
                k: v.to(self.device) if k == "step" else torch.empty_like(p, requires_grad=False).copy_(v)
                for k, v in state.items()
            }
        torch.set_rng_state(checkpoint.tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["rng.cuda"], self.device)
        if checkpoint.step > self.config.steps:
            raise HVAEError(
                f"the run has taken {checkpoint.step} steps already; steps={self.config.steps} cannot undo them"
            )
        self.done = checkpoint.step
        self.step.start_at(self.done)
        recorded = self.directory.history()
        self.rows = [r for r in history.records(recorded, "step") if r["step"] <= self.done]
        self.evaluations = [r for r in history.records(recorded, "evaluation") if r["evaluation"] <= self.done]

    def _history(self) -> xr.Dataset:
        compiled = {} if self.compile_seconds is None else {"compile_seconds": self.compile_seconds}
        return history.to_dataset(self.rows, self.evaluations, compiled)
