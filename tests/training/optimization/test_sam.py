"""Sharpness-aware minimisation against its two equations, written eagerly."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_steps import (
    ROWS,
    SGD,
    Adam,
    X,
    Y,
    assert_same,
    assert_unchanged,
    embedding,
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

from vantage.training import LBFGS, SAM, Regression, estimated, external, given


def by_hand(model, optimizer, rho, inputs, targets):
    variables = model.trainable_variables

    def gradient():
        with tf.GradientTape() as tape:
            loss = mse(model(inputs, training=True), targets)
            loss += tf.add_n(model.losses) if model.losses else 0.0
        return float(loss), [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    loss, first = gradient()
    norm = tf.linalg.global_norm(first)
    before = [v.numpy() for v in variables]
    for variable, g in zip(variables, first, strict=True):
        variable.assign_add(rho * g / norm)
    _, second = gradient()
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    optimizer.apply(second, variables)
    return loss, float(tf.linalg.global_norm(second))


@pytest.mark.parametrize("make", [lambda: Adam(0.05), lambda: SGD(0.1, momentum=0.9, clipnorm=0.1)])
def test_it_is_its_two_equations(make):
    model, other = twins(network)
    optimizer, reference = make(), make()
    reference.build(other.trainable_variables)
    step = step_for(model, optimizer=SAM(optimizer, rho=0.5))
    for _ in range(3):
        metrics = step(X, Y)
        loss, norm = by_hand(other, reference, 0.5, X, Y)
        assert metrics == pytest.approx({"loss": loss, "grad_norm": norm}, rel=1e-4)
    assert_same(values(model, optimizer), values(other, reference))


def test_it_differs_from_its_optimizer_alone():
    model, other = twins(network)
    step_for(model, optimizer=SAM(SGD(0.1), rho=0.5))(X, Y)
    step_for(other, optimizer=SGD(0.1))(X, Y)
    assert any(
        np.abs(a - b).max() > 1e-3 for a, b in zip(values(model), values(other), strict=True)
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_several_updates_on_minibatches(jit_compile):
    model, other = twins(network)
    updates = {"updates": ROWS.shape, "jit_compile": jit_compile}
    step = step_for(model, optimizer=SAM(Adam(0.05)), **updates)
    metrics = step(X, Y, ROWS.astype(np.int32))
    reference = Adam(0.05)
    reference.build(other.trainable_variables)
    losses = [by_hand(other, reference, 0.05, X[rows], Y[rows])[0] for rows in ROWS]
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-4)
    assert_same(values(model), values(other), rtol=1e-4, atol=1e-5)


def test_regression_in_minibatches(tmp_path):
    trainer = Regression(network(), "mse", SAM(Adam(0.05)), batch_size=4, jit_compile=False)
    history = trainer.fit(X, Y, epochs=20, report_every=10, logdir=tmp_path / "run")
    assert history["loss"][-1] < history["loss"][0]


def test_batch_norm_moves_once_at_the_weights_of_the_start():
    make = lambda: sequential(layers.Dense(4), layers.BatchNormalization(), layers.Dense(2))  # noqa: E731
    model, other = twins(make)
    step_for(model, optimizer=SAM(SGD(0.1), rho=1.0))(X, Y)
    step_for(other, optimizer=SGD(0.1))(X, Y)
    assert_unchanged(values_of_norm(model), values_of_norm(other))


def values_of_norm(model):
    return [v.numpy() for v in model.layers[1].non_trainable_variables]


def test_penalties_and_dropout_are_the_same_in_both_evaluations():
    model, other = twins(stateful)
    for each in (model, other):  # |b| of its penalty has a kink at 0
        each.layers[0].bias.assign(each.layers[0].bias + 0.1)
    sharp = step_for(model, optimizer=SAM(SGD(0.1), rho=1e-6))(X, Y)  # hardly any ε
    plain = step_for(other, optimizer=SGD(0.1))(X, Y)
    assert sharp == pytest.approx(plain, rel=1e-3)
    assert_same(values(model), values(other), rtol=1e-3, atol=1e-5)


def test_sparse_gradients():
    model, other = twins(embedding)
    words = np.random.default_rng(0).integers(0, 5, (8, 3)).astype(np.int32)
    signature = tf.TensorSpec((8, 3), tf.int32), tf.TensorSpec((8, 2))
    step_for(model, optimizer=SAM(SGD(0.1), 0.5), signature=signature)(words, Y)
    reference = SGD(0.1)
    reference.build(other.trainable_variables)
    by_hand(other, reference, 0.5, words, Y)
    assert_same(values(model), values(other))


@pytest.mark.parametrize("updates", [None, 3])
def test_a_host_loss_reports_the_first_evaluation(updates):
    loss = external(lambda y, t: (*host_mse(y, t), {"mine": np.mean((y - t) ** 2)}))
    metrics = step_for(network(), loss, SAM(SGD(0.1), 0.5), updates=updates)(X, Y)
    np.testing.assert_allclose(metrics["mine"], metrics["loss"], rtol=1e-5)
    assert np.shape(metrics["mine"]) == (() if updates is None else (updates,))
    score = estimated(lambda y, t: np.mean((y - t) ** 2, 1))
    assert np.all(step_for(network(), score, SAM(SGD(0.1)))(X, Y)["standard_error"] > 0)


def test_a_host_loss_that_raises_in_the_second_evaluation_changes_nothing():
    calls = []

    def loss(y, t):
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("weather")
        return host_mse(y, t)

    model, optimizer = network(), Adam(0.1)
    step = step_for(model, external(loss), SAM(optimizer, 0.5))
    before = values(model, optimizer)
    with pytest.raises(KeyError, match="weather"):
        step(X, Y)
    assert_unchanged(values(model, optimizer), before)


@pytest.mark.parametrize("updates", [None, 2])
@pytest.mark.parametrize("which", ["first", "second", "second loss alone"])
def test_a_number_that_is_not_finite_in_either_evaluation_changes_nothing(which, updates):
    model, optimizer = stateful(), Adam(0.1)
    kernel = model.layers[0].kernel
    start = float(tf.norm(kernel.value))

    def loss(y, t):
        is_far = tf.abs(tf.norm(kernel.value) - start) > 1e-4
        bad = {"first": ~is_far, "second": is_far, "second loss alone": is_far}[which]
        if which == "second loss alone":
            return mse(y, t) + tf.where(bad, np.nan, 0.0)
        return mse(y, t) * tf.where(bad, np.nan, 1.0)

    options = {"updates": updates, "jit_compile": False}
    step = step_for(model, loss, SAM(optimizer, 0.5), **options)
    before = values(model, optimizer)
    with pytest.raises(FloatingPointError, match="must be finite"):
        step(X, Y)
    assert_unchanged(values(model, optimizer), before)


def test_a_gradient_of_zero_moves_nothing():
    model, optimizer = network(), SGD(0.1)
    before = model.get_weights()
    step_for(model, lambda y, t: 0.0 * mse(y, t), SAM(optimizer))(X, Y)
    assert_unchanged(model.get_weights(), before)


def test_half_precision_and_averages():
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    model = sequential(layers.Dense(4, "tanh", dtype=policy), layers.Dense(2, dtype=policy))
    optimizer = Adam(0.05, use_ema=True, ema_momentum=0.5)
    trainer = Regression(model, "mse", SAM(optimizer), jit_compile=False)
    history = trainer.fit(X, Y, epochs=20, report_every=20)
    assert history["loss"][-1] < history["loss"][0]
    averages = [v.numpy() for v in optimizer._model_variables_moving_average]
    assert_unchanged(model.get_weights(), averages)


def test_refused():
    for wrong in ("adam", LBFGS(), SAM(Adam()), None):
        with pytest.raises(ValueError, match="The optimizer of SAM must be a Keras optimizer"):
            SAM(wrong)
    for rho in (0, -1, None, "a", float("nan")):
        with pytest.raises(ValueError, match="rho must be"):
            SAM(Adam(), rho)
    with pytest.raises(ValueError, match="SAM must have the gradient at other weights"):
        step_for(network(), given, SAM(Adam()))
