"""Several pairs of one architecture trained at once: their parameters stacked, one step for all by :func:`torch.func.vmap`.

Every member draws its batches and random numbers as in a run of its own, so that each ends as :func:`~pyro_hvae.fit` would have
trained it, up to rounding. Members of another shape (another dim z2, another number of particles) cannot be stacked with
the rest; they are stacked among themselves, one group after the other.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_hvae.arguments import checked
from pyro_hvae.bounds.names import GradientName, ObjectiveName
from pyro_hvae.errors import HVAEError
from pyro_hvae.published import Training, build
from pyro_hvae.published.options import Device, GuideName, Precision, RecipeName, TrainedPart, Value
from pyro_hvae.stimuli import PatchData
from pyro_hvae.training.callbacks import Callback
from pyro_hvae.training.config import default_objective, fill_in
from pyro_hvae.training.contexts import Signals, exclusive
from pyro_hvae.training.fit import prepare, torch_device
from pyro_hvae.training.progress import Progress
from pyro_hvae.training.tracing import NotCompilable, compile_graph, first_line, lift_noise, trace
from pyro_hvae.training.training_loop import Loop, Run
from pyro_hvae.training.training_step import TrainingStep


@dataclass(frozen=True)
class Member:
    """One of an ensemble: what sets it apart, and its run."""

    settings: dict[str, Any]
    """Some of ``seed``, ``dim_z2``, ``beta_z2``, ``particles``: those that were given."""
    run: Run
    error: str | None = None
    """Why its training ended early, if it failed; the others went on."""

    @property
    def name(self) -> str:
        """Name of its run directory, such as ``dim_z2=20-seed=1``."""
        return member_name(self.settings)


def member_name(settings: Mapping[str, Any]) -> str:
    """``dim_z2=20-seed=1``."""
    return "-".join(f"{key}={str(value).replace(':', '_').replace(',', '-')}" for key, value in settings.items())


@dataclass(frozen=True)
class Ensemble:
    """What :func:`fit_ensemble` returns."""

    members: tuple[Member, ...]

    @property
    def history(self) -> xr.Dataset:
        """The members' histories along ``member``, with their settings as coordinates."""
        joined = xr.concat([m.run.history for m in self.members], "member", join="outer", combine_attrs="drop")
        names = dict.fromkeys(key for m in self.members for key in m.settings)
        settings = {key: ("member", [m.settings[key] for m in self.members]) for key in names}
        return joined.assign_coords(settings)


@checked
@exclusive()
def fit_ensemble(
    name: str,
    data: PatchData,
    *,
    steps: int,
    seeds: Sequence[int] = (0,),
    dims: Sequence[int] | None = None,
    betas: Sequence[Value] | None = None,
    particles: Sequence[int] | None = None,
    guide: GuideName | None = None,
    recipe: RecipeName = "published",
    start: str | Sequence[str] | None = None,
    objective: ObjectiveName | None = None,
    gradient: GradientName | None = None,
    alpha: float | None = None,
    batch: int | None = None,
    learning_rate: Value | None = None,
    beta: Value | Mapping[str, Value] | None = None,
    train: TrainedPart = "both",
    clip: float | None = None,
    skip: float | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    device: Device = "auto",
    compile: bool = True,
    precision: Precision = "float32",
    log_every: int = 50,
    evaluate_every: int = 1000,
    evaluate_images: int = 2000,
    checkpoint_every: int = 1000,
    early_stopping: int | None = None,
    progress: bool = True,
    callbacks: Callable[[Mapping[str, Any]], Sequence[Callback]] | None = None,
) -> Ensemble:
    """Train a preset under every combination of seeds, dims, betas and particles, all of one shape at once.

    Each member is what ``fit(build(name, seed=seed, …), data, seed=seed, …)`` gives, to rounding.

    :param name: the preset.
    :param seeds: seeds of initial weights, batches and draws.
    :param dims: dimensions of z2.
    :param betas: betas of z2, numbers or schedules; instead of ``beta``.
    :param particles: numbers of particles K of the objective.
    :param objective, gradient, alpha: as :func:`~pyro_hvae.training.config.make_objective` names them; the preset's by default.
    :param out: folder in which every member gets a run directory of its own, with which ``load``, ``export`` and
        ``train --resume`` go on.
    :param compile: compile the stacked step; ``False`` runs its traced graph as it is.
    :param callbacks: called with the settings of each member, such as ``{"seed": 1}``; gives that member's callbacks. A
        member that is stopped stays as it is then, and the others go on.

    The other arguments are those of :func:`~pyro_hvae.fit`, for all members alike.

    :raises HVAEError: as :func:`~pyro_hvae.fit`, and for pairs that cannot be traced. A member that fails while it trains is
        named in a warning and in :attr:`Member.error`; the others go on.
    """
    training = Training.among(locals() | {"particles": None})
    given: dict[str, Sequence[Any] | None] = {"seed": seeds, "dim_z2": dims, "beta_z2": betas, "particles": particles}
    axes = {key: values for key, values in given.items() if values is not None}
    for key, values in axes.items():
        if len(values) == 0 or len(set(map(str, values))) < len(values):
            raise HVAEError(f"{key} of an ensemble must be given without repetition, at least one; got {list(values)}")
    if betas is not None and beta is not None:
        raise HVAEError("betas sets beta of z2 member by member and beta of all alike; give one of them")
    design = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    loops: list[Loop] = []
    try:
        for settings in design:
            vae = build(
                name,
                guide=guide,
                recipe=recipe,
                start=start,
                data=data,
                seed=settings["seed"],
                dim_z2=settings.get("dim_z2"),
            )
            ours = replace(training, seed=settings["seed"], particles=settings.get("particles"))
            if betas is not None:
                ours = replace(ours, beta={"z2": settings["beta_z2"]})
            bound, config = default_objective(vae, training=ours), replace(fill_in(vae, ours), compile=False)
            folder = None if out is None else Path(out) / member_name(settings)
            images = loops[0].x if loops else None  # one copy on the device
            ours_called = () if callbacks is None else callbacks(settings)
            loops.append(
                prepare(
                    vae,
                    data,
                    bound,
                    config,
                    torch_device(device),
                    folder,
                    overwrite=overwrite,
                    images=images,
                    callbacks=ours_called,
                )
            )
        groups: dict[tuple, list[Loop]] = {}
        for settings, loop in zip(design, loops, strict=True):
            groups.setdefault((settings.get("dim_z2"), settings.get("particles")), []).append(loop)
        errors: dict[Loop, str] = {}
        for group in groups.values():
            if not any(loop.interrupted for loop in loops):
                errors |= _train(group, compile, progress)
    finally:
        for loop in loops:
            loop.discard_unbegun()
            loop.release()
    return Ensemble(
        tuple(
            Member(settings, loop.result(), errors.get(loop))
            for settings, loop in zip(design, loops, strict=True)
            if loop.done
        )
    )


def _train(loops: Sequence[Loop], compile: bool, progress: bool) -> dict[Loop, str]:
    """Train loops of one shape in lockstep; returns what stopped those that failed."""
    errors: dict[Loop, str] = {}
    states = [_RandomState(loop.device) for loop in loops]
    first = loops[0]
    with first.session(), Signals(*loops):
        for loop, state in zip(loops, states, strict=True):
            with state.own():
                loop.begin(resume=False)
        stack = Stack([loop.step for loop in loops], first.x[: first.config.batch], compile)
        with (
            Progress(first.config.steps, 0, enabled=progress) as shown,
            Progress(first.config.steps, 0, enabled=False) as hidden,
        ):
            while any(loop.unfinished for loop in loops if loop not in errors):
                images, noise = [], []
                for loop, state in zip(loops, states, strict=True):
                    with state.own():
                        images.append(loop.next_batch())
                        noise.append(stack.draw())
                stack(images, noise)
                for loop, state in zip(loops, states, strict=True):
                    if loop not in errors and loop.stopped is None:
                        with state.own():
                            try:
                                loop.finish_step(shown if loop is first else hidden)
                                if loop.stopped is not None:
                                    loop.step.halt()
                            except HVAEError as error:
                                errors[loop] = str(error)
                                loop.step.halt()
                                warnings.warn(
                                    f"a member of the ensemble (seed {loop.config.seed}) ends here: {error}",
                                    stacklevel=4,
                                )
        stack.part()
    return errors


class Stack:
    """The steps of several pairs as one; their parameters, betas and tallies become views of stacked tensors.

    :param x: images of the size of a batch.
    """

    def __init__(self, steps: Sequence[TrainingStep], x: Tensor, compile: bool):
        self.steps = steps
        try:
            graph = trace(steps[0].function, x)
            self.noise = lift_noise(graph)
        except NotCompilable as reason:
            raise HVAEError(f"these pairs cannot be trained as an ensemble: {reason}") from reason
        columns = zip(*([*s.parameters, *s.betas, s.tally] for s in steps), strict=True)
        *inputs, self.tally = [_share(column) for column in columns]
        split = len(steps[0].parameters)
        self.parameters, self.betas = inputs[:split], inputs[split:]
        outputs = graph(*(t[0] for t in inputs), x, self.tally[0], *(n.draw() for n in self.noise))
        self.present = [o is not None for o in outputs]

        def tensors(*arguments: Tensor) -> list[Tensor]:
            return [o for o in graph(*arguments) if o is not None]

        examples = [*inputs, torch.stack([x] * len(steps)), self.tally, *self._stacked([self.draw() for _ in steps])]
        stacked = make_fx(torch.func.vmap(tensors))(*(e.clone() for e in examples))
        self.run: Callable[..., list[Tensor]] = compile_graph(stacked) if compile else stacked
        if compile:
            try:
                self.run(*examples)
            except Exception as error:  # whatever a compiler raises
                raise HVAEError(f"{first_line(error)}, compiling the step; compile=False trains without") from error

    def part(self) -> None:
        """Give every member's tensors storage of their own again."""
        for step in self.steps:
            for tensor in (*step.parameters, *step.betas, step.tally):
                tensor.data = tensor.data.clone()

    def draw(self) -> list[Tensor]:
        """The random numbers of one member's step, from PyTorch's global random state."""
        return [n.draw() for n in self.noise]

    def _stacked(self, noise: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [torch.stack(draws) for draws in zip(*noise, strict=True)]

    def __call__(self, images: Sequence[Tensor], noise: Sequence[Sequence[Tensor]]) -> None:
        """Train every member on its images with its random numbers."""
        results = iter(
            self.run(*self.parameters, *self.betas, torch.stack(list(images)), self.tally, *self._stacked(noise))
        )
        outputs: list[Any] = [next(results) if there else None for there in self.present]
        *gradients, found_inf, tally = outputs
        self.tally.copy_(tally)
        for m, step in enumerate(self.steps):
            step.update([None if g is None else g[m] for g in gradients], found_inf[m])


def _share(column: Sequence[Tensor]) -> Tensor:
    """One tensor of all members' values, of which each member's becomes a view."""
    stacked = torch.stack([t.detach() for t in column])
    for tensor, view in zip(column, stacked, strict=True):
        tensor.data = view
    return stacked


class _RandomState:
    """A member's own random state, in place of the global one while it draws."""

    def __init__(self, device: torch.device):
        self.device = device
        self._cpu = torch.get_rng_state()
        self._cuda: Tensor | None = None

    @contextmanager
    def own(self) -> Iterator[None]:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self.device)
        yield
        self._cpu = torch.get_rng_state()
        if self.device.type == "cuda":
            self._cuda = torch.cuda.get_rng_state(self.device)
