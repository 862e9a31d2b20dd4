"""A pickle is a program; none of these may run."""

import builtins
import fractions
import os
import pickle
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pyro_hvae.errors import HVAEError
from pyro_hvae.stimuli import RefusedPickle, read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
RAN = []


def witness(*_):
    RAN.append(True)


class Attack:
    """Calls `function(*arguments)` when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def load(tmp_path):
    def load(content, protocol=None):
        path = tmp_path / "file.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
        return read_pickle(path)

    return load


PUBLISHED = {
    "train_images": np.arange(12, dtype=np.float32).reshape(3, 4),
    "train_labels": ["a", np.int64(3), np.float32(2.5), np.bool_(True)],
    "test_images": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "test_labels": np.array(["oat", "ρ"]),
    "big endian": np.arange(3, dtype=">i4"),
    "strided": np.arange(12)[::2],
    "empty": np.zeros((0, 3)),
    "scalar": np.array(3.0),
    "bytes": [b"", b"\xff\x00", np.array([b"ab", b"c"])],
    "plain": (1, 2.5, None, True, False, -(10**30), "", {"nested": [()]}),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("numpy_core", ["numpy._core", "numpy.core"])
def test_published_layout(load, protocol, numpy_core, monkeypatch):
    content = pickle.dumps(PUBLISHED, protocol=protocol)
    if numpy_core == "numpy.core":  # as numpy 1.x names its functions
        if protocol < 4:
            content = content.replace(b"numpy._core", b"numpy.core")
        else:  # short strings carry their length; the one frame around all of it is left out
            content = content.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
            content = content.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
            content = content[:2] + content[11:]
        assert b"numpy._core" not in content
    loaded = load(content)

    def same(one, other):
        assert type(one) is type(other)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        elif isinstance(one, dict):
            assert one.keys() == other.keys()
            [same(one[key], other[key]) for key in one]
        elif isinstance(one, (list, tuple)):
            assert len(one) == len(other)
            [same(a, b) for a, b in zip(one, other, strict=True)]
        else:
            assert one == other

    same(loaded, PUBLISHED)


def test_python_2_pickle(load):
    """Written by hand as Python 2 does: protocol 2, array contents and dtype as byte strings."""
    data = np.array([1.5, -2.0], "<f4").tobytes()
    content = (
        b"\x80\x02}U\x0ctrain_imagescnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + data + b"tbs."
    )
    np.testing.assert_array_equal(load(content)["train_images"], np.array([1.5, -2.0], np.float32))


@settings(max_examples=30, deadline=None)
@given(arrays(st.sampled_from(["f4", "f8", "i8", "u1", "?", "<U3", "S2", ">f4"]), array_shapes(min_side=0)), st.data())
def test_any_plain_array(tmp_path_factory, array, data):
    path = tmp_path_factory.mktemp("p") / "a.pkl"
    path.write_bytes(pickle.dumps([array, array.T], protocol=data.draw(st.sampled_from(PROTOCOLS))))
    one, other = read_pickle(path)
    np.testing.assert_array_equal(one, array)
    np.testing.assert_array_equal(other, array.T)


ATTACKS = {
    "os.system": Attack(os.system, "exit 0"),
    "eval": Attack(builtins.eval, "__import__('os')"),
    "getattr": Attack(getattr, "abc", "upper"),
    "subprocess": Attack(subprocess.check_output, ["true"]),
    "own function": Attack(witness),
    "nested": {"train_images": [({"x": Attack(witness)},)]},
    "after good data": [np.zeros(3), Attack(witness)],
    "in an object array": np.array([Attack(witness)], dtype=object),
    "object array": np.array([1, "a"], dtype=object),
    "structured with objects": np.zeros(2, dtype=[("a", "f4"), ("b", object)]),
    "structured": np.zeros(2, dtype=[("a", "f4")]),
    "date": np.array(["2020-01-01"], "M8[D]"),
    "numpy function": Attack(np.fromfile, "/dev/null"),
    "numpy load": np.load,
    "set": {1, 2},
    "frozenset": frozenset([1]),
    "generator": np.random.default_rng(0),
    "class": os.PathLike,
    "instance": fractions.Fraction(1, 2),
    "tuple as key": {(1, 2): 3},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_refused(load, attack, protocol, monkeypatch):
    content = pickle.dumps(ATTACKS[attack], protocol=protocol)
    monkeypatch.setattr(os, "system", witness)
    RAN.clear()
    with pytest.raises(RefusedPickle, match=r"file\.pkl: refused"):
        load(content)
    assert not RAN


def test_the_attacks_are_real():
    RAN.clear()
    pickle.loads(pickle.dumps(ATTACKS["nested"]))
    assert RAN


BY_HAND = {
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x06exit 0\x85R.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x14ndarray.__setstate__\x93.",
    "dotted through numpy": b"\x80\x04\x8c\x05numpy\x8c\x12os.system.__call__\x93.",
    "INST": b"(S'exit 0'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'exit 0'\no.",
    "NEWOBJ": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "persistent id": b"Pabc\n.",
    "persistent id, binary": b"\x80\x02K\x01Q.",
    "extension registry": b"\x80\x02\x82\x01.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "BUILD on a global": b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.",
    "BUILD on a global, slots": b"\x80\x02c_codecs\nencode\nN}U\x05_kindU\x05arrays\x86b.",
    "BUILD on a list": b"\x80\x02]}U\x0c__setstate__K\x01sb.",
    "REDUCE of a record": b"\x80\x02cnumpy\ndtype\nU\x02f4\x85R)R.",
    "REDUCE of a string": b"\x80\x02U\x02f4)R.",
    "ndarray called": b"\x80\x02cnumpy\nndarray\nK\x03\x85R.",
    "global kept": b"\x80\x02cnumpy\nndarray\n.",
    "codec that decompresses": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
    "bytes of a number": b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
}


@pytest.mark.parametrize("content", BY_HAND.values(), ids=BY_HAND)
def test_refused_by_hand(load, content, monkeypatch):
    monkeypatch.setattr(os, "system", witness)
    RAN.clear()
    with pytest.raises(RefusedPickle):
        load(content)
    assert not RAN


DTYPE = b"cnumpy\ndtype\nU\x02%sK\x00K\x01\x87R"
ARRAY = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01%s%s\x89U\x04abcdtb."
LIES = {
    "shape larger than contents": (
        ARRAY % (b"J\xff\xff\xff\x7f\x85", DTYPE % b"f4"),
        "needs 8589934588 bytes and has 4",
    ),
    "negative shape": (ARRAY % (b"J\xff\xff\xff\xff\x85", DTYPE % b"f4"), "an array of shape"),
    "object type over raw bytes": (ARRAY % (b"K\x01\x85", DTYPE % b"O8"), "an array of type 'O8'"),
    # The flags in a dtype's state say whether memory holds references; numpy would believe them.
    "flags that hide an object type": (
        ARRAY % (b"K\x01\x85", DTYPE % b"O8" + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"),
        "an array of type 'O8'",
    ),
    "subarray type": (
        ARRAY % (b"K\x01\x85", DTYPE % b"f4" + b"(K\x03U\x01<K\x01NNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"),
        "an array of a compound type",
    ),
    "no type": (ARRAY % (b"K\x01\x85", b"N"), "an array of no known type"),
}


@pytest.mark.parametrize(("content", "message"), LIES.values(), ids=LIES)
def test_arrays_that_lie(load, content, message):
    with pytest.raises(HVAEError, match=rf"file\.pkl.*{message}"):
        load(content)


BOMBS = {
    "frame of 2^56 bytes": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x00",
    "bytes of 2^48": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00abc.",
    "bytearray of 2^48": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\x00\x00abc.",
    "string of 2 GiB": b"\x80\x02X\xff\xff\xff\x7fabc.",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_declared_lengths_claim_no_memory(load, content):
    with pytest.raises(HVAEError, match="bytes declared in a file of"):
        load(content)


def test_deep_nesting(load):
    with pytest.raises(HVAEError, match=r"damaged one \(RecursionError"):
        load(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


def test_memo_index_claims_no_memory(load):
    """The interpreter in C would fill 32 GiB for this memo index."""
    assert load(b"\x80\x02]r\xff\xff\xff\xff.") == []


def test_shared_references_do_not_multiply(load):
    """2^200 elements when expanded, 200 when references are kept."""
    value = [0]
    for _ in range(200):
        value = [value, value]
    assert len(load(value)) == 2


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02]", b".", b"\x80\x04K\x01]\x93."])
def test_damaged(load, content):
    with pytest.raises(HVAEError, match=r"file\.pkl: not a pickle, or a damaged one"):
        load(content)


@pytest.mark.parametrize("cut", [3, 40, 100, -1])
def test_truncated(load, cut):
    with pytest.raises(HVAEError, match=r"file\.pkl"):
        load(pickle.dumps(PUBLISHED)[:cut])


def test_missing_file(tmp_path):
    with pytest.raises(HVAEError, match="no such file"):
        read_pickle(tmp_path / "nothing.pkl")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_noise_is_an_error_or_plain_data(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / "noise.pkl"
    path.write_bytes(b"\x80\x04" + noise)
    try:
        value = read_pickle(path)
    except HVAEError:
        return
    assert value is None or isinstance(
        value, (bool, int, float, str, bytes, bytearray, list, tuple, dict, np.ndarray, np.dtype, np.generic)
    )
