"""Compiled functions within a model: their gradients, and what they must not assign."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from loss_cases import BINARY, X, assert_same, fitted, sgd, squared, trained

from vantage.training import (
    Regression,
    compile_step,
)


class CompiledCall(keras.Model):
    """A model that TensorFlow compiles by itself, as subclassed ones often are."""

    def __init__(self, *stack):
        super().__init__()
        self.stack = list(stack)

    @tf.function
    def call(self, inputs, training=False):
        for layer in self.stack:
            inputs = layer(inputs, training=training)
        return inputs


def compiled_twice(*more):
    """Two of the same weights, traced before anybody trains them."""
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        stack = layers.Dense(4, "tanh", kernel_regularizer="l2"), *more, layers.Dense(1)
        models.append(CompiledCall(*stack))
        models[-1](X)
    return models


@pytest.mark.parametrize("training", [False, True], ids=["new", "traced"])
def test_a_compiled_function_within_a_model_has_its_gradient(training):
    """It holds the variables themselves, in whatever step it was traced.

    The penalties alone would reach every kernel.
    """
    one, other = compiled_twice()
    other(X, training=training)
    expected = fitted("mse", BINARY, one, epochs=6)
    trainer = Regression(other, "mse", sgd())
    for epochs, every in ((1, 1), (2, 2), (3, 3)):  # a step for each
        trainer.fit(X, BINARY, epochs, report_every=every)
    assert_same(other, expected, 1e-5)


@pytest.mark.parametrize("is_traced", [False, True])
def test_what_a_compiled_function_assigns_is_refused(is_traced):
    """A refused update could not leave it as it is."""
    model, _ = compiled_twice(layers.BatchNormalization())
    if is_traced:
        model(X, training=True)
    before = model.get_weights()
    with pytest.raises(ValueError, match="its states .* outside of.*Leave out @tf.function"):
        trained("mse", BINARY, model)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_gradients_in_half_precision_are_scaled_within_compiled_functions():
    keras.utils.set_random_seed(0)
    half = layers.Dense(4, "tanh", dtype="mixed_float16")
    model = keras.Sequential([keras.Input((3,)), half, layers.Dense(1)])
    before = model.get_weights()
    step = compile_step(
        tf.function(lambda x: model(x, training=True)),
        lambda y, t: 1e-9 * squared(y, t),
        model.trainable_variables,
        keras.optimizers.SGD(1e8),
        (tf.TensorSpec(X.shape), tf.TensorSpec(BINARY.shape)),
    )
    step(X, BINARY)
    assert not any(map(np.array_equal, before, model.get_weights()))
