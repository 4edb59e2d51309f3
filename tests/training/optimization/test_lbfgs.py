"""L-BFGS as an optimizer of the step and of Regression."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_steps import (
    SIGNATURE,
    X,
    Y,
    assert_unchanged,
    host_mse,
    mse,
    network,
    sequential,
    stateful_without_dropout,
    step_for,
)
from keras import layers

from vantage.training import (
    GAN,
    LBFGS,
    Regression,
    Turn,
    compile_step,
    compile_turns,
    differentiate,
    estimated,
    external,
    given,
)


class Point(layers.Layer):
    """Its outputs are its weights, `[1, P]`."""

    def __init__(self, start):
        super().__init__()
        self.start = np.asarray(start, np.float32)

    def build(self, _):
        initializer = lambda shape, dtype=None: tf.constant(self.start)  # noqa: E731
        self.point = self.add_weight(shape=self.start.shape, initializer=initializer)

    def call(self, x):
        return self.point[None] + 0 * x


NOTHING = np.zeros((1, 1), np.float32)


def step_from(start, loss, optimizer, updates=None, **options):
    model = sequential(Point(start), shape=(1,))
    signature = tf.TensorSpec((1, 1)), tf.TensorSpec((1, 1))
    variables = model.trainable_variables
    options = {"jit_compile": False, "updates": updates, **options}
    step = compile_step(model, loss, variables, optimizer, signature, **options)
    return variables[0], lambda: step(NOTHING, NOTHING)


def rosenbrock(y, _):
    y = y[0]
    return tf.reduce_sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)


def state(model, optimizer):
    return [v.numpy() for v in (*model.variables, *optimizer.variables)]


# --- minima ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit_compile", [False, True])
def test_rosenbrock(jit_compile):
    start = np.tile([-1.2, 1.0], 5)
    point, step = step_from(start, rosenbrock, LBFGS(), 150, jit_compile=jit_compile)
    metrics = step()
    np.testing.assert_allclose(point.numpy(), 1.0, atol=1e-3)
    assert metrics["converged"][-1] == 1.0 and metrics["converged"][0] == 0.0
    is_moved = metrics["step_size"] > 0
    assert (np.diff(metrics["loss"][is_moved]) < 0).all()
    assert metrics["evaluations"][is_moved].sum() < 1.5 * is_moved.sum()


def test_a_quadratic_ends_where_algebra_says():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(20, 20)).astype(np.float32)
    matrix, vector = root @ root.T / 20 + np.eye(20, dtype=np.float32), generator.normal(size=20)
    vector = vector.astype(np.float32)

    def loss(y, _):
        return tf.tensordot(y[0], tf.linalg.matvec(matrix, y[0]), 1) / 2 - tf.tensordot(
            y[0], vector, 1
        )

    point, step = step_from(np.zeros(20), loss, LBFGS(), 60)
    assert step()["converged"][-1] == 1.0
    np.testing.assert_allclose(point.numpy(), np.linalg.solve(matrix, vector), atol=1e-4)


def naive(gradient_of, start, count, pairs):
    """Two loops as in algorithm 7.4 in float64, with the steps α that were reported."""
    x, s, y, path = start, [], [], []
    for alpha in count:
        g = gradient_of(x)
        q, alphas = g.copy(), []
        for a, b in reversed(list(zip(s, y, strict=True))):
            alphas.append(a @ q / (a @ b))
            q -= alphas[-1] * b
        r = q * (s[-1] @ y[-1] / (y[-1] @ y[-1]) if s else 1.0)
        for a, b in zip(s, y, strict=True):
            r += a * (alphas.pop() - b @ r / (a @ b))
        new = x - alpha * r
        s, y = [*s, new - x][-pairs:], [*y, gradient_of(new) - g][-pairs:]
        x = new
        path.append(x)
    return path


def test_directions_are_those_of_a_naive_two_loop_recursion():
    scales = np.array([1.0, 3.0, 10.0, 30.0, 100.0])

    def loss(y, _):
        return tf.reduce_sum(tf.constant(scales, tf.float32) * y[0] ** 2) / 2

    point, step = step_from(np.ones(5), loss, LBFGS(history=3, c2=0.5))
    path, sizes = [], []
    for _ in range(8):
        sizes.append(step()["step_size"])
        path.append(point.numpy())
    expected = naive(lambda x: scales * x, np.ones(5), sizes, 3)
    np.testing.assert_allclose(path, expected, rtol=2e-3, atol=1e-5)


def test_regression_fits_better_than_adam_with_as_many_evaluations():
    losses = {}
    for optimizer in (LBFGS(), keras.optimizers.Adam(0.01)):
        keras.utils.set_random_seed(0)
        trainer = Regression(network(), "mse", optimizer, jit_compile=False)
        history = trainer.fit(X, Y, epochs=60, report_every=60)
        losses[type(optimizer).__name__] = history["loss"][-1]
    assert losses["LBFGS"] < 0.2 * losses["Adam"]


def test_logdir_and_validation(tmp_path):
    trainer = Regression(network(), "mse", LBFGS(), jit_compile=False)
    history = trainer.fit(X, Y, epochs=4, validation=(X, Y), logdir=tmp_path / "run")
    assert {"evaluations", "step_size", "converged", "validation_loss"} <= set(history)


# --- the same bits --------------------------------------------------------------------------------


def test_calls_of_one_update_equal_one_call_of_many():
    keras.utils.set_random_seed(0)
    model = network()
    start, singles = model.get_weights(), []
    single = step_for(model, optimizer=LBFGS())
    singles = [single(X, Y) for _ in range(10)]
    end = model.get_weights()
    model.set_weights(start)
    metrics = step_for(model, optimizer=LBFGS(), updates=10, jit_compile=False)(X, Y)
    assert_unchanged(model.get_weights(), end)
    for name, values in metrics.items():
        np.testing.assert_array_equal(values, np.float32([each[name] for each in singles]))


def test_its_variables_continue_it_exactly():
    keras.utils.set_random_seed(0)
    model, optimizer = network(), LBFGS()
    step = step_for(model, optimizer=optimizer)
    for _ in range(5):
        step(X, Y)
    saved = [v.numpy() for v in optimizer.variables]
    middle = model.get_weights()
    for _ in range(5):
        step(X, Y)
    expected = model.get_weights()
    again, other = network(), LBFGS()
    assert other.variables == []
    continued = step_for(again, optimizer=other)
    again.set_weights(middle)
    for variable, value in zip(other.variables, saved, strict=True):
        variable.assign(value)
    for _ in range(5):
        continued(X, Y)
    assert_unchanged(again.get_weights(), expected)


def test_weights_and_examples_may_change_between_calls():
    model = network()
    step = step_for(model, optimizer=LBFGS())
    step(X, Y)
    others = model.get_weights()
    model.set_weights([2 * w for w in others])
    assert step(X, Y)["loss"] == pytest.approx(float(mse(network_like(model, others)(X), Y)))
    after = float(mse(model(X), 3 * Y))
    assert step(X, 3 * Y)["loss"] == pytest.approx(after, rel=1e-5)


def network_like(model, weights):
    copy = network()
    copy.set_weights([2 * w for w in weights])
    return copy


# --- what a model and a loss may be ---------------------------------------------------------------


@pytest.mark.parametrize("updates", [None, 5])
def test_penalties_metrics_and_batch_norm(updates):
    loss = lambda y, t: (mse(y, t), {"each": tf.reduce_mean((y - t) ** 2, 1)})  # noqa: E731
    model = stateful_without_dropout()
    for variable in model.trainable_variables:
        variable.constraint = None
    norm = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    before = norm.moving_mean.numpy()
    step = step_for(model, loss, LBFGS(), updates=updates, jit_compile=False)
    first, second = step(X, Y), step(X, Y)
    assert np.max(second["loss"]) < np.max(first["loss"])
    assert first["each"].shape == ((8,) if updates is None else (updates, 8))
    np.testing.assert_allclose(first["each"].mean(-1) + first["penalty"], first["loss"], rtol=1e-5)
    assert not np.array_equal(norm.moving_mean.numpy(), before)


def test_batch_norm_moves_once_per_iteration_and_not_when_nothing_is_taken():
    model = sequential(layers.BatchNormalization(momentum=0.5, scale=False, center=False))
    model.add(layers.Dense(2))
    norm = model.layers[0]
    step = step_for(model, optimizer=LBFGS(max_evaluations=8))
    step(X, Y)
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.5 * X.mean(0), rtol=1e-5, atol=1e-6)
    while not step(X, Y)["converged"]:
        pass
    before = model.get_weights()
    assert step(X, Y)["step_size"] == 0.0
    assert_unchanged(model.get_weights(), before)


@pytest.mark.parametrize("updates", [None, 6])
def test_a_host_loss_with_metrics(updates):
    calls = []

    def loss(y, t):
        calls.append(float(np.mean((y - t) ** 2)))
        return *host_mse(y, t), {"mine": calls[-1]}

    keras.utils.set_random_seed(0)
    model = network()
    start = model.get_weights()
    step = step_for(model, external(loss), LBFGS(), updates=updates)
    metrics = [step(X, Y) for _ in range(2)][-1]
    np.testing.assert_allclose(metrics["mine"], metrics["loss"], rtol=1e-5)
    assert np.shape(metrics["mine"]) == (() if updates is None else (updates,))
    model.set_weights(start)
    expected = step_for(model, optimizer=LBFGS(), updates=updates, jit_compile=False)
    expected = [expected(X, Y) for _ in range(2)][-1]
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-3)
    assert len(calls) >= 2 * (updates or 1)


@pytest.mark.parametrize("updates", [None, 6])
def test_a_host_loss_that_raises_in_a_line_search_changes_nothing(updates):
    calls = []

    def loss(y, t):
        calls.append(1)
        if len(calls) == 4:
            raise KeyError("weather")
        return host_mse(y, t)

    model, optimizer = network(), LBFGS()
    step = step_for(model, external(loss), optimizer, updates=updates)
    before = state(model, optimizer)
    with pytest.raises(KeyError, match="weather"):
        while True:
            step(X, Y)
            before = state(model, optimizer)
    assert_unchanged(state(model, optimizer), before)
    step(X, Y)


# --- numbers that are not finite, and convergence -------------------------------------------------


@pytest.mark.parametrize("updates", [None, 3])
def test_a_start_that_is_not_finite_is_refused(updates):
    model, optimizer = network(), LBFGS()
    step = step_for(model, optimizer=optimizer, updates=updates, jit_compile=False)
    step(X, Y)
    before = state(model, optimizer)
    with pytest.raises(FloatingPointError, match="targets hold nan in example 0"):
        step(X, np.full_like(Y, np.nan))
    assert_unchanged(state(model, optimizer), before)
    assert np.isfinite(np.max(step(X, Y)["loss"]))


def test_the_line_search_backs_off_from_what_is_not_finite():
    def loss(y, _):
        return tf.reduce_sum(y[0] - tf.math.log(1 - y[0] ** 2))  # NaN beyond ±1

    point, step = step_from([0.9, -0.99], loss, LBFGS(), 30)
    metrics = step()
    np.testing.assert_allclose(point.numpy(), 1 - np.sqrt(2), atol=1e-3)
    assert np.isfinite(metrics["loss"]).all() and metrics["evaluations"].max() > 1


def test_convergence_changes_nothing_and_evaluates_nothing():
    point, step = step_from([3.0, 4.0], lambda y, _: tf.reduce_sum(y**2), LBFGS(), 5)
    metrics = step()
    assert metrics["converged"][-1] == 1.0 and metrics["evaluations"][-1] == 0.0
    before = point.numpy()
    assert step()["step_size"].max() == 0.0
    assert_unchanged([point.numpy()], [before])


def test_no_descent_in_float32_is_convergence():
    # The gradient points downhill, but float32 sees no change of the loss.
    loss = lambda y, _: 1e8 + tf.reduce_sum(y**2)  # noqa: E731
    point, step = step_from([3.0, 4.0], loss, LBFGS(), 8)
    metrics = step()
    assert metrics["converged"][-1] == 1.0 and np.isfinite(point.numpy()).all()
    assert metrics["evaluations"][-1] == 0.0


def test_a_metric_stop_ends_the_call_before_it_changes_a_weight():
    loss = lambda y, _: (tf.reduce_sum(y**2), {"stop": tf.reduce_sum(y**2) < 20})  # noqa: E731
    point, step = step_from([3.0, 4.0], loss, LBFGS(history=2), 6)
    metrics = step()
    assert len(metrics["loss"]) == 1 and metrics["stop"][0] == 0.0
    before = point.numpy()
    assert len(step()["loss"]) == 0
    assert_unchanged([point.numpy()], [before])


def test_max_evaluations_takes_the_best_trial():
    point, step = step_from(np.tile([-1.2, 1.0], 2), rosenbrock, LBFGS(max_evaluations=1), 200)
    metrics = step()
    assert metrics["evaluations"].max() == 1.0
    assert metrics["loss"][-1] < metrics["loss"][0]


# --- refused --------------------------------------------------------------------------------------


def constrained():
    return sequential(layers.Dense(2, kernel_constraint="non_neg"))


def half():
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    return sequential(layers.Dense(4, dtype=policy), layers.Dense(2))


@pytest.mark.parametrize(
    ("make", "loss", "options", "message"),
    [
        (network, None, {"updates": (2, 4)}, "the same loss in every evaluation.*minibatches"),
        (network, estimated(lambda y, t: y[:, 0]), {}, "the same loss.*`estimated`"),
        (network, given, {}, "the same loss.*`given`"),
        (constrained, None, {}, "float32 variables without constraints.*kernel"),
        (lambda: sequential(layers.Dense(2, dtype="float64")), None, {}, "without constraints"),
        (half, None, {}, "must compute in float32"),
        (
            lambda: sequential(layers.Dropout(0.5), layers.Dense(2)),
            None,
            {},
            "the same in every evaluation.*random numbers",
        ),
        (network, lambda y, t: (mse(y, t), {"converged": y[0, 0]}), {}, "Received: converged"),
        (network, None, {"gradients": keras.Variable(np.zeros(26))}, "Use compile_gradient"),
    ],
)
def test_what_it_cannot_minimise(make, loss, options, message):
    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        step_for(model, loss, LBFGS(), jit_compile=False, **options)
    assert_unchanged(model.get_weights(), before)


def test_minibatches_of_a_regression():
    with pytest.raises(ValueError, match="full batches and no noise. Received: minibatches"):
        Regression(network(), "mse", LBFGS(), batch_size=4).fit(X, Y, epochs=1)
    Regression(network(), "mse", LBFGS(), batch_size=8).fit(X, Y, epochs=1)


def test_other_variables():
    optimizer = LBFGS()
    step_for(network(), optimizer=optimizer)
    with pytest.raises(ValueError, match="the variables it was first used for"):
        step_for(network(), optimizer=optimizer)


@pytest.mark.parametrize(
    "settings",
    [
        {"history": 0},
        {"max_evaluations": 0},
        {"c1": 0.6},
        {"c1": "a"},
        {"c2": 1e-5},
        {"c2": 1.0},
        {"gradient_tolerance": -1},
        {"gradient_tolerance": None},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="Received"):
        LBFGS(**settings)


def test_where_only_an_optimizer_of_keras_will_do():
    model = network()
    turn = Turn(model, differentiate(mse), model.trainable_variables, LBFGS())
    with pytest.raises(ValueError, match="must be a Keras optimizer"):
        compile_turns({"a": turn}, SIGNATURE)
    with pytest.raises(ValueError, match="must be a Keras optimizer"):
        GAN(network(), network(), LBFGS(), LBFGS())
    for wrong in (LBFGS, "lbfgs", None):
        with pytest.raises(ValueError, match="must be a Keras optimizer"):
            step_for(network(), optimizer=wrong or 3)
