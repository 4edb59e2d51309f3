"""A small regression, its data, and what it writes to TensorBoard."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from vantage.training import (
    Regression,
    differentiate,
)

B, M = 10, 4  # examples, examples per minibatch
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, 3)).astype(np.float32)
Y = RANDOM.normal(size=(B, 2)).astype(np.float32)


def mse(y, targets):
    return tf.reduce_mean((y - targets) ** 2), {"bias": tf.reduce_mean(y - targets)}


def host_mse(y, targets):
    return np.mean((y - targets) ** 2), 2 * (y - targets) / y.size, {"bias": (y - targets).mean()}


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(2)]
    )


def regression(loss=None, jit_compile=False, **options):
    """Without XLA, whose compilation takes seconds, unless asked for."""
    loss = differentiate(mse) if loss is None else loss
    optimizer = keras.optimizers.Adam(0.01)
    return Regression(network(), loss, optimizer, jit_compile=jit_compile, **options)


def read(folder):
    return EventAccumulator(str(folder), {"tensors": 0, "images": 0}).Reload()


def hparams(events):
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content).hparams


def status(events):
    content = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    return metadata.parse_session_end_info_plugin_data(content).status


def scalars(folder):
    events = read(folder)
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


def assert_same_weights(model, expected):
    for weights, others in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(weights, others, rtol=1e-5, atol=1e-6)


class Always(layers.Dropout):
    """Monte Carlo Dropout, which draws in inference, too."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def noisy(layer=layers.Dropout):
    keras.utils.set_random_seed(3)
    parts = [layers.Dense(4, "tanh"), layer(0.3, seed=1), layers.Dense(2)]
    return keras.Sequential([keras.Input((3,)), *parts])
