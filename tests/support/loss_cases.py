"""Data, models and fits that tests of losses share."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from vantage.training import (
    Regression,
)

B = 16  # examples
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, 3)).astype(np.float32)
OTHER = RANDOM.normal(size=(B, 3)).astype(np.float32)
BINARY = (X[:, :1] > 0).astype(np.float32)
CLASSES = np.arange(B) % 3
SHARE = 0.9


def network(units=1, activation=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(units, activation)]
    )


def sgd():
    return keras.optimizers.SGD(0.2)


def assert_same(one, other, tolerance=1e-6):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def fitted(loss, targets, model, epochs=5):
    """A model that Keras has trained."""
    model.compile(sgd(), loss)
    model.fit(X, targets, batch_size=B, shuffle=False, epochs=epochs, verbose=0)
    return model


def trained(loss, targets, model, epochs=5):
    Regression(model, loss, sgd()).fit(X, targets, epochs)
    return model


def pinball(y_true, y_pred):
    below = y_true - y_pred
    return tf.reduce_mean(tf.maximum(SHARE * below, (SHARE - 1) * below))


def squared(y, t):
    return tf.reduce_mean((y - tf.cast(t, tf.float32)) ** 2)
