"""The base of every model and guide: an ``nn.Module`` whose ``forward`` is a Pyro program."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine import Trace
from pyro.poutine.runtime import am_i_wrapped, effectful
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_hvae.arguments import as_annotated, whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs.sites import family_class


class Program(nn.Module):
    """A module that is also a Pyro program.

    Calling it under a Pyro handler announces its parameters as ``param`` statements, which is how
    :class:`pyro.infer.SVI` finds what to optimise. Unlike ``pyro.module`` and ``PyroModule`` this leaves the global
    parameter store alone: the parameters belong to the module, and two programs with parts of the same name can
    never share one entry.

    :ivar config: the constructor's arguments, JSON-ready: ``type(program)(**program.config)`` is the same program.
    """

    config: dict[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if am_i_wrapped():
            announce_parameters(self)
        return super().__call__(*args, **kwargs)


class _Itself:
    """What ``unconstrained`` of a parameter gives: the parameter, which it does not keep alive, nor take along when pickled.

    A copy is empty until its program is run under a handler, which is before anything asks."""

    def __init__(self, parameter: Tensor | None = None):
        self._parameter = (lambda: None) if parameter is None else weakref.ref(parameter)

    def __call__(self) -> Tensor | None:
        return self._parameter()

    def __reduce__(self) -> tuple[type[_Itself], tuple[()]]:
        return _Itself, ()


def announce_parameters(program: nn.Module) -> None:
    """One ``param`` statement for each parameter of a module."""
    # The id keeps apart the parameters of two programs of one class: SVI trains what has a name of its own.
    for name, parameter in program.named_parameters(prefix=f"{type(program).__name__}_{id(program):x}"):
        parameter.unconstrained = _Itself(parameter)  # type: ignore[attr-defined]  # SVI asks each parameter for it
        effectful(lambda value: value, type="param")(parameter, name=name)


def announcing(program: nn.Module) -> Callable:
    """A program that announces its parameters; as it is where it does so by itself."""
    if isinstance(program, (Program, PyroModule)):
        return program

    def announced(*args: Any, **kwargs: Any) -> Any:
        announce_parameters(program)
        return program(*args, **kwargs)

    return announced


def described(program: nn.Module) -> dict[str, Any]:
    """Class and configuration of a program, JSON-ready; of a program of the user's own its class."""
    return {"class": type(program).__name__, **getattr(program, "config", {})}


def nodes(trace: Trace) -> Mapping[str, Any]:
    """Nodes of a trace that has been run: to Pyro's types a value and a distribution may be missing there."""
    return trace.nodes


def is_stochastic(site: Any) -> bool:
    """Whether a site (of a trace, or a message) is one of the program's: no plate's index, no ``pyro.deterministic``."""
    return site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")


@contextmanager
def evaluating(pair: nn.Module) -> Iterator[None]:
    """No dropout meanwhile, and nothing learnt by BatchNorm layers."""
    modes = {module: module.training for module in pair.modules()}
    pair.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class LayeredProgram(Program):
    """What models and guides share: the sizes and families of the sites z1 … zL and of the image.

    :param pixels: pixels of a (flattened) image.
    :param dims: dimensions of z1, z2, …, zL; z1 is next to the image.
    :param families: site family of each layer (``"laplace"`` or ``"normal"``); by default Laplace at z1, Normal above.
    """

    pixels: int
    dims: tuple[int, ...]
    families: tuple[str, ...]

    def _set_sites(self, pixels: int, dims: Sequence[int], families: Sequence[str] | None) -> None:
        self.pixels = whole_number("pixels", pixels, 1)
        self.dims = tuple(whole_number("each of dims", d, 1) for d in as_annotated("dims", dims, Sequence[int]))
        if not self.dims:
            raise HVAEError(
                f"{type(self).__name__} needs at least one layer; give its dimensions, as in dims=(450, 20); got dims=()"
            )
        given = as_annotated("families", families, Sequence[str] | None)
        self.families = ("laplace",) + ("normal",) * (len(self.dims) - 1) if given is None else given
        if len(self.families) != len(self.dims):
            raise HVAEError(
                f"{type(self).__name__} has {len(self.dims)} layers (dims={self.dims}) but "
                f"{len(self.families)} families {self.families}; give one per layer, z1 first"
            )
        for family in self.families:
            family_class(family)

    @property
    def layers(self) -> int:
        """Number of stochastic layers L."""
        return len(self.dims)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the latent sites, z1 first."""
        return tuple(f"z{l}" for l in range(1, self.layers + 1))

    def _check_image(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[-1] != self.pixels:
            raise HVAEError(
                f"{type(self).__name__} expects images of shape (image, pixel) = (any, {self.pixels}), got "
                f"{tuple(x.shape)}; flatten the patches, or build the model for another size"
            )

    def _check_hidden(self, name: str, hidden: Sequence[Sequence[int]], expected: int) -> tuple[tuple[int, ...], ...]:
        found = as_annotated(name, hidden, Sequence[Any])
        if len(found) != expected:
            raise HVAEError(
                f"{type(self).__name__} with dims={self.dims} needs hidden units of {expected} network(s) in {name}, z1's "
                f"first, as in {name}={((200,),) * expected}; got {hidden!r}"
            )
        return tuple(self._check_units(f"each of {name}", units) for units in found)

    def _check_units(self, name: str, units: Sequence[int]) -> tuple[int, ...]:
        """Units of each layer of one network."""
        return tuple(whole_number(f"every layer of {name}", n, 1) for n in as_annotated(name, units, Sequence[int]))
