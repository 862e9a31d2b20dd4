"""What functions are given, checked against their annotations: one place for types, and for whole numbers.

Numbers of numpy and torch are numbers here: they become Python's, which every file format takes.
"""

from __future__ import annotations

import functools
import inspect
import os
import reprlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np

from pyro_hvae.errors import HVAEError, unknown

P = ParamSpec("P")
R = TypeVar("R")

LARGEST = 2**63 - 1  # of 64 bits
SEEDS = 2**32  # a batch is drawn with seed * 2^32 + epoch, which has to fit in 64 bits
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    NoneType: "None",
}


def plain(value: Any) -> Any:
    """A number, truth value or text of numpy or torch (of no dimension) as Python's; anything else as it is."""
    if (
        getattr(value, "ndim", None) == 0
        and hasattr(value, "item")
        and getattr(value.dtype, "kind", None) not in ("m", "M")
    ):
        return value.item()
    return value


def whole_number(name: str, value: Any, least: int = 0, most: int = LARGEST) -> int:
    """A whole number within limits, as Python's; ``1.0``, ``True`` and ``"1"`` are none.

    :raises HVAEError: naming what was given.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < least or number > most:
        limits = f"at least {least}" if most == LARGEST else f"{least} to {most}"
        raise HVAEError(f"{name} must be a whole number of {limits}, got {_shown(value)}")
    return number


def seed_of(value: Any) -> int:
    """A seed: a whole number from 0 to 2^32 - 1."""
    return whole_number("seed", value, 0, SEEDS - 1)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse arguments that are not of their annotation, and ``seed`` beyond :func:`seed_of`, before the function begins.

    Numbers come out as Python's, iterables where a sequence is asked for as tuples.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        hints = _hints(function)
        for name, value in bound.arguments.items():
            if name in hints and signature.parameters[name].kind not in (
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ):
                bound.arguments[name] = as_annotated(name, value, hints[name])
        if isinstance(bound.arguments.get("seed"), int):
            seed_of(bound.arguments["seed"])
        return function(*bound.args, **bound.kwargs)

    return call


@functools.cache
def _hints(function: Callable) -> dict[str, Any]:
    return typing.get_type_hints(function)


def as_annotated(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotation has it. Raises :class:`HVAEError` where it is nothing of the kind."""
    try:
        return _converted(value, hint)
    except _Other as other:
        choices = _names(hint)
        if len(choices) > 1 and isinstance(plain(value), str):
            raise unknown(name.replace("_", " "), value, choices) from None
        part = "" if other.value is value else f" (in {_shown(value)})"
        raise HVAEError(f"{name} must be {_described(hint)}, got {_shown(other.value)}{part}") from None


def _names(hint: Any) -> tuple[str, ...]:
    """The texts that an annotation names, itself or as one of several."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return tuple(name for part in typing.get_args(hint) for name in _names(part))
    return tuple(map(str, typing.get_args(hint))) if typing.get_origin(hint) is Literal else ()


class _Other(Exception):
    """A value of another kind than asked for."""

    def __init__(self, value: Any):
        super().__init__()
        self.value = value


def _converted(value: Any, hint: Any) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return _of_several(value, parts)
    if origin is Literal:
        found = plain(value)
        if any(type(found) is type(part) and found == part for part in parts):
            return found
        raise _Other(value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _Other(value)
        key, kind = parts
        return {_converted(k, key): _converted(v, kind) for k, v in value.items()}
    if origin is Callable:
        return _instance(value, callable(value))
    if origin in (Sequence, Iterable, tuple, list):
        if isinstance(value, (str, bytes, Mapping, set, frozenset)) or getattr(value, "ndim", 1) == 0:
            raise _Other(value)
        try:
            items = tuple(value)
        except TypeError:
            raise _Other(value) from None
        if origin is tuple and parts[-1:] != (Ellipsis,):
            if len(parts) != len(items):
                raise _Other(value)
            return tuple(_converted(item, part) for item, part in zip(items, parts, strict=True))
        return tuple(_converted(item, parts[0]) for item in items)
    return _single(value, origin or hint)


def _single(value: Any, kind: Any) -> Any:
    found = plain(value)
    if kind is int:
        return _instance(found, isinstance(found, int) and not isinstance(found, bool) and abs(found) <= LARGEST, value)
    if kind is float:
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            try:
                return found if isinstance(found, int) and abs(found) < 2**53 else float(found)
            except OverflowError:
                pass
        raise _Other(value)
    if kind is bool:
        return _instance(found, isinstance(found, bool), value)
    if kind is str:
        return _instance(found, isinstance(found, str) and "\0" not in found, value)
    if kind is os.PathLike:
        return _instance(
            value, isinstance(value, os.PathLike) and isinstance(path := os.fspath(value), str) and "\0" not in path
        )
    if kind is not Any and isinstance(kind, type):
        return _instance(value, isinstance(value, kind))
    return value  # Any, and what is no type


def _of_several(value: Any, kinds: tuple[Any, ...]) -> Any:
    # A tensor where a number or a tensor is asked for stays one: its value may be changed later.
    if any(isinstance(kind, type) and kind not in _WORDS and isinstance(value, kind) for kind in kinds):
        return value
    failed = None
    for kind in kinds:
        try:
            return _converted(value, kind)
        except _Other as other:
            if failed is None or other.value is not value:  # the item at fault says more than the whole
                failed = other
    assert failed is not None
    raise failed


def _instance(found: Any, fits: bool, given: Any = None) -> Any:
    if not fits:
        raise _Other(found if given is None else given)
    return found


def _described(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        words = [word for part in parts for word in _words(part)]
        return _listed([word for word in words if word != "a text" or "a path" not in words])
    if origin is Literal:
        return _listed(_words(hint))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping from {_described(parts[0])} to {_described(parts[1])}"
    if origin in (Sequence, Iterable, tuple, list):
        return "a sequence" if parts[0] is Any else f"a sequence (each {_described(parts[0])})"
    if (origin or hint) is os.PathLike:
        return "a path"
    return _WORDS.get(hint) or str(getattr(origin or hint, "__name__", hint))


def _words(hint: Any) -> list[str]:
    """What each choice of a literal is called; for anything else its one name."""
    if typing.get_origin(hint) is Literal:
        return list(map(repr, typing.get_args(hint)))
    return ["True", "False"] if hint is bool else [_described(hint)]


def _listed(words: Iterable[str]) -> str:
    """One, another or a third; each once."""
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last


def _shown(value: Any) -> str:
    try:
        text = reprlib.repr(value)
    except Exception:  # a repr of the user's own
        text = "one without a repr"
    text = " ".join(text.split())
    if plain(value) is not value or type(value).__module__ != "builtins":
        return text if type(value).__name__ in text else f"{text} ({type(value).__name__})"
    return text


def contiguous(values: np.ndarray) -> np.ndarray:
    """The values in C order, the byte order of the machine and writable, as torch takes them; a copy where they are not."""
    found = np.require(values, values.dtype.newbyteorder("="), ["C", "W"])
    # To numpy a single row is in C order whatever its stride, which torch refuses where it is negative.
    return found if min(found.strides, default=0) >= 0 else found.copy()
