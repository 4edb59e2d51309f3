"""Targets of any type reach a host loss as they were given."""

import numpy as np
import pytest
import tensorflow as tf
from loss_cases import B, X, network, sgd, squared, trained

from vantage.training import (
    Regression,
    compile_step,
    differentiate,
    external,
)

AS_GIVEN = {
    "float64": 1.7e9 + np.arange(B)[:, None] * 0.5,
    "int64": 2**53 + np.arange(B) * 2 + 1,
    "str": np.array([f"é{k}.wav" for k in range(B)]),
    "str_rows": np.array([[f"{k}", "b"] for k in range(B)]),
    "bytes": np.array([b"raw" * k for k in range(B)]),
    "datetime": np.datetime64("2024-01-01") + np.arange(B),
    "timedelta": np.arange(B).astype("timedelta64[s]"),
    "objects": np.array([{"k": k} for k in range(B)]),
    "bool": np.arange(B) % 2 == 0,
    "longdouble": np.arange(B, dtype=np.longdouble)[:, None] / 3,
}


@pytest.mark.thinned
@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("name", AS_GIVEN)
def test_targets_reach_a_host_loss_as_given(name, size):
    """Bit for bit, with their dtype, in the rows of the minibatch, and in a validation."""
    given_, seen = AS_GIVEN[name], []

    def loss(y, t):
        seen.append((t["number"], t["it"]))
        return np.mean(y**2), 2 * y / y.size

    targets = {"number": np.arange(B), "it": given_}
    trainer = Regression(network(), external(loss), sgd(), batch_size=size)
    trainer.fit(X, targets, 2, validation=(X[:3], {"number": np.arange(3), "it": given_[:3]}))
    assert len(seen) == 2 * (1 if size is None else 4) + 2
    for numbers, it in seen:
        assert it.dtype == given_.dtype
        np.testing.assert_array_equal(it, given_[numbers])


def test_texts_reach_a_host_loss_of_a_step_as_given():
    """A `tf.string` of the signature stands for them, in one update and in several."""
    names, seen = np.array([f"é{k}" for k in range(B)]), []
    loss = external(lambda y, t: seen.append(t) or (np.mean(y**2), 2 * y / y.size))
    specs = tf.TensorSpec(X.shape), tf.TensorSpec((B,), tf.string)
    rows = np.array([[3, 1], [0, 2]], np.int32)
    for updates, arguments in ((None, ()), (2, ()), ((2, 2), (rows,))):
        model = network()
        step = compile_step(model, loss, model.trainable_variables, sgd(), specs, updates=updates)
        step(X, names, *arguments)
    assert [t.tolist() for t in seen[:3]] == [names.tolist()] * 3
    assert [t.tolist() for t in seen[3:]] == names[rows].tolist()
    with pytest.raises(ValueError, match=r"Target 0 .* shaped \[16\].* Received: <U3\[4\]"):
        step(X, names[:4], rows)
    with pytest.raises(ValueError, match="structure of the signature"):
        step(X, {"a": names}, rows)


def test_times_and_objects_are_no_targets_of_a_tensorflow_loss():
    for name in ("datetime", "objects"):
        with pytest.raises(ValueError, match="lifted by `external`"):
            trained(differentiate(squared), AS_GIVEN[name], network())
