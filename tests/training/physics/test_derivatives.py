"""Derivatives of outputs with respect to inputs: values, within an update, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vantage.training import Derivatives, compile_step, derivatives

X = np.random.default_rng(0).uniform(0.5, 1.5, (6, 3))


def known(x):
    a, b, c = tf.unstack(x, axis=1)
    return tf.stack([tf.sin(a) * b**2 + c**3, a * b * c], 1)


def exact():
    a, b, c = X.T
    zero = 0 * a
    first = [[np.cos(a) * b**2, 2 * np.sin(a) * b, 3 * c**2], [b * c, a * c, a * b]]
    mixed = 2 * np.cos(a) * b
    one = [[-np.sin(a) * b**2, mixed, zero], [mixed, 2 * np.sin(a), zero], [zero, zero, 6 * c]]
    other = [[zero, c, b], [c, zero, a], [b, a, zero]]
    return np.moveaxis(np.array(first), 2, 0), np.moveaxis(np.array([one, other]), 3, 0)


def network(outputs=2, activation="tanh", dtype="float32"):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation, dtype=dtype) for _ in range(2)]
    last = keras.layers.Dense(outputs, dtype=dtype)
    return keras.Sequential([keras.Input((3,), dtype=dtype), *layers, last])


@pytest.mark.parametrize("way", ["eager", "graph", "xla"])
def test_a_known_function(way):
    compiled = {
        "eager": lambda f: f,
        "graph": tf.function(autograph=False),
        "xla": tf.function(autograph=False, jit_compile=True),
    }[way]
    first, hessian = exact()
    x = tf.constant(X)
    for options, second in (
        ({"order": 1}, None),
        ({"order": 2}, np.einsum("bijj->bij", hessian)),
        ({"order": 2, "hessian": True}, hessian),
    ):
        found = compiled(lambda x, options=options: derivatives(known, x, **options))(x)
        assert isinstance(found, Derivatives)
        np.testing.assert_allclose(found.y, known(x), rtol=1e-12)
        np.testing.assert_allclose(found.first, first, rtol=1e-12)
        if second is None:
            assert found.second == ()
        else:
            np.testing.assert_allclose(found.second, second, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("columns", [[2], [2, 0], (1, 0, 2)])
def test_some_columns(columns):
    _, hessian = exact()
    found = derivatives(known, X, order=2, columns=columns)
    assert found.first.shape == (6, 2, 3)
    expected = np.einsum("bijj->bij", hessian)[:, :, list(columns)]
    np.testing.assert_allclose(found.second, expected, rtol=1e-11, atol=1e-12)
    found = derivatives(known, X, order=2, columns=columns, hessian=True)
    expected = hessian[:, :, list(columns)][:, :, :, list(columns)]
    np.testing.assert_allclose(found.second, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("columns", [[], [3], [-1], 0, [0.0], [True], "0", [[0]]])
def test_other_columns(columns):
    with pytest.raises(ValueError, match="`columns` must list columns of x, from 0 to 2"):
        derivatives(known, X, order=2, columns=columns)
    with pytest.raises(ValueError, match="with order=1"):
        derivatives(known, X, columns=[0])


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pull_back_and_push_forward_agree(k):
    """One output of three inputs is pulled back, four are pushed forward."""
    f = lambda x: tf.concat([known(x), known(2 * x)], 1)[:, :k]  # noqa: E731
    found, other = derivatives(f, X), derivatives(f, X, order=2)
    np.testing.assert_allclose(found.first, other.first, rtol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu", "softplus"])
def test_finite_differences_of_a_network(activation):
    """Some activations have gradients of their own, which a forward mode could miss."""
    model = network(activation=activation, dtype="float64")
    h = 1e-4
    found = tf.function(lambda x: derivatives(model, x, order=2), autograph=False)(tf.constant(X))
    for j, e in enumerate(h * np.eye(3)):
        up, here, down = (model(X + s * e).numpy() for s in (1, 0, -1))
        np.testing.assert_allclose(found.first[:, :, j], (up - down) / (2 * h), atol=1e-7)
        np.testing.assert_allclose(found.second[:, :, j], (up - 2 * here + down) / h**2, atol=1e-6)


def residual_of(model):
    def forward(x):
        u = derivatives(model, x, order=2)
        return u.y[:, 0] + u.first[:, 0, 1] - 0.3 * u.second[:, 0, 0]

    return forward


def by_nested_tapes(model, x):
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = model(x)
        first = inner.gradient(y, x)
        one = first[:, 0]
    return y[:, 0] + first[:, 1] - 0.3 * outer.gradient(one, x)[:, 0]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_updates_are_those_of_nested_tapes(jit_compile):
    """Third order in total: the weights' gradient of a loss of second derivatives."""
    x = X.astype(np.float32)
    model, other = network(1), network(1)
    loss = lambda y, t: tf.reduce_mean(y**2)  # noqa: E731
    step = compile_step(
        residual_of(model),
        loss,
        model.trainable_variables,
        keras.optimizers.SGD(0.01),
        (tf.TensorSpec(x.shape), ()),
        updates=5,
        jit_compile=jit_compile,
    )
    losses = step(x, ())["loss"]
    for k in range(5):
        with tf.GradientTape() as tape:
            value = loss(by_nested_tapes(other, tf.constant(x)), ())
        assert losses[k] == pytest.approx(float(value), rel=1e-4)
        for v, g in zip(
            other.trainable_variables, tape.gradient(value, other.trainable_variables), strict=True
        ):
            v.assign_sub(0.01 * g)
    assert losses[-1] < losses[0]
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_the_model_is_called_once():
    """Otherwise its penalties would count several times, and Dropout would draw several masks."""
    calls = []

    def model(x):
        calls.append(1)
        return known(x)

    for options in ({}, {"order": 2}, {"order": 2, "hessian": True}):
        derivatives(model, X, **options)
    assert len(calls) == 3


def test_derivatives_that_are_zero():
    """A linear function; a column that does not depend on x; a column that is gathered."""
    found = derivatives(lambda x: tf.concat([2 * x[:, :1], 0 * x[:, :1] + 1], 1), X, order=2)
    np.testing.assert_array_equal(found.first[0], [[2, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found.second, np.zeros((6, 2, 3)))
    linear = derivatives(lambda x: 2 * x[:, :2], X, order=2, hessian=True)
    np.testing.assert_array_equal(linear.second, np.zeros((6, 2, 3, 3)))
    gathered = derivatives(lambda x: tf.gather(x, [2], axis=1) ** 2, X, order=2)
    np.testing.assert_allclose(gathered.second[:, 0, 2], 2.0)


def test_a_mode_of_training_is_passed_on():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    one, two = (derivatives(model, X).y.numpy() for _ in range(2))
    assert np.array_equal(one, two)
    one, two = (derivatives(model, X, training=True).y.numpy() for _ in range(2))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    ("x", "received"),
    [
        (X[:, 0], r"float64\(6,\)"),
        (X[None], r"float64\(1, 6, 3\)"),
        (np.ones((2, 3), int), r"int64\(2, 3\)"),
        (np.ones((2, 0)), r"float64\(2, 0\)"),
        ({"x": X}, "dict"),
    ],
)
def test_what_is_no_matrix(x, received):
    with pytest.raises(ValueError, match=f"x must be a matrix of floats.*Received: {received}"):
        derivatives(known, x)


@pytest.mark.parametrize(
    ("function", "received"),
    [
        (lambda x: known(x)[:3], r"float64\(3, 2\)"),
        (lambda x: tf.reduce_mean(x, 0, keepdims=True), r"float64\(1, 3\)"),
        (lambda x: x[:, 0], r"float64\(6,\)"),
        (lambda x: [x, x], "list"),
        (lambda x: tf.cast(x, tf.int32), r"int32\(6, 3\)"),
    ],
)
def test_outputs_of_another_form(function, received):
    with pytest.raises(ValueError, match=rf"one row for each row of x.*Received: {received}"):
        derivatives(function, X)


@pytest.mark.parametrize("order", [0, 3, 1.0, True, "2", None])
def test_other_orders(order):
    with pytest.raises(ValueError, match="`order` must be 1 or 2. Received: order="):
        derivatives(known, X, order=order)


def test_a_hessian_of_order_1():
    with pytest.raises(ValueError, match="hessian=True with order=1"):
        derivatives(known, X, hessian=True)


@pytest.mark.parametrize("order", [1, 2])
def test_a_function_without_a_gradient_at_x(order):
    for function in (tf.round, tf.stop_gradient, lambda x: tf.constant(X)):
        with pytest.raises(ValueError, match="through differentiable operations"):
            derivatives(lambda x, f=function: f(x), X, order=order)
        with pytest.raises(ValueError, match="through differentiable operations"):
            derivatives(lambda x, f=function: f(x)[:, :1], X, order=order)


def test_batch_normalization_in_training_mode():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(1)])
    assert derivatives(model, X).first.shape == (6, 1, 3)
    with pytest.raises(ValueError, match="rows of the model must be independent"):
        derivatives(model, X, training=True)
    inner.trainable = False  # it then normalises by its averages
    assert derivatives(model, X, training=True).first.shape == (6, 1, 3)


def test_a_parameter_of_the_equation_is_found():
    """A variable of the user's own, in the equation u'' = −c u, of which u = sin(2x) is known."""
    c = keras.Variable(1.0)
    x = np.linspace(0, 1, 20, dtype=np.float32)[:, None]

    def forward(x):
        u = derivatives(lambda x: tf.sin(2 * x), x, order=2)
        return u.second[:, :, 0] + c * u.y

    loss = lambda y, t: tf.reduce_mean(y**2)  # noqa: E731
    signature = tf.TensorSpec(x.shape), ()
    step = compile_step(forward, loss, [c], keras.optimizers.Adam(0.1), signature, updates=300)
    step(x, ())
    assert float(c.value) == pytest.approx(4.0, abs=0.01)
