"""A training step traced through Pyro once, then compiled: Pyro's handlers cost nothing from the second step on.

The step function is traced by ``make_fx``, with its parameters, betas, images and tally as arguments, into one graph of
tensor operations, in which nothing of Pyro is left; ``torch.compile`` makes machine code of that graph. Compiling the
Pyro program itself instead would break into several graphs and gain nothing.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from pyro_hvae.training.training_step import Advance, StepFunction, StepResult, TrainingStep

COMPILE_FROM = 5000  # steps from which on compile="auto" compiles: about then the seconds it takes have come back
#: Relative, of a compiled step against the eager one: rounding is far below, a wrong graph above.
TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}

_EMPTY = {torch.ops.aten.empty.memory_format, torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default}

WARM_UP = 3  # steps taken before one is captured: what is allocated or tuned at first use must be so before


#: (betas, images) -> (gradients, values), as :meth:`~pyro_hvae.training.training_step.StepFunction.differentiate` gives them.
Differentiate = Callable[[Sequence[Tensor], Tensor], tuple[Sequence[Tensor | None], Tensor]]


class NotCompilable(Exception):
    """Why a step cannot be compiled, in words for the user."""


def trace(function: StepFunction, x: Tensor, *, decided: bool = True) -> GraphModule:
    """One graph of tensor operations: (parameters, betas, images, tally) -> (gradients, found_inf, tally).

    :param x: images of the size of a batch; the graph holds for this size alone.
    :param decided: False for (parameters, betas, images) -> (gradients, values), as
        :meth:`~pyro_hvae.training.training_step.StepFunction.differentiate` gives them.
    :raises NotCompilable: for a pair whose course depends on values, that leaves PyTorch, or that keeps anything (a buffer, a
        counter) from one step to the next, which a graph would not.
    """
    parameters = _parameters(function)
    # Of their own storage each: inputs that alias are taken for one input, and the graph is wrong without a word.
    examples = [p.detach().clone() for p in parameters]
    betas = [torch.ones((), dtype=x.dtype, device=x.device) for _ in function.betas]
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        with _unchanged(function.vae):
            function.differentiate(betas, x)  # the objective checks the pair at its first call
        tally = [function.tally.empty(0, x.device)] if decided else []
        try:
            graph = make_fx(stepping(function))(examples, betas, x.clone(), *tally)
        except Exception as error:  # whatever the user's programs raise under tracing
            raise NotCompilable(f"the pair cannot be traced ({first_line(error)})") from error
    if x.is_cuda:
        check_on_device(graph)
    return graph


@contextmanager
def _unchanged(vae: nn.Module) -> Iterator[None]:
    """Refuse a pair that changes a buffer or a number of its own meanwhile, and put it back."""
    buffers = {name: b.detach().clone() for name, b in vae.named_buffers()}
    numbers = {
        (m, key): value for m in vae.modules() for key, value in vars(m).items() if isinstance(value, (int, float))
    }
    yield
    changed = [name for name, b in vae.named_buffers() if not torch.equal(b, buffers.get(name, b))]
    changed += [f"{type(m).__name__}.{key}" for (m, key), value in numbers.items() if vars(m).get(key) != value]
    if changed:
        for name, b in vae.named_buffers():
            if name in buffers:
                b.detach().copy_(buffers[name])
        for (m, key), value in numbers.items():
            setattr(m, key, value)
        raise NotCompilable(
            f"the programs keep something from one step to the next ({', '.join(sorted(changed)[:4])}), which only eager steps "
            "can (a BatchNorm layer could be a LayerNorm, a counter for annealing the schedule beta=...)"
        )


def stepping(function: StepFunction) -> Callable[..., Any]:
    """The step function with its parameters as an argument; without a tally, its ``differentiate``."""

    def step(parameters: Sequence[Tensor], betas: Sequence[Tensor], x: Tensor, *tally: Tensor) -> Any:
        live = [p.detach().requires_grad_() for p in parameters]
        named = {f"vae.{name}": p for name, p in zip(function.trained, live, strict=True)}
        return torch.func.functional_call(function, named, (list(betas), x, *tally))

    return step


def compile_graph(graph: Callable, backend: str | Callable = "inductor") -> Callable:
    """Machine code for a traced graph; random numbers are drawn as eager steps draw them."""
    options: Any = {"options": {"fallback_random": True}} if backend == "inductor" else {}
    return torch.compile(graph, fullgraph=True, dynamic=False, backend=backend, **options)


def compile_step(step: TrainingStep, x: Tensor, backend: str | Callable = "inductor") -> Advance:
    """The step compiled, after comparing it with the eager one on ``x``; for ``step(x, advance)``.

    :raises NotCompilable: saying why.
    """
    if step.pyro_objective is not None:
        raise NotCompilable(
            f"{type(step.pyro_objective).__name__} of Pyro fetches its loss from the device at every step; use a bound of "
            "pyro_hvae"
        )
    function = step.function
    compiled = compile_graph(trace(function, x), backend)
    data = [p.detach() for p in step.parameters]  # share storage with the parameters, and no autograd

    def advance(betas: Sequence[Tensor], x: Tensor, tally: Tensor) -> StepResult:
        return compiled(data, betas, x, tally)

    def without_tally(run: Advance) -> Differentiate:
        def differentiate(betas: Sequence[Tensor], x: Tensor) -> tuple[list[Tensor | None], Tensor]:
            gradients, _, tally = run(betas, x, function.tally.empty(0, x.device))
            return gradients, function.tally.split(tally)[0]

        return differentiate

    try:
        compare(function, without_tally(function), without_tally(advance), x)
    except NotCompilable:
        raise
    except Exception as error:
        raise NotCompilable(f"torch.compile failed ({first_line(error)})") from error
    return advance


# -- random numbers as arguments


@dataclass(frozen=True)
class Noise:
    """A draw of random numbers that a step makes."""

    shape: tuple[int, ...]
    draw: Callable[[], Tensor]
    """The draw, from PyTorch's global random state as an eager step would make it."""


def lift_noise(graph: GraphModule) -> list[Noise]:
    """Turn every draw of random numbers in a traced graph into one more argument, in place.

    :returns: the draws, in the order of the new arguments, which follow the old ones.
    :raises NotCompilable: for draws that depend on anything but their shape.
    """
    draws = []
    *_, last = graph.graph.find_nodes(op="placeholder")
    for node in _draws(graph):
        empty = node.all_input_nodes
        if not all(n.target in _EMPTY and list(n.users) == [node] and n is node.args[0] for n in empty):
            raise NotCompilable(f"{node.target} draws random numbers that depend on more than their shape")
        draws.append(Noise(tuple(node.meta["val"].shape), _drawing(node)))
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"noise_{len(draws)}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        for done in (node, *empty):
            graph.graph.erase_node(done)
    graph.graph.set_codegen(CodeGen())  # the arguments as a flat list
    graph.recompile()
    return draws


def _draws(graph: GraphModule) -> list[Node]:
    return [n for n in graph.graph.nodes if torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())]


def _drawing(node: Node) -> Callable[[], Tensor]:
    """What a node that draws random numbers does: fill an empty tensor, or make one."""
    value, target, arguments, keywords = node.meta["val"], node.target, node.args, node.kwargs
    assert callable(target)
    if not node.all_input_nodes:
        return lambda: target(*arguments, **keywords)
    shape, dtype, device = tuple(value.shape), value.dtype, value.device
    return lambda: target(torch.empty(shape, dtype=dtype, device=device), *arguments[1:], **keywords)


def check_on_device(graph: GraphModule) -> None:
    """Refuse a graph that draws on the host what it uses on the device: a replay would use the same numbers again and again.

    :raises NotCompilable: naming the draw.
    """
    graph.graph.eliminate_dead_code()
    graph.recompile()  # torch.compile looks nodes up by the lines of the code
    for node in _draws(graph):
        if node.users and node.meta["val"].device.type == "cpu":
            raise NotCompilable(f"{node.target} draws random numbers on the CPU; give it the device of the images")


class CudaGraph:
    """A training step that is replayed as one CUDA graph from the fourth call on: one launch, nothing done by the host.

    :param advance: what computes the step, as for :class:`~pyro_hvae.training.training_step.TrainingStep`.

    Where the capture fails, a warning says so once, and the step goes on as it was.
    """

    def __init__(self, step: TrainingStep, advance: Advance | None = None):
        self.take: Callable[[Tensor], None] = functools.partial(step, advance=advance)
        self.optimizer = step.optimizer
        self._calls = 0
        self._failed = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x: Tensor | None = None

    def __call__(self, x: Tensor) -> None:
        self._calls += 1
        if self._calls <= WARM_UP or self._failed:
            return self.take(x)
        if self._graph is None:
            try:
                self._capture(x)
            except Exception as error:  # of memory, of a driver, of an operation that cannot be captured
                self._failed, self._graph, self._x = True, None, None
                for group in self.optimizer.param_groups:
                    group["capturable"] = False
                warnings.warn(f"training goes on without a CUDA graph: {first_line(error)}", stacklevel=2)
                return self.take(x)
        assert self._graph is not None and self._x is not None
        self._x.copy_(x)
        self._graph.replay()

    def _capture(self, x: Tensor) -> None:
        graph, self._x = torch.cuda.CUDAGraph(), x.clone()
        for group in self.optimizer.param_groups:
            group["capturable"] = True  # from here on only: it warns of steps that are not captured
        with torch.cuda.graph(graph):
            self.take(self._x)  # recorded, not carried out
        self._graph = graph


FOREIGN = (
    "the programs depend on something beside their own parameters, the images and PyTorch's random numbers (PyroModules "
    "take PyroParams from Pyro's global store; call pyro.settings.set(module_local_params=True) before they are made)"
)


def compare(function: StepFunction, eager: Differentiate, ours: Differentiate, x: Tensor, cause: str = FOREIGN) -> None:
    """Refuse what is not the eager step: at other images, parameters and betas than it was traced with.

    Both run on the pair's own parameters, moved for the time being: a program that takes its parameters from elsewhere
    (Pyro's global store) is traced with constants in their place, and would be found right if it were given others.

    :param cause: why the two could differ, for the user.
    :raises NotCompilable: naming what differs.
    """
    other = x.roll(1, 0) * 0.9 + 0.01
    betas = [torch.full((), 0.7, dtype=x.dtype, device=x.device) for _ in function.betas]
    parameters = _parameters(function)
    before = [p.detach().clone() for p in parameters]
    results = []
    try:
        for p in parameters:
            p.detach().mul_(1.01)
        for run in (eager, ours):
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.manual_seed(1)
                results.append(run(betas, other))
    finally:
        for p, values in zip(parameters, before, strict=True):
            p.detach().copy_(values)
    (gradients, values), (our_gradients, our_values) = results
    # Gradients that cancel to rounding (of a bias before a BatchNorm layer) are compared with the size of all.
    small = 1e-3 * torch.stack([g.norm() for g in gradients if g is not None]).norm()
    names = ["value of the bound", *(f"gradient of {name}" for name in function.trained)]
    pairs = zip(names, (values, *gradients), (our_values, *our_gradients), strict=True)
    for what, a, b in pairs:
        if (a is None) != (b is None):
            raise NotCompilable(f"the {what} exists in one of the eager step and ours only: {cause}")
        if a is None or b is None:
            continue
        if not (a - b).norm() <= TOLERANCE[function.precision] * (a.norm() + small) and bool(a.isfinite().all()):
            raise NotCompilable(
                f"the {what} differs between the eager step and ours by {((a - b).norm() / a.norm()).item():.1e}: {cause}"
            )


def _parameters(function: StepFunction) -> list[Tensor]:
    present = dict(function.vae.named_parameters())
    return [present[name] for name in function.trained]


def first_line(error: BaseException) -> str:
    """Kind of an error and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
