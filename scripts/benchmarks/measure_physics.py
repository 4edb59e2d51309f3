"""Measurement of `vantage benchmark physics`: the heat equation, solved by a network.

Imported by `measure.py` once TensorFlow is started.
"""

import time

import keras
import numpy as np
import tensorflow as tf

from vantage.training import compile_step, derivatives


def heat(file: str) -> dict[str, float]:
    """Solves the heat equation with the points and weights of a file, see heat.py.

    Returns:
        `seconds` and `updates` until the relative L2 `error` is small enough, and
        `compile_seconds`, of the seconds those before the second call.
    """
    data = dict(np.load(file))
    most, every = int(data["most"]), int(data["every"])
    began = time.perf_counter()
    weights = [data[f"weight_{k}"] for k in range(int(data["layers"]))]
    widths = [bias.size for bias in weights[1::2]]
    hidden = [keras.layers.Dense(width, "tanh") for width in widths[:-1]]
    model = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(widths[-1])])
    model.set_weights(weights)

    def forward(inputs):
        within, edge = inputs
        u = derivatives(model, within, order=2)
        return u.first[:, 0, 1] - float(data["alpha"]) * u.second[:, 0, 0], model(edge)

    def loss(outputs, values):
        residual, u = outputs
        return tf.reduce_mean(residual**2) + tf.reduce_mean((u - values) ** 2)

    inputs, values = (data["inside"], data["edge"]), data["values"]
    signature = tf.nest.map_structure(lambda a: tf.TensorSpec(a.shape), (inputs, values))
    schedule = keras.optimizers.schedules.CosineDecay(float(data["rate"]), most)
    adam, variables = keras.optimizers.Adam(schedule), model.trainable_variables
    step = compile_step(forward, loss, variables, adam, signature, updates=every)
    updates, error, first = 0, 1.0, 0.0
    while updates < most and error >= data["wanted"]:
        step(inputs, values)
        updates += every
        found = model(data["grid"]).numpy()
        error = np.linalg.norm(found - data["solution"]) / np.linalg.norm(data["solution"])
        first = first or time.perf_counter() - began
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "updates": updates,
        "error": float(error),
        "compile_seconds": first,
    }
