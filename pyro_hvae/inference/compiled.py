"""A training step traced through Pyro once, then compiled: Pyro's handlers cost nothing from the second step on.

The step function is traced by ``make_fx``, with its parameters, betas, images and tally as arguments, into one graph of
tensor operations, in which nothing of Pyro is left; ``torch.compile`` makes machine code of that graph. Compiling the
Pyro program itself instead would break into several graphs and gain nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from pyro_hvae.inference.step import StepFunction, StepResult, TrainingStep

COMPILE_FROM = 5000  # steps from which on compile="auto" compiles: about then the seconds it takes have come back
#: Relative, of a compiled step against the eager one: rounding is far below, a wrong graph above.
TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}

_EMPTY = {torch.ops.aten.empty.memory_format, torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default}

WARM_UP = 3  # steps taken before one is captured: what is allocated or tuned at first use must be so before


class NotCompilable(Exception):
    """Why a step cannot be compiled, in words for the user."""


def trace(function: StepFunction, x: Tensor, *, judged: bool = True) -> GraphModule:
    """One graph of tensor operations: (parameters, betas, images, tally) -> (gradients, found_inf, tally).

    :param x: images of the size of a batch; the graph holds for this size alone.
    :param judged: False for (parameters, betas, images) -> (gradients, values), as
        :meth:`~pyro_hvae.inference.step.StepFunction.differentiate` gives them.
    :raises NotCompilable: for a pair whose course depends on values, or that leaves PyTorch.
    """
    parameters = _parameters(function)
    # Of their own storage each: inputs that alias are taken for one input, and the graph is wrong without a word.
    examples = [p.detach().clone() for p in parameters]
    betas = [torch.ones((), dtype=x.dtype, device=x.device) for _ in function.betas]
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        function.differentiate(betas, x)  # the objective checks the pair at its first call
        tally = [function.tally(0, x.device)] if judged else []
        try:
            return make_fx(stepping(function))(examples, betas, x.clone(), *tally)
        except Exception as error:  # whatever the user's programs raise under tracing
            raise NotCompilable(f"the pair cannot be traced ({_first_line(error)})") from error


def stepping(function: StepFunction) -> Callable[..., Any]:
    """The step function with its parameters as an argument; without a tally, its ``differentiate``."""

    def step(parameters: Sequence[Tensor], betas: Sequence[Tensor], x: Tensor, *tally: Tensor) -> Any:
        live = [p.detach().requires_grad_() for p in parameters]
        named = {f"vae.{name}": p for name, p in zip(function.trained, live, strict=True)}
        return torch.func.functional_call(function, named, (list(betas), x, *tally))

    return step


def compile_graph(graph: Callable, backend: str | Callable = "inductor") -> Callable:
    """Machine code for a traced graph; random numbers are drawn as eager steps draw them."""
    options = {"options": {"fallback_random": True}} if backend == "inductor" else {}
    return torch.compile(graph, fullgraph=True, dynamic=False, backend=backend, **options)


def compile_step(step: TrainingStep, x: Tensor, backend: str | Callable = "inductor") -> float:
    """Put a compiled step in place of the eager one, after comparing the two on ``x``.

    :returns: the seconds it took.
    :raises NotCompilable: the step stays as it was.
    """
    if step.pyro_objective is not None:
        raise NotCompilable(
            f"{type(step.pyro_objective).__name__} of Pyro fetches its loss from the device at every step; use a bound of "
            "pyro_hvae"
        )
    began = time.perf_counter()
    function = step.function
    compiled = compile_graph(trace(function, x), backend)
    try:
        _compare(function, compiled, x)
    except NotCompilable:
        raise
    except Exception as error:
        raise NotCompilable(f"torch.compile failed ({_first_line(error)})") from error
    data = [p.detach() for p in step.parameters]  # share storage with the parameters, and no autograd
    step.advance = lambda betas, x, tally: compiled(data, betas, x, tally)
    return time.perf_counter() - began


# -- random numbers as arguments


@dataclass(frozen=True)
class Noise:
    """A draw of random numbers that a step makes: what it fills, and how."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    fill: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def draw(self, shape: Sequence[int] | None = None) -> Tensor:
        """The draw, from PyTorch's global random state as an eager step would make it; or one of another shape."""
        empty = torch.empty(self.shape if shape is None else shape, dtype=self.dtype, device=self.device)
        return self.fill(empty, *self.arguments, **self.keywords)


def lift_noise(graph: GraphModule) -> list[Noise]:
    """Turn every draw of random numbers in a traced graph into one more argument, in place.

    :returns: the draws, in the order of the new arguments, which follow the old ones.
    :raises NotCompilable: for draws that depend on anything but their shape.
    """
    draws = []
    *_, last = graph.graph.find_nodes(op="placeholder")
    for node in list(graph.graph.nodes):
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        empty, *arguments = node.args
        ours = isinstance(empty, Node) and empty.target in _EMPTY and list(empty.users) == [node]
        if not ours or any(isinstance(a, Node) for a in (*arguments, *node.kwargs.values())):
            raise NotCompilable(f"{node.target} draws random numbers that depend on more than their shape")
        value = node.meta["val"]
        draws.append(Noise(tuple(value.shape), value.dtype, value.device, node.target, tuple(arguments), node.kwargs))
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{len(draws)}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
        graph.graph.erase_node(empty)
    graph.graph.set_codegen(CodeGen())  # the arguments as a flat list
    graph.recompile()
    return draws


class CudaGraph:
    """A training step that is replayed as one CUDA graph from the fourth call on: one launch, nothing done by the host."""

    def __init__(self, step: TrainingStep):
        self.step = step
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x: Tensor | None = None

    def __call__(self, x: Tensor) -> None:
        self._calls += 1
        if self._calls <= WARM_UP:
            return self.step(x)
        if self._graph is None:
            graph, self._x = torch.cuda.CUDAGraph(), x.clone()
            with torch.cuda.graph(graph):
                self.step(self._x)  # recorded, not carried out
            self._graph = graph
        self._x.copy_(x)
        self._graph.replay()


def _compare(function: StepFunction, compiled: Callable[..., StepResult], x: Tensor) -> None:
    """Refuse a graph that is not the step: at other images, parameters and betas than it was traced with."""
    other = x.roll(1, 0) * 0.9 + 0.01
    parameters = [p.detach() * 1.01 for p in _parameters(function)]
    betas = [torch.full((), 0.7, dtype=x.dtype, device=x.device) for _ in function.betas]
    results = []
    for run in (stepping(function), compiled):
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(1)
            results.append(run(parameters, betas, other, function.tally(0, x.device)))
    n = len(function.names)
    (eager, _, eager_tally), (ours, _, our_tally) = results
    pairs = [("value of the bound", eager_tally[:n], our_tally[:n])]
    pairs += [(f"gradient of {name}", a, b) for name, a, b in zip(function.trained, eager, ours, strict=True)]
    for what, a, b in pairs:
        if (a is None) != (b is None):
            raise NotCompilable(f"the {what} exists in one of the eager and the compiled step only")
        if (
            a is not None
            and not (a - b).norm() <= TOLERANCE[function.precision] * a.norm() + 1e-12
            and bool(a.isfinite().all())
        ):
            raise NotCompilable(
                f"the {what} differs between the eager and the compiled step by {float((a - b).norm() / a.norm()):.1e}: the "
                "programs depend on something beside their parameters, the images and PyTorch's random numbers"
            )


def _parameters(function: StepFunction) -> list[Tensor]:
    present = dict(function.vae.named_parameters())
    return [present[name] for name in function.trained]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
