"""What is encoded comes back, and what is the same is found to be."""

from __future__ import annotations

import numpy as np
import pytest
from resumed_envs import through_a_file

from vantage.envs.common.storable import decoded, encoded, is_same


@pytest.mark.parametrize(
    "value",
    [
        {"a": (1, [2.5, None, True], "x"), "tuple": {}, "dict": [], "scalar": ()},
        np.float32(0.1),
        np.bool_(True),
        2**200,
        float("nan"),
        np.zeros((0, 3), np.int8),
        np.array(5.0),
    ],
)
def test_what_is_encoded_comes_back(value):
    there = encoded(value)
    back = decoded(through_a_file({"value": there})["value"])
    assert is_same(there, encoded(back))
    assert isinstance(value, float) or type(back) is type(value)


def test_what_is_the_same():
    nan, other_nan = np.array([np.nan]), np.array([np.nan]).view(np.int64) + 1
    assert is_same(nan, other_nan.view(np.float64))
    for one, other in [
        (np.zeros(2), -np.zeros(2)),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros(2), np.zeros((2, 1))),
        (1, True),
        (1, 1.0),
        ([1], [1, 1]),
        ({"a": 1}, {"b": 1}),
        ("a", "b"),
        (np.zeros(1), None),
    ]:
        assert is_same(one, one) and not is_same(one, other) and not is_same(other, one)
