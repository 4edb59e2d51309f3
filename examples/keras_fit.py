"""Keras's own fit with a loss in NumPy: 90 % of the targets shall be below the outputs."""

import keras
import numpy as np

from vantage.training import as_keras, external


def pinball(outputs, targets):
    """The loss, and its gradient."""
    slopes = np.where(outputs < targets, -0.9, 0.1)
    return np.mean(slopes * (outputs - targets)), slopes / outputs.size


def main(x, t, epochs=60):
    """Returns the model and its history."""
    network = keras.Sequential([keras.layers.Dense(32, "tanh"), keras.layers.Dense(1)])
    model = as_keras(network, external(pinball)).compile(keras.optimizers.Adam(0.01))
    return model, model.fit(x, t, validation_split=0.2, epochs=epochs, verbose=0).history
