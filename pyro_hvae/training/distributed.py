"""Data-parallel training: every process takes its share of each batch, and all make the same update.

Started by ``torchrun``, which sets the environment that :func:`processes` reads. The random numbers of a step are drawn for
the whole batch in every process, each of which takes its images' part of them: the run is the one of a single process with
the same batch, up to rounding.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from pyro_hvae.errors import HVAEError
from pyro_hvae.published.options import Compile
from pyro_hvae.training.tracing import Noise, NotCompilable, compare, compile_graph, first_line, lift_noise, trace
from pyro_hvae.training.training_step import Advance, StepResult, TrainingStep

#: Why the mean over parts could differ from the step on the whole batch.
APART = (
    "the bound of an image depends on the other images of its batch (a BatchNorm layer?), on its place among them, or on "
    "parameters outside the pair; train in one process, or make images independent"
)


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which of them this is."""

    rank: int
    size: int

    def agree(self, received: str | None, asked: bool = False) -> tuple[str | None, bool]:
        """The signal that any of the processes has received, and whether any was asked to stop."""
        found = torch.tensor([0 if received is None else int(signal.Signals[received]), int(asked)])
        if distributed.get_backend() == "nccl":
            found = found.cuda()
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        number, any_asked = found.tolist()
        return (signal.Signals(number).name if number else None), bool(any_asked)

    def begin_alike(self, vae: nn.Module, fingerprint: str) -> None:
        """Give every process the first one's parameters and buffers.

        :raises HVAEError: where the processes were given other settings or other images.
        """
        found: list[str] = [""] * self.size
        distributed.all_gather_object(found, fingerprint)
        if len(set(found)) > 1:
            ranks = [rank for rank, other in enumerate(found) if other != found[0]]
            raise HVAEError(
                f"processes {ranks} were given other settings or other images than process 0; make the same data, from "
                "the same seed, in every process"
            )
        for t in (*vae.parameters(), *vae.buffers()):
            distributed.broadcast(t.detach(), 0)


@contextmanager
def processes(device: torch.device) -> Iterator[Processes | None]:
    """The processes that ``torchrun`` started, joined; None for a process on its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    joined = distributed.is_initialized()
    if not joined:
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        if not joined:
            distributed.destroy_process_group()


def share_batch(step: TrainingStep, x: Tensor, processes: Processes, compile: Compile) -> Advance:
    """A step that is given the whole batch and computes its process's part of it; for ``step(x, advance)``.

    :param x: images of the size of the whole batch.
    :raises HVAEError: for a batch that cannot be shared equally, objectives of Pyro, pairs that cannot be traced, and
        pairs whose gradient over a batch is not the mean of those over its parts.
    """
    part = Part(processes, len(x))
    if step.pyro_objective is not None:
        raise HVAEError(
            "data-parallel training needs a bound of pyro_hvae; Pyro's objectives differentiate by themselves"
        )
    data = [p.detach() for p in step.parameters]
    try:
        whole = lift_noise(trace(step.function, x, decided=False))
        graph = trace(step.function, part.of(x, 0), decided=False)
        mine = lift_noise(graph)
        dims = [part.image_dim(w, m) for w, m in zip(whole, mine, strict=True)]
        run = compile_graph(graph) if compile else graph

        def differentiate(betas: Sequence[Tensor], x: Tensor) -> tuple[list[Tensor | None], Tensor]:
            noise = [part.of(w.draw(), dim) for w, dim in zip(whole, dims, strict=True)]
            outputs = run(*data, *betas, part.of(x, 0), *noise)
            there = [o for o in outputs if o is not None]
            flat = torch.cat([o.reshape(-1) for o in there])
            distributed.all_reduce(flat)
            pieces = iter((flat / processes.size).split([o.numel() for o in there]))
            means = [None if o is None else next(pieces).view_as(o).to(o.dtype) for o in outputs]
            values = means.pop()
            assert values is not None
            return means, values

        compare(step.function, step.function.differentiate, differentiate, x, APART)
    except NotCompilable as reason:
        raise HVAEError(
            f"data-parallel training needs a pair whose parts of a batch can be traced: {reason}"
        ) from reason
    except Exception as error:
        if not compile:
            raise
        raise HVAEError(f"{first_line(error)}, compiling the step; compile=False trains without") from error

    def advance(betas: Sequence[Tensor], x: Tensor, tally: Tensor) -> StepResult:
        return step.function.decide(*differentiate(betas, x), tally)

    return advance


@dataclass(frozen=True)
class Part:
    """The images of a batch that one process takes."""

    processes: Processes
    batch: int

    def __post_init__(self) -> None:
        if self.batch % self.processes.size:
            raise HVAEError(f"a batch of {self.batch} cannot be shared by {self.processes.size} processes; give a batch that "
                            "is a multiple of their number")  # fmt: skip

    def of(self, t: Tensor, dim: int | None) -> Tensor:
        """This process's part of a tensor along the dimension of images; all of it where there is none."""
        if dim is None:
            return t
        size = self.batch // self.processes.size
        return t.narrow(dim, self.processes.rank * size, size)

    def image_dim(self, whole: Noise, mine: Noise) -> int | None:
        """The dimension of images in a draw: the one that differs between the whole batch and a part."""
        size = self.batch // self.processes.size
        differing = [i for i, (a, b) in enumerate(zip(whole.shape, mine.shape, strict=True)) if a != b]
        if [(whole.shape[i], mine.shape[i]) for i in differing] not in ([], [(self.batch, size)]):
            raise NotCompilable(
                f"a draw has shape {whole.shape} for {self.batch} images and {mine.shape} for {size}; keep the images a "
                "dimension of their own"
            )
        return differing[0] if differing else None
