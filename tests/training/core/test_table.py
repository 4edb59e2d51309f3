"""What an update reports, and what it changes where it is refused or stopped: nothing."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_steps import (
    Adam,
    B,
    X,
    Y,
    assert_unchanged,
    host_mse,
    mse,
    network,
    small_and_stateful,
    stateful,
    step_for,
)

from vantage.training.core.gradients import compile_step
from vantage.training.core.host_losses import external, given
from vantage.training.core.lifts import differentiate


def test_metrics_are_those_of_the_loss_and_no_others():
    def loss(y, t):
        return mse(y, t), {"mean": tf.reduce_mean(y), "count": tf.constant(B)}

    model = network()
    mean = model(X).numpy().mean()
    metrics = step_for(model, differentiate(loss))(X, Y)
    assert list(metrics) == ["loss", "grad_norm", "mean", "count"]
    assert all(type(value) is float for value in metrics.values())
    assert metrics["mean"] == pytest.approx(mean, rel=1e-5) and metrics["count"] == B


# --- the finite check -----------------------------------------------------------------------------


def infinite_gradient(y, targets):
    factor = tf.where(tf.reduce_any(targets > 50), np.float32(np.inf), 1.0)
    poisoned = tf.custom_gradient(lambda y: (tf.identity(y), lambda upstream: upstream * factor))
    return mse(poisoned(y), tf.minimum(targets, 1.0))


def host_infinite_gradient(y, targets):
    loss, gradient = host_mse(y, np.minimum(targets, 1))
    return loss, gradient * (np.inf if np.any(targets > 50) else 1)


BAD_STEPS = {
    "nan_graph": (lambda: differentiate(mse), np.nan, False),
    "nan_xla": (lambda: differentiate(mse), np.nan, True),
    "nan_host": (lambda: external(host_mse), np.nan, False),
    "nan_given": (lambda: given, np.nan, False),
    "inf_gradient_graph": (lambda: differentiate(infinite_gradient), 99, False),
    "inf_gradient_xla": (lambda: differentiate(infinite_gradient), 99, True),
    "inf_gradient_host": (lambda: external(host_infinite_gradient), 99, False),
}


@pytest.mark.parametrize("use_ema", [False, True], ids=["joined", "per_variable"])
@pytest.mark.parametrize(("make_loss", "bad", "jit_compile"), BAD_STEPS.values(), ids=BAD_STEPS)
def test_a_bad_update_changes_nothing_and_a_good_one_follows(make_loss, bad, jit_compile, use_ema):
    model = small_and_stateful() if jit_compile else stateful()
    optimizer = Adam(0.02, use_ema=use_ema)
    step = step_for(model, make_loss(), optimizer, jit_compile=jit_compile)
    bad_targets = Y.copy()
    bad_targets[3, 1] = bad
    step(X, Y)
    variables = model.variables + optimizer.variables
    before = [variable.numpy() for variable in variables]
    good, after = step(X, Y), [variable.numpy() for variable in variables]
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    with pytest.raises(FloatingPointError, match="must be finite. Received: loss=") as error:
        step(X, bad_targets)
    if bad == 99:
        assert not re.search("loss=(nan|inf)", str(error.value))
        assert re.search("grad_norm=(nan|inf)", str(error.value))
    assert_unchanged([variable.numpy() for variable in variables], before)
    assert step(X, Y) == good
    assert_unchanged([variable.numpy() for variable in variables], after)


# --- vectors and stops ----------------------------------------------------------------------------


def line(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_metric_may_be_a_vector_of_one_number_per_example(jit_compile):
    def loss(y, t):
        errors = y[:, 0] - t
        return tf.reduce_mean(errors**2), {"error": errors, "mean": tf.reduce_mean(errors)}

    generator = np.random.default_rng(0)
    x, t = generator.normal(size=(8, 1)).astype(np.float32), np.arange(8, dtype=np.float32)
    signature = tf.TensorSpec((8, 1)), tf.TensorSpec((8,))
    model = line()
    expected = model(x)[:, 0].numpy() - t
    step = compile_step(
        model, differentiate(loss), model.variables, sgd(), signature, jit_compile=jit_compile
    )
    metrics = step(x, t)
    np.testing.assert_allclose(metrics["error"], expected, rtol=1e-5)
    assert metrics["mean"] == pytest.approx(expected.mean(), rel=1e-5)
    rows = generator.integers(8, size=(3, 4)).astype(np.int32)
    model = line()
    many = compile_step(
        model,
        differentiate(loss),
        model.variables,
        sgd(),
        signature,
        updates=(3, 4),
        mirror=model.variables,
        jit_compile=jit_compile,
    )
    metrics = many(x, t, rows)
    assert metrics["error"].shape == (3, 4) and metrics["mean"].shape == (3,)
    np.testing.assert_allclose(metrics["error"][0], expected[rows[0]], rtol=1e-5)
    np.testing.assert_allclose(metrics["error"].mean(1), metrics["mean"], rtol=1e-4)
    np.testing.assert_array_equal(many.weights[0], model.get_weights()[0])


def sgd():
    return keras.optimizers.SGD(0.05)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_loss_may_stop_the_call(jit_compile):
    """The update that it stops at, and those after it, are not made: as if K had been less."""

    def loss(y, t):
        value = tf.reduce_mean((y[:, 0] - t) ** 2)
        return value, {"stop": value < 0.5, "twice": 2 * value}

    x, t = np.ones((4, 1), np.float32), np.full(4, 3, np.float32)
    signature = tf.TensorSpec((4, 1)), tf.TensorSpec((4,))
    one, many = line(), line()
    single = compile_step(one, differentiate(loss), one.variables, sgd(), signature)
    optimizer = sgd()
    step = compile_step(
        many,
        differentiate(loss),
        many.variables,
        optimizer,
        signature,
        updates=40,
        jit_compile=jit_compile,
    )
    metrics = step(x, t)
    made = len(metrics["loss"])
    assert 2 < made < 40 and (metrics["loss"] >= 0.5).all()
    assert int(optimizer.iterations.numpy()) == made
    losses = [single(x, t)["loss"] for _ in range(made)]
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(many.get_weights()[0], one.get_weights()[0], rtol=1e-5)
    assert len(step(x, t)["loss"]) == 0  # it stops at once from now on
    before = one.get_weights()[0]
    assert single(x, t)["stop"] == 1.0
    np.testing.assert_array_equal(one.get_weights()[0], before)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_stop_of_nan_refuses_the_update(jit_compile):
    def loss(y, t):
        return tf.reduce_mean((y[:, 0] - t) ** 2), {"stop": tf.reduce_sum(y) * np.nan}

    model, signature = line(), (tf.TensorSpec((4, 1)), tf.TensorSpec((4,)))
    arguments = differentiate(loss), model.variables, sgd(), signature
    step, before = compile_step(model, *arguments, jit_compile=jit_compile), model.get_weights()
    with pytest.raises(FloatingPointError, match="stop=nan"):
        step(np.ones((4, 1), np.float32), np.zeros(4, np.float32))
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


@pytest.mark.parametrize("lift", ["tensorflow", "host"])
@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"a": "b"}, "A metric must be a number.*Received: 'a' = 'b'"),
        ({"a": None}, "A metric must be a number.*Received: 'a' = None"),
        ({"a": np.array(["b"])}, "A metric must be a number"),
        ({3: 1.0}, "under a name that is a string. Received: 3 = 1.0"),
    ],
)
def test_metrics_are_numbers_under_names(lift, metrics, message):
    if lift == "host":
        lifted = external(lambda y, t: (np.mean(y), np.full_like(y, 1 / y.size), metrics))
    else:
        lifted = differentiate(lambda y, t: (tf.reduce_mean(y), metrics))
    model, signature = line(), (tf.TensorSpec((4, 1)), tf.TensorSpec((4, 1)))
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        compile_step(model, lifted, model.variables, sgd(), signature)(
            np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
        )
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_one_bool_stops():
    model, signature = line(), (tf.TensorSpec((4, 1)), tf.TensorSpec((4,)))
    lifted = differentiate(lambda y, t: (tf.reduce_mean(y), {"stop": y[:, 0] > 0}))
    with pytest.raises(ValueError, match=r"`stop` must be one bool.*Received: shape \(4,\)"):
        compile_step(model, lifted, model.variables, sgd(), signature)
