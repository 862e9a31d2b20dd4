"""What may be said of how a pair is built and trained: each option once, with its help; without torch, for the command line.

A new option of training is a field of :class:`Training`, and from there in sweeps and on the command lines of ``train`` and
``sweep``; :func:`~pyro_hvae.fit` and :func:`~pyro_hvae.fit_ensemble` write their signatures out, and a test compares them.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from pyro_hvae.arguments import as_annotated, seed_of, whole_number
from pyro_hvae.bounds.names import GradientName, ObjectiveName
from pyro_hvae.errors import HVAEError
from pyro_hvae.published.schedules import Schedule

Value = float | str | Schedule
"""A number for all steps, a schedule, or a schedule as text: ``"0:0.1,10000:1"``."""
GuideName = Literal["top_down", "bottom_up", "mean_field", "ladder"]
RecipeName = Literal["published", "fast"]
TrainedPart = Literal["both", "model", "guide"]
Precision = Literal["float32", "tf32", "bfloat16"]
Compile = bool | Literal["auto"]
Device = Literal["auto", "cpu", "cuda"]

RECIPES: tuple[str, ...] = get_args(RecipeName)


def option(default: Any, help: str, *, least: int | None = None, norm: bool = False, recorded: bool = True) -> Any:
    """A field that is an option.

    :param help: as the command line shows it; the default is added there.
    :param least: of a whole number.
    :param norm: whether the value must be positive.
    :param recorded: whether it is part of what a run directory records as ``fit``, and must be the same where it goes on.
    """
    return field(default=default, metadata={"help": help, "least": least, "norm": norm, "recorded": recorded})


class Options:
    """Base of dataclasses whose fields are made by :func:`option`: every value is checked against annotation and limits.

    :raises HVAEError: for a value of another type, an unknown name, or a number beyond its limits.
    """

    def __post_init__(self) -> None:
        hints = _types(type(self))
        for name, about in metadata(type(self)).items():
            value = as_annotated(name, getattr(self, name), hints[name])
            if about["least"] is not None and value is not None:
                value = whole_number(name, value, about["least"])
            if about["norm"] and value is not None and not value > 0:
                raise HVAEError(f"{name} is a norm and must be positive (or None for never), got {value!r}")
            if name == "seed":
                value = seed_of(value)
            object.__setattr__(self, name, value)

    @classmethod
    def among(cls, values: Mapping[str, Any]) -> Self:
        """Those of the values that are options, by name: ``Training.among(locals())`` in a function that takes them all."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})  # type: ignore[arg-type]


def _types(cls: type[Options]) -> dict[str, Any]:
    """Types of the options by name."""
    return typing.get_type_hints(cls)


def metadata(cls: type[Options]) -> dict[str, Mapping[str, Any]]:
    """What :func:`option` was told, by name; of the class that first has the field, where another narrows its type."""
    found: dict[str, Mapping[str, Any]] = {}
    for base in reversed(cls.__mro__):
        for f in base.__dict__.get("__dataclass_fields__", {}).values():
            if "help" in f.metadata:
                found[f.name] = f.metadata
    return found


@dataclass(frozen=True, kw_only=True)
class PairOptions(Options):
    """What of a published system may be other than published, as :func:`~pyro_hvae.build` takes it."""

    guide: GuideName | None = option(
        None, "another guide than the published one: ladder, top_down, bottom_up, mean_field"
    )
    pixels: int | None = option(None, "pixels of an image", least=1)
    dim_z1: int | None = option(None, "dimensions of z1", least=1)
    dim_z2: int | None = option(None, "dimensions of z2", least=1)
    noise: float | None = option(None, "standard deviation of the observation noise (0.4)")
    learn_noise: bool = option(False, "learn the observation noise")
    recipe: RecipeName = option(
        "published", "published, or fast: how a run starts and is trained where nothing else is said"
    )
    start: str | None = option(
        None, "another start than the recipe's: default, linear_regime, ica, or ica,energies (z1 at the independent components "
        "of the patches, z2 at their energies)"
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Training(Options):
    """How a pair is trained; None stands for what its recipe says."""

    steps: int | None = option(
        None, "number of updates (default: the recipe's; tens of millions as published)", least=1
    )
    batch: int | None = option(None, "images a step", least=1)
    learning_rate: Value | None = option(None, "a number, or step:value pairs such as 0:1e-3,8000:1e-4")
    beta: Value | Mapping[str, Value] | None = option(None, "beta of all sites, a number or a schedule")
    train: TrainedPart = option("both", "what is trained: both, guide (the model stays as it is) or model")
    clip: float | None = option(None, "shorten longer gradients (of the mean loss) to this norm", norm=True)
    skip: float | None = option(None, "leave out steps with a longer gradient", norm=True)
    log_every: int = option(50, "steps between rows of the history", least=1)
    evaluate_every: int = option(1000, "steps between held-out evaluations", least=1)
    evaluate_images: int = option(2000, "held-out patches of an evaluation, at most", least=1)
    checkpoint_every: int = option(1000, "steps between checkpoints", least=1)
    early_stopping: int | None = option(
        None,
        "end the run after this many held-out evaluations in which the ELBO has not grown",
        least=1,
        recorded=False,
    )
    seed: int = option(0, "of the initial weights, the batches and the draws", least=0)
    precision: Precision = option("float32", "of matrix products: float32, tf32 (CUDA only) or bfloat16")
    compile: Compile = option(
        "auto", "compile the training step: true (always), false (never), or auto: from 5000 steps on", recorded=False
    )
    # Where an objective is given as an object, these stay None.
    objective: ObjectiveName | None = option(None, "elbo, importance_weighted or renyi", recorded=False)
    particles: int | None = option(None, "particles K of the objective", least=1, recorded=False)
    gradient: GradientName | None = option(
        None, "estimator of the gradient: standard, stl, dreg, rao_blackwell, rao_blackwell_stl or rao_blackwell_dreg",
        recorded=False,
    )  # fmt: skip
    alpha: float | None = option(None, "order of the Rényi bound", recorded=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        betas = self.beta.values() if isinstance(self.beta, Mapping) else [self.beta]
        for value in (self.learning_rate, *betas):
            if value is not None:
                Schedule.of(value)
