"""Arguments of a step that are refused, with what to pass instead."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_steps import (
    ROWS,
    SGD,
    SIGNATURE,
    WORD_SIGNATURE,
    WORDS,
    Adam,
    B,
    LossScale,
    X,
    Y,
    assert_unchanged,
    embedding,
    host_mse,
    mse,
    network,
    step_for,
    values,
)
from keras import layers

from vantage.training.core.arguments import check_forward
from vantage.training.core.gradients import compile_step
from vantage.training.core.host_losses import estimated, external
from vantage.training.core.lifts import differentiate

SHARED = network()
BAD_ARGUMENTS = {
    **{
        f"updates={each}": (
            {"updates": each},
            f"K updates, .* Received: updates={re.escape(repr(each))}",
        )
        for each in (0, -1, True, "2", 2.5, (2,), (2, 0), (2, None), (2, 4, 8), [2, 4])
    },
    **{
        f"jit_compile={each}": ({"jit_compile": each}, f"True, False or None. Rec.*={each!r}")
        for each in ("yes", 0, 1.0)
    },
    "variables_model": ({"variables": SHARED}, "`variables` must be a list .*: <Sequential"),
    "variables_tf": ({"variables": tf.Variable(1.0)}, "`variables` .*: <tf.Variable"),
    "variables_of_tf": ({"variables": [tf.Variable(1.0)]}, "`variables` .*: <tf.Variable"),
    "variables_one": ({"variables": SHARED.weights[0]}, "`variables` .*: <Variable"),
    "variables_none": ({"variables": None}, "`variables` .*: None"),
    "signature_none": ({"signature": None}, r"a pair of nests .* Received: None"),
    "signature_one": ({"signature": SIGNATURE[0]}, r"a pair of nests .* Received: TensorSpec"),
    "signature_single": (
        {"signature": SIGNATURE[:1]},
        r"a pair .* Received: \(TensorSpec",
    ),
    "signature_scalar": (
        {"signature": (SIGNATURE[0], tf.TensorSpec(())), "updates": (2, 4)},
        r"first axis of examples. Received: \('float32\[8, 3\]', 'float32\[\]'\)",
    ),
    "forward_none": ({"forward": None}, "`forward` must be .*Received: None"),
    "forward_text": ({"forward": "relu"}, "`forward` must be .*Received: 'relu'"),
    "forward_class": ({"forward": layers.Dense}, "`forward` must be .*Received: <class"),
    "forward_two": (
        {"forward": lambda x, y: x},
        r"`forward` must be .*\(inputs\). Received: .*\(x, y\). Pass lambda inputs",
    ),
    "forward_no": ({"forward": tf.function(lambda: 0.0)}, r"`forward` must be .*rameters \(\)"),
    "prepare_three": ({"prepare": lambda x, y, z: x}, r"prepare .*\(inputs, targets\). Received"),
    "prepare": ({"prepare": 3}, "prepare must be a function. Received: 3"),
    "prepare_one": ({"prepare": lambda x, y: x}, "`prepare` must return a pair.*: <tf.Tensor"),
    "mirror_model": ({"mirror": SHARED}, "`mirror` must be a list .*: <Sequential"),
    "mirror_none": ({"mirror": None}, "`mirror` must be a list .*: None"),
    "mirror_double": ({"mirror": [keras.Variable(1.0, dtype="float64")]}, "float32 .*: .*float64"),
    "gradients": ({"gradients": 3}, "variable of .* floats, .*Received: 3"),
    "gradients_short": (
        {"gradients": keras.Variable([0.0])},
        r"Received: .*shape=\(1,\)",
    ),
    "optimizer": ({"optimizer": "adam"}, "optimizer must be .*Received: 'adam'"),
}


@pytest.mark.parametrize(("options", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_arguments_of_another_type(options, message):
    model = network()
    required = {
        "forward": model,
        "loss_gradient": differentiate(mse),
        "variables": model.trainable_variables,
        "optimizer": SGD(0.1),
        "signature": SIGNATURE,
    }
    with pytest.raises(ValueError, match=message):
        compile_step(**required | options)


def test_a_forward_may_take_more_arguments_than_the_inputs():
    """Those with defaults, any number of them, and those of a builtin, which nobody knows."""
    theta = keras.Variable(np.ones(2, np.float32))
    for forward in (lambda *x: x[0] * theta, lambda x, by=theta: x * by):
        rest = differentiate(mse), [theta], SGD(0.0), (SIGNATURE[1], SIGNATURE[1])
        compile_step(forward, *rest)(Y, Y)
    check_forward(max)


def test_mirrored_variables_may_come_one_by_one():
    model = network()
    step = step_for(model, mirror=iter(model.weights))
    step(X, Y)
    assert_unchanged(step.weights, model.get_weights())


def test_updates_may_be_a_number_of_any_kind():
    for updates in (np.int64(2), 2.0):
        assert step_for(network(), updates=updates)(X, Y)["loss"].shape == (2,)


BAD_CALLS = {
    "shape": ((X[:4], Y), r"Argument 0 .* float32\[8, 3\].* Received: float32\[4, 3\]"),
    "rank": ((X, Y[:, 0]), r"Argument 1 .* float32\[8, 2\].* Received: float32\[8\]"),
    "strings": ((X.astype(str), Y), r"Argument 0 .* Received: <U32\[8, 3\]"),
    "none": ((None, Y), r"Argument 0 .* Received: object\[\]"),
    "structure": (((X, X), Y), "structure of the signature"),
    "keys": (({"x": X}, Y), "structure of the signature.*'x'"),
    "rows": ((X, Y, ROWS), r"structure of the signature.*int64\[5, 4\]"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_arguments_that_differ_from_the_signature(arguments, message):
    model = network()
    step = step_for(model)
    before = values(model)
    with pytest.raises(ValueError, match=message):
        step(*arguments)
    assert_unchanged(values(model), before)


def test_floats_are_no_integers_and_dict_keys_are_compared():
    step = step_for(embedding(), signature=WORD_SIGNATURE)
    with pytest.raises(ValueError, match=r"int32\[8, 3\] .* Received: float64\[8, 3\]"):
        step(WORDS.astype(float), Y)
    specs = tf.TensorSpec((B, 3)), {"a": tf.TensorSpec((B, 2)), "b": tf.TensorSpec((B, 2))}
    step = step_for(network(), differentiate(lambda y, t: mse(y, t["a"] - t["b"])), None, specs)
    step(X, {"b": Y, "a": 0 * Y})
    for targets in ({"a": Y, "c": Y}, (Y, Y), {"a": Y}):
        with pytest.raises(ValueError, match="Pass the same tuples, lists and dict keys"):
            step(X, targets)


@pytest.mark.parametrize("value", [2**32 + 1, -(2**31) - 1])
def test_whole_numbers_that_the_signature_cannot_hold_are_refused(value):
    """NumPy would wrap them around to others."""
    signature = tf.TensorSpec((2, 3)), tf.TensorSpec((2, 2), tf.int32)
    loss = differentiate(lambda y, t: mse(y, tf.cast(t, tf.float32)))
    step = step_for(network(), loss, signature=signature)
    with pytest.raises(ValueError, match=f"must fit int32.*Received: int64 from .*{value}"):
        step(X[:2], np.array([[0, 0], [0, value]]))
    step(X[:2], np.array([[0, 0], [0, 2**31 - 1]]))


@pytest.mark.parametrize("bad", [-1, B])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_rows_must_index_examples(bad, jit_compile):
    step = step_for(network(), updates=(2, 2), jit_compile=jit_compile)
    with pytest.raises(ValueError, match=f"index the {B} examples.* Received: rows from"):
        step(X, Y, np.array([[0, 1], [2, bad]]))
    with pytest.raises(ValueError, match=r"Argument 2 .*int32\[2, 2\].* Received: float64"):
        step(X, Y, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="structure of the signature"):
        step(X, Y)


@pytest.mark.parametrize("spec", [tf.TensorSpec((None, 3)), tf.TensorSpec(None), X])
def test_signature_must_be_of_known_shape(spec):
    with pytest.raises(ValueError, match="tf.TensorSpecs of known shape. Received"):
        step_for(network(), signature=(spec, SIGNATURE[1]))


BAD_LOSSES = {
    "vector": (lambda y, t: tf.square(y - t), r"must be a scalar. Received: .*\(8, 2\)"),
    "constant": (lambda y, t: 3.0, "must depend on the outputs"),
    "of_targets": (lambda y, t: tf.reduce_sum(t), "must depend on the outputs"),
    "reserved": (lambda y, t: (mse(y, t), {"grad_norm": 1.0}), "name of its own.*grad_norm"),
    "metric": (lambda y, t: (mse(y, t), {"all": y}), "scalar or a vector, .*Received: all"),
}


@pytest.mark.parametrize(("loss", "message"), BAD_LOSSES.values(), ids=BAD_LOSSES)
def test_bad_losses(loss, message):
    with pytest.raises(ValueError, match=message):
        step_for(network(), differentiate(loss))


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, LossScale], ids=["adam", "scaled"])
def test_an_optimizer_of_other_variables(wrap):
    optimizer = wrap(Adam())
    optimizer.build(network().trainable_variables)
    with pytest.raises(ValueError, match="with the variables it was built for. Received: "):
        step_for(network(), optimizer=optimizer)


@pytest.mark.parametrize("lift", [external(host_mse), estimated(lambda y, t: y[:, 0])])
def test_a_host_loss_cannot_go_through_xla(lift):
    with pytest.raises(ValueError, match="without XLA. Received: jit_compile=True"):
        step_for(network(), lift, jit_compile=True)
