"""Reading pickles of arrays without running them.

A pickle is a program. This reader knows only the instructions that build numbers, strings, lists, tuples, dicts and
numpy arrays, and the few names that numpy's own pickles mention; anything else is refused before it is called. Not even
numpy is called while reading: its names stand for inert records (`ndarray.__setstate__` and `dtype.__setstate__` trust
their input with raw memory), and arrays of numbers and strings are made from the records afterwards, with their
sizes checked.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pyro_hvae.errors import HVAEError

_MEMORY_LIMIT = 1 << 40  # a record's declared size beyond this is nonsense rather than data


class RefusedPickle(HVAEError):
    """The pickle asks for something that arrays and plain containers do not need."""


class _Record:
    """An object of numpy's as described by the pickle: what it is, its arguments, its state. Does nothing."""

    __slots__ = ("arguments", "kind", "state")

    def __init__(self, kind: str, arguments: tuple) -> None:
        self.kind, self.arguments = kind, arguments
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Name:
    """A global that numpy's pickles mention. Calling it describes the call; it cannot be altered."""

    __slots__ = ("_kind",)
    _kind: str

    def __init__(self, kind: str) -> None:
        object.__setattr__(self, "_kind", kind)

    def __call__(self, *arguments: Any) -> Any:
        if self._kind == "encode":  # how protocols 0 to 2 of Python 3 spell bytes
            if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
                return arguments[0].encode("latin1")
            _refuse(f"_codecs.encode with {len(arguments)} unexpected arguments")
        if self._kind == "bytes":  # ... and empty bytes
            if not arguments:
                return b""
            _refuse("bytes with arguments")
        if self._kind == "ndarray":
            _refuse("numpy.ndarray called directly")
        return _Record(self._kind, arguments)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        _refuse(f"setting {name!r} on a global")

    def __setstate__(self, state: object) -> NoReturn:
        _refuse("giving a state to a global")


_NAMES = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "array" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "frombuffer" for core in ("core", "_core")},
}

# Left out on purpose: persistent ids, the extension registry, instances (INST, OBJ, NEWOBJ, NEWOBJ_EX), sets and
# out-of-band buffers.
_OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
    GLOBAL STACK_GLOBAL REDUCE BUILD
"""

_Base: Any = pickle._Unpickler  # type: ignore[attr-defined]


def _instructions() -> dict[int, Any]:
    """Pickle's table, byte to method, with every instruction outside `_OPCODES` replaced by its refusal."""

    def refusal(name: str) -> Callable[[Any], NoReturn]:
        return lambda _: _refuse(f"instruction {name}")

    codes = {n: c[0] for n, c in vars(pickle).items() if n.isupper() and isinstance(c, bytes) and len(c) == 1}
    return {c: _Base.dispatch[c] if n in _OPCODES.split() else refusal(n) for n, c in codes.items()}


class _Unpickler(_Base):
    """The interpreter in Python, whose table of instructions can be cut down; the one in C has a fixed one.

    It also keeps its memo in a dict, so that a tiny pickle cannot claim gigabytes through a large memo index.
    """

    def find_class(self, module: str, name: str) -> _Name:
        try:
            return _Name(_NAMES[module, name])
        except (KeyError, TypeError):
            _refuse(f"{module}.{name}")

    def _checked_build(self) -> None:
        # BUILD sets attributes on whatever lies below it on the stack: only records may have a state.
        if not isinstance(self.stack[-2], _Record):
            _refuse(f"giving a state to a {type(self.stack[-2]).__name__}")
        self.load_build()

    def _checked_reduce(self) -> None:
        if not isinstance(self.stack[-2], _Name) or not isinstance(self.stack[-1], tuple):
            _refuse(f"calling a {type(self.stack[-2]).__name__}")
        self.load_reduce()

    def _checked_items(self, load: Callable[[Any], None], start: int | None = None) -> None:
        keys = self.stack[::2] if start is None else self.stack[start:][::2]
        # The hash of a nested tuple can take exponential time.
        if not all(isinstance(key, (str, bytes, int, float)) for key in keys):
            _refuse("a dict key that is neither a string nor a number")
        load(self)

    def _bounded_bytearray(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))  # pickle's own allocates before it reads

    dispatch = _instructions()
    dispatch[pickle.BYTEARRAY8[0]] = _bounded_bytearray
    dispatch[pickle.BUILD[0]] = _checked_build
    dispatch[pickle.REDUCE[0]] = _checked_reduce
    dispatch[pickle.SETITEM[0]] = lambda self: self._checked_items(_Base.load_setitem, -2)
    dispatch[pickle.SETITEMS[0]] = lambda self: self._checked_items(_Base.load_setitems)
    dispatch[pickle.DICT[0]] = lambda self: self._checked_items(_Base.load_dict)


class _Bounded(io.BufferedReader):
    """Never allocates for more bytes than the file has left, whatever length the pickle declares."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw, buffer_size=1 << 20)
        self._length = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._length:
            raise EOFError(f"{size} bytes declared in a file of {self._length}")
        return super().read(size)


def read_pickle(path: str | os.PathLike) -> Any:
    """Numbers, strings, lists, tuples, dicts and numpy arrays of numbers or strings from a pickle of any protocol.

    Python-2 pickles are read as latin1. Raises `RefusedPickle` (an `HVAEError`) for a pickle that asks for anything
    else, before any of it is called, and `HVAEError` for a damaged one; both name the file.
    """
    path = Path(path)
    try:
        with _Bounded(io.FileIO(path)) as file:
            return _arrays(_Unpickler(file, fix_imports=False, encoding="latin1").load(), {})
    except RefusedPickle as error:
        raise RefusedPickle(
            f"{path}: refused, because it asks for {error}. Only numbers, strings, lists, tuples, dicts and numpy "
            "arrays are read from pickles; save anything else as .npz or netCDF."
        ) from None
    except FileNotFoundError:
        raise HVAEError(f"{path}: no such file.") from None
    except Exception as error:  # a damaged pickle can fail anywhere in the interpreter
        raise HVAEError(
            f"{path}: not a pickle, or a damaged one ({type(error).__name__}: {error}); copy it again."
        ) from error


def _refuse(what: str) -> NoReturn:
    raise RefusedPickle(what)


def _arrays(value: Any, seen: dict[int, Any]) -> Any:
    """`value` with every record turned into the array or scalar it describes; shared objects are converted once."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Record):
        made: Any = _array(value)
    elif isinstance(value, dict):
        made = {}
        seen[id(value)] = made
        made.update((key, _arrays(item, seen)) for key, item in value.items())
    elif isinstance(value, list):
        made = []
        seen[id(value)] = made
        made.extend(_arrays(item, seen) for item in value)
    elif isinstance(value, tuple):
        made = tuple(_arrays(item, seen) for item in value)
    elif value is None or isinstance(value, (bool, int, float, str, bytes, bytearray)):
        return value
    else:
        _refuse(f"a bare {getattr(value, '_kind', type(value).__name__)}")
    seen[id(value)] = made
    return made


def _array(record: _Record) -> Any:
    """The numpy array or scalar that a record describes."""
    if record.kind == "frombuffer":  # protocol 5: (buffer, dtype, shape, order)
        data, dtype, shape, order = record.arguments
        return _shaped(data, _dtype(dtype), shape, order == "F")
    if record.kind == "array":  # (ndarray, (0,), b"b"), then state (version, shape, dtype, is_fortran, data)
        if not isinstance(record.state, tuple) or len(record.state) not in (4, 5):
            _refuse("an array without contents")
        shape, dtype, fortran, data = record.state[-4:]
        return _shaped(data, _dtype(dtype), shape, bool(fortran))
    if record.kind == "scalar":
        dtype, data = record.arguments
        return _shaped(data, _dtype(dtype), (), False)[()]
    return _dtype(record)


def _shaped(data: Any, dtype: np.dtype, shape: Any, fortran: bool) -> np.ndarray:
    if isinstance(data, str):  # Python 2
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        _refuse(f"an array whose contents are a {type(data).__name__}")
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and 0 <= n < _MEMORY_LIMIT for n in shape):
        _refuse(f"an array of shape {shape!r}")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise HVAEError(f"an array of shape {shape} and type {dtype} needs {expected} bytes and has {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _dtype(record: Any) -> np.dtype:
    """A plain number or string type. Object, structured and subarray types are refused."""
    if not isinstance(record, _Record) or record.kind != "dtype" or not record.arguments:
        _refuse("an array of no known type")
    name = record.arguments[0]
    if isinstance(name, bytes):
        name = name.decode("latin1")
    # Letter and bytes per item: f4, i8, b1, U7, S3 ... `numpy.dtype` itself would also parse structured types.
    if not isinstance(name, str) or name[:1] not in tuple("biufSU") or not name[1:].isascii() or not name[1:].isdigit():
        _refuse(f"an array of type {name!r}")
    dtype = np.dtype(name)
    if record.state is None:
        return dtype
    if not isinstance(record.state, tuple) or len(record.state) < 5 or any(x is not None for x in record.state[2:5]):
        _refuse(f"an array of a compound type based on {name!r}")
    order = record.state[1]
    if order not in ("<", ">", "|", "="):
        _refuse(f"an array of byte order {order!r}")
    return dtype if order in "|=" else dtype.newbyteorder(order)
