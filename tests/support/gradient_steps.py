"""Models, data and steps that tests of the gradient core share, and the naive step."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from vantage.training.core.gradients import compile_step
from vantage.training.core.lifts import differentiate

B = 8  # examples
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, 3)).astype(np.float32)
Y = RANDOM.normal(size=(B, 2)).astype(np.float32)
WORDS = RANDOM.integers(0, 5, size=(B, 3)).astype(np.int32)  # with repeats
SIGNATURE = tf.TensorSpec((B, 3)), tf.TensorSpec((B, 2))
WORD_SIGNATURE = tf.TensorSpec((B, 3), tf.int32), tf.TensorSpec((B, 2))
SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam
LossScale = keras.optimizers.LossScaleOptimizer


def mse(y, targets):
    return tf.reduce_mean(tf.square(y - targets))


def host_mse(y, targets):
    return np.mean((y - targets) ** 2), 2 * (y - targets) / y.size


def sequential(*stack, shape=(3,)):
    return keras.Sequential([keras.Input(shape), *stack])


def network():
    return sequential(layers.Dense(4, activation="tanh"), layers.Dense(2))


def stateful():
    """Everything that a forward pass may change or add: moving averages, seeds, penalties."""
    return sequential(
        layers.Dense(4, activation="tanh", kernel_regularizer="l2", bias_regularizer="l1"),
        layers.BatchNormalization(momentum=0.5),
        layers.Dropout(0.3, seed=1),
        layers.Dense(
            2, kernel_constraint=keras.constraints.MaxNorm(0.7), activity_regularizer="l2"
        ),
    )


def stateful_without_dropout():
    return sequential(
        layers.Dense(4, activation="tanh", kernel_regularizer="l2"),
        layers.BatchNormalization(momentum=0.5),
        layers.Dense(
            2, kernel_constraint=keras.constraints.MaxNorm(0.7), activity_regularizer="l2"
        ),
    )


def twins(make):
    """Two equal models: weights, moving averages and seeds."""
    keras.utils.set_random_seed(0)
    one = make()
    keras.utils.set_random_seed(0)
    two = make()
    for a, b in zip(one.variables, two.variables, strict=True):
        b.assign(a)
    return one, two


def step_for(model, loss_gradient=None, optimizer=None, signature=SIGNATURE, **options):
    return compile_step(
        model,
        differentiate(mse) if loss_gradient is None else loss_gradient,
        model.trainable_variables,
        SGD(0.1) if optimizer is None else optimizer,
        signature,
        **options,
    )


def values(*owners):
    """What an update may change: `variables` of models, and of optimizers laid end to end by kind.

    An optimizer has slots for every variable or for all of them joined: `kernel_momentum` and
    `bias_momentum`, or `parameters_momentum`.
    """
    arrays = []
    for owner in owners:
        if not isinstance(owner, keras.optimizers.Optimizer):
            arrays += [variable.numpy() for variable in owner.variables]
            continue
        kinds = {}
        for variable in owner.variables:
            kind = variable.name.rpartition("_")[2]
            kind = "scalar" if kind.isdigit() or kind == "variable" else kind  # Nadam's has no name
            kinds.setdefault(kind, []).append(variable.numpy().ravel())
        arrays += [np.concatenate(kinds[name]) for name in sorted(kinds)]
    return arrays


def assert_same(received, expected, rtol=1e-5, atol=1e-6):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_unchanged(received, expected):
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def naive_step(forward, loss, models, variables, optimizer, inputs, targets):
    """One eager update with one tape, as a tutorial writes it."""
    with tf.GradientTape() as tape:
        total = loss(forward(inputs), targets)
        total += sum(tf.add_n(model.losses) for model in models if model.losses)
        scaled = optimizer.scale_loss(total)
    gradients = tape.gradient(scaled, variables)
    optimizer.apply(gradients, variables)
    return float(total)


def embedding(**options):
    return sequential(layers.Embedding(10, 4, **options), layers.Flatten(), layers.Dense(2))


ROWS = RANDOM.integers(0, B, size=(5, 4))


def small_and_stateful():
    """Compiled by XLA in half the time."""
    return sequential(layers.BatchNormalization(), layers.Dense(2, kernel_regularizer="l2"))
