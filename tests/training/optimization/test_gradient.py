"""A gradient without an update, against a tape and against the step itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_steps import (
    SGD,
    SIGNATURE,
    X,
    Y,
    assert_same,
    assert_unchanged,
    host_mse,
    mse,
    network,
    sequential,
    stateful,
    step_for,
    twins,
    values,
)
from keras import layers

from vantage.training import compile_gradient, differentiate, estimated, external, given
from vantage.training.core.compiled import Compiled


def gradient_for(model, loss_gradient=None, **options):
    loss_gradient = differentiate(mse) if loss_gradient is None else loss_gradient
    return compile_gradient(model, loss_gradient, model.trainable_variables, SIGNATURE, **options)


@pytest.mark.parametrize("make", [network, stateful])
@pytest.mark.parametrize("lift", ["differentiate", "external"])
def test_it_is_what_the_step_descends_along(make, lift):
    loss = {"differentiate": differentiate(mse), "external": external(host_mse)}[lift]
    model, other = twins(make)
    for variable in other.trainable_variables:
        variable.constraint = None  # the step is then θ − dL/dθ
    before = values(model)
    metrics, gradients = gradient_for(model, loss)(X, Y)
    assert_unchanged(values(model), before)
    start = [v.numpy() for v in other.trainable_variables]
    expected = step_for(other, loss, SGD(1.0))(X, Y)
    moved = [a - v.numpy() for a, v in zip(start, other.trainable_variables, strict=True)]
    assert_same(gradients, moved)
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert ("penalty" in metrics) == (make is stateful)


def test_repeated_calls_are_equal_and_follow_the_weights():
    model = stateful()  # with Dropout, whose seed no call advances
    function = gradient_for(model)
    one, two = function(X, Y), function(X, Y)
    assert one[0] == two[0]
    assert_unchanged(one[1], two[1])
    assert not np.shares_memory(one[1][0], two[1][0])
    model.trainable_variables[0].assign(2 * model.trainable_variables[0])
    assert function(X, Y)[0]["loss"] != one[0]["loss"]


def test_shapes_order_and_a_variable_that_occurs_twice():
    model = network()
    variables = model.trainable_variables[::-1]
    function = compile_gradient(model, mse, [*variables, variables[0]], SIGNATURE)
    _, gradients = function(X, Y)
    with tf.GradientTape() as tape:
        loss = mse(model(X), Y)
    expected = tape.gradient(loss, [v.value for v in variables])
    assert [g.shape for g in gradients] == [tuple(v.shape) for v in variables]
    assert_same(gradients, expected)


def test_given_and_estimated():
    model = network()
    _, expected = gradient_for(model)(X, Y)
    _, gradients = gradient_for(model, given)(X, host_mse(model(X).numpy(), Y)[1])
    assert_same(gradients, expected)
    score = estimated(lambda y, t: np.mean((y - t) ** 2, 1), scale=0.05, samples=500)
    metrics, gradients = gradient_for(model, score)(X, Y)
    assert "standard_error" in metrics
    assert_same(gradients, expected, rtol=0.2, atol=0.1)


def test_numbers_that_are_not_finite_are_returned():
    model = network()
    metrics, gradients = gradient_for(model)(X, np.full_like(Y, np.nan))
    assert np.isnan(metrics["loss"]) and np.isnan(gradients[0]).all()


def test_a_metric_stop_is_a_metric():
    loss = lambda y, t: (mse(y, t), {"stop": tf.constant(True)})  # noqa: E731
    assert gradient_for(network(), loss)(X, Y)[0]["stop"] == 1.0


def test_half_precision():
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    keras.utils.set_random_seed(0)
    half = sequential(layers.Dense(4, "tanh", dtype=policy), layers.Dense(2, dtype=policy))
    full = network()
    full.set_weights(half.get_weights())
    tiny = differentiate(lambda y, t: 1e-7 * mse(y, t))  # float16 alone would lose it
    _, gradients = gradient_for(half, tiny)(X, Y)
    _, expected = gradient_for(full, tiny)(X, Y)
    assert_same([1e7 * g for g in gradients], [1e7 * g for g in expected], rtol=0.02, atol=0.01)


def test_one_trace_and_xla(monkeypatch):
    model, traces = network(), []
    trace = Compiled._trace
    monkeypatch.setattr(Compiled, "_trace", lambda self: traces.append(1) or trace(self))
    function = gradient_for(model, jit_compile=True)
    for _ in range(3):
        function(X, Y)
    assert len(traces) == 1
    assert_same(function(X, Y)[1], gradient_for(model)(X, Y)[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((network(), mse, [], SIGNATURE), "must have variables to train. Received: none"),
        ((3, mse, network().trainable_variables, SIGNATURE), "`forward` must be a Keras model"),
        ((network(), mse, network().trainable_variables, SIGNATURE), "must receive a gradient"),
        ((network(), mse, 3, SIGNATURE), "`variables` must be a list of Keras variables"),
        ((network(), mse, network().trainable_variables, ()), "A signature must be a pair"),
        ((network(), 3, network().trainable_variables, SIGNATURE), "must be one function"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        compile_gradient(*arguments)


def test_arrays_that_differ_from_the_signature_and_errors_of_the_loss():
    model = network()
    with pytest.raises(ValueError, match="as in the signature"):
        gradient_for(model)(X[:3], Y)

    def failing(y, t):
        raise KeyError("weather")

    before = values(model)
    with pytest.raises(KeyError, match="weather"):
        gradient_for(model, external(failing))(X, Y)
    assert_unchanged(values(model), before)


def test_it_drives_an_optimizer_of_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    model = network()
    function, variables = gradient_for(model), model.trainable_variables
    cuts = np.cumsum([int(np.prod(v.shape)) for v in variables])[:-1]

    def of(vector):
        for variable, piece in zip(variables, np.split(vector, cuts), strict=True):
            variable.assign(piece.reshape(variable.shape))
        metrics, gradients = function(X, Y)
        return metrics["loss"], np.concatenate([g.ravel() for g in gradients]).astype(float)

    start = np.concatenate([v.numpy().ravel() for v in variables])
    first = of(start)[0]
    options = {"maxiter": 25}
    end = optimize.minimize(of, start, jac=True, method="L-BFGS-B", options=options)
    assert end.fun < 0.2 * first
