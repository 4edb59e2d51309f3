"""Every optimizer of Keras in a compiled step, against Keras's own training."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_steps import (
    SGD,
    Adam,
    X,
    Y,
    assert_same,
    assert_unchanged,
    mse,
    naive_step,
    network,
    sequential,
    step_for,
    twins,
    values,
)
from keras import layers

OPTIMIZERS = [
    value
    for value in vars(keras.optimizers).values()
    if inspect.isclass(value)
    and issubclass(value, keras.optimizers.Optimizer)
    and value is not keras.optimizers.Optimizer
]
OPTIONS = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.05},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "decay": {"weight_decay": 0.05, "loss_scale_factor": 64.0},
    "all_else": {
        "weight_decay": 0.05,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 2,
        "gradient_accumulation_steps": 2,
        "loss_scale_factor": 64.0,
    },
}


def make_optimizer(kind, **options):
    """A new class in Keras is made like the others, or fails here."""
    if kind.__name__ == "LossScaleOptimizer":
        return kind(Adam(0.01, **options), initial_scale=64.0, dynamic_growth_steps=3)
    if kind.__name__ == "MultiOptimizer":
        scale = options.pop("loss_scale_factor", None)
        choices = {".*bias": SGD(0.05, **options)}
        choose = keras.optimizers.OptimizerMap(Adam(0.01, **options), choices)
        return kind(choose, loss_scale_factor=scale)
    return kind(learning_rate=0.01, **options)


def test_the_optimizers_are_all_found():
    names = {kind.__name__ for kind in OPTIMIZERS}
    assert names >= {"SGD", "Adam", "RMSprop", "Ftrl", "Lion", "Lamb", "LossScaleOptimizer"}


@pytest.fixture(scope="module")
def dense_twins():
    return twins(lambda: sequential(layers.Dense(2, activation="tanh")))


@pytest.mark.thinned
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_optimizer_equals_fit(kind, options, dense_twins):
    model, reference = dense_twins
    for one in dense_twins:
        one.set_weights([np.tanh(X[:3, :2]), X[3, :2]])
    ours, keras_own = (make_optimizer(kind, **OPTIONS[options]) for _ in range(2))
    step = step_for(model, optimizer=ours)
    # Keras's graph takes longer to trace than ours, so only the plain form is held against it.
    reference.compile(keras_own, "mse", run_eagerly=options != "plain")
    keras_own.build(reference.trainable_variables)  # as `fit` does, and `train_on_batch` does not
    before = values(model)
    for _ in range(3):
        metrics = step(X, Y)
        loss = reference.train_on_batch(X, Y)
        assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["grad_norm"] > 0.05  # else no option clips
    assert not np.allclose(before[0], values(model)[0], rtol=0, atol=1e-6)
    exact = options == "plain"  # Ftrl cancels; eager and graph round differently
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if exact else {"rtol": 1e-4, "atol": 1e-5}
    assert_same(values(model, ours), values(reference, keras_own), **tolerance)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_many_weights_clipped_equal_fit(jit_compile):
    """Their norm is added up in another order, and taken once."""
    wide = lambda: sequential(layers.Dense(200, "tanh"), layers.Dense(200), layers.Dense(2))  # noqa: E731
    model, reference = twins(wide)
    ours, keras_own = (Adam(0.01, global_clipnorm=0.05) for _ in range(2))
    step = step_for(model, optimizer=ours, jit_compile=jit_compile)
    reference.compile(keras_own, "mse", run_eagerly=True)
    for _ in range(3):
        metrics = step(X, Y)
        with tf.GradientTape() as tape:
            loss = mse(reference(X, training=True), Y)
        gradients = tape.gradient(loss, [v.value for v in reference.trainable_variables])
        assert metrics["grad_norm"] == pytest.approx(float(tf.linalg.global_norm(gradients)), 1e-5)
        assert metrics["grad_norm"] > 0.05
        reference.train_on_batch(X, Y)
    assert_same(values(model, ours), values(reference, keras_own), rtol=1e-4, atol=1e-5)
    assert ours.global_clipnorm == 0.05


def test_learning_rate_schedule_equals_fit():
    model, reference = twins(network)
    ours, keras_own = (
        Adam(keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.1, 0.01, 0.0]))
        for _ in range(2)
    )
    step = step_for(model, optimizer=ours)
    reference.compile(keras_own, "mse", run_eagerly=True)
    for _ in range(6):
        before = values(model)
        step(X, Y), reference.train_on_batch(X, Y)
    assert_same(values(model, ours), values(reference, keras_own))
    assert_unchanged(values(model), before)  # the rate is 0 by now


def test_learning_rate_may_be_assigned_between_steps():
    model, reference = twins(network)
    optimizer = SGD(0.1)
    step = step_for(model, optimizer=optimizer)
    optimizer.learning_rate = 0.0
    step(X, Y)
    assert_unchanged(values(model), values(reference))
    optimizer.learning_rate = 0.1
    step(X, Y)
    naive_step(reference, mse, [reference], reference.trainable_variables, SGD(0.1), X, Y)
    assert_same(values(model), values(reference))
