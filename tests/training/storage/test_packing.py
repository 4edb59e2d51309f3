"""Nested states come back bit for bit, and what cannot is refused."""

from __future__ import annotations

import contextlib
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vantage.training.storage.checkpoint import load_checkpoint, save_checkpoint
from vantage.training.storage.packing import pack, unpack

# Nested states.

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()


@st.composite
def arrays_(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    bits = draw(st.binary(min_size=64, max_size=64))
    flat = np.resize(np.frombuffer(bits, np.uint8), int(np.prod(shape)) * dtype.itemsize)
    if dtype.kind == "b":
        return (flat % 2).astype(bool).reshape(shape)
    array = flat.view(dtype).reshape(shape)
    return np.where(np.isfinite(array), array, 0).astype(dtype) if dtype.kind == "f" else array


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**127, 2**128),  # as a generator's state
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    arrays_(),
    arrays_().filter(lambda array: array.size).map(lambda array: array.reshape(-1)[0]),
)
KEYS = st.one_of(st.sampled_from(["a", "b", "a/b", "b/1", "a/b/2", "", "/", "0", "1"]), st.text())
KEYS = KEYS.filter(lambda key: not key.startswith("__") and key.isprintable())
NESTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, max_size=4),
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
    ),
    max_leaves=12,
)


def assert_same(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    elif isinstance(first, np.ndarray | np.generic):
        assert (first.dtype, first.shape) == (second.dtype, second.shape)
        assert first.tobytes() == second.tobytes()
    else:
        assert first == second and str(first) == str(second)  # of floats: the sign of zero


@settings(max_examples=150, deadline=None)
@example({"a": {"b": np.zeros(1), "b/2": np.ones(1)}, "a/b": np.full(1, 2.0)})
@example({"a": np.float64(-0.0), "b": -0.0, "c": (), "d": [], "e": {}, "f": np.zeros((0, 3))})
@given(NESTS)
def test_nested_states_come_back_bit_for_bit(tmp_path_factory, nest):
    """Through the files and all."""
    arrays, packed = pack("state", nest)
    path = tmp_path_factory.getbasetemp() / "nested"
    save_checkpoint(path, arrays, {"state": packed})
    loaded, manifest = load_checkpoint(path)
    assert_same(nest, unpack(manifest["state"], loaded))


@pytest.mark.parametrize(
    "values",
    [[0.1] * 1000, list(range(-500, 500)), [True, False] * 500, [1, 2.0] * 500, [2**70] * 1000]
    + [["a"] * 1000, [0.5] * 5, [[1] * 300, (2.5,) * 300]],
    ids=str,
)
def test_long_lists_come_back_with_their_types(values, tmp_path):
    """Those of numbers of one type as an array, so that a manifest does not grow with them."""
    nest = {"list": values, "tuple": tuple(values)}
    arrays, packed = pack("nest", nest)
    save_checkpoint(tmp_path / "saved", arrays, {"nest": packed})
    arrays, manifest = load_checkpoint(tmp_path / "saved")
    again = unpack(manifest["nest"], arrays)
    assert repr(again) == repr(nest)
    if values[:2] in ([0.1, 0.1], [-500, -499], [True, False]):
        assert len(json.dumps(packed)) < 200


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "saved", {"w": np.zeros(3)}, {"n": 1})
    monkeypatch.setattr("vantage.training.storage.checkpoint.MOST_JSON", 5_000)
    with pytest.raises(ValueError, match="at most 5,000 bytes and few items. Received: "):
        save_checkpoint(tmp_path / "saved", {"w": np.zeros(3)}, {"n": ["text"] * 1000})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="and few items. Received: 300,0.* items, more than 262,"):
        save_checkpoint(tmp_path / "saved", {"w": np.zeros(3)}, {"n": [0] * 300_000})
    assert load_checkpoint(tmp_path / "saved")[1]["n"] == 1


@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,", b'"",'])
def test_a_manifest_of_many_items_is_refused_before_it_is_parsed(part, tmp_path):
    """Its objects would take 70 times the memory of the file."""
    save_checkpoint(tmp_path / "saved", {"w": np.zeros(3)}, {"n": 1})
    (tmp_path / "saved" / "manifest.json").write_bytes(b"[" + part * 300_000 + b"0]")
    tracemalloc.start()
    with pytest.raises(ValueError, match="items, more than 262,144"):
        load_checkpoint(tmp_path / "saved")
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


def test_arrays_of_any_layout_come_back(tmp_path):
    base = np.arange(24.0).reshape(4, 6)
    nest = {"fortran": np.asfortranarray(base), "strided": base[::2, ::-3], "turned": base.T}
    big = {"big-endian": base.astype(">f4"), "shorts": np.arange(5, dtype=">i2")}
    arrays, packed = pack("state", nest | big)
    save_checkpoint(tmp_path / "x", arrays, {"state": packed})
    loaded, manifest = load_checkpoint(tmp_path / "x")
    found = unpack(manifest["state"], loaded)
    for name, array in (nest | big).items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")


cycle: list = []


cycle.append(cycle)


UNPACKABLE = {
    "object": object(),
    "objects": np.array([None, {}], object),
    "texts": np.array(["a"]),
    "a text of NumPy": np.str_("a"),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "complex": np.zeros(2, complex),
    "complex number": 1j,
    "longdouble": np.zeros(2, np.longdouble),
    "a longdouble": np.longdouble(1),
    "records": np.zeros(2, [("a", "f4")]),
    "NaN": float("nan"),
    "infinity": -float("inf"),
    "set": {1, 2},
    "bytes": b"abc",
    "numbers as keys": {1: 2},
    "marks as keys": {"__array__": "w"},
    "deep": json.loads("[" * 900 + "]" * 900),
    "endless": cycle,
}


@pytest.mark.parametrize("name", UNPACKABLE)
def test_what_cannot_be_packed_is_a_value_error(name):
    with pytest.raises(ValueError, match=r"must hold.*Received: .*Convert") as caught:
        pack("state", {"a": [UNPACKABLE[name]]})
    assert "\n" not in str(caught.value)


FORGED = {
    "missing": {"__array__": "nothing"},
    "missing scalar": {"__scalar__": "nothing"},
    "scalar of an array": {"__scalar__": "w"},
    "a list as name": {"__array__": []},
    "an object as name": {"__array__": {}},
    "a number as name": {"__scalar__": 1},
    "null": {"__array__": None},
    "tuple of a number": {"__tuple__": 3},
    "tuple of null": {"__tuple__": None},
    "tuple of a text": {"__tuple__": "abc"},
    "tuple of an object": {"__tuple__": {"a": 1}},
    "tuple of an array": {"__tuple__": {"__array__": "w"}},
    "deep": json.loads("[" * 900 + "]" * 900),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_states_are_a_value_error(name):
    for nest in (FORGED[name], [FORGED[name]], {"a": FORGED[name]}):
        with pytest.raises(ValueError, match="Received: ") as caught:
            unpack(nest, {"w": np.zeros(3)})
        assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.sampled_from([None, 0, 1.5, "w", "", True]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["__array__", "__scalar__", "__tuple__", "__log__", "a"]), inner
            ),
        ),
        max_leaves=8,
    )
)
def test_any_forged_state_is_read_or_refused(nest):
    with contextlib.suppress(ValueError):
        unpack(nest, {"w": np.zeros(3)})
