"""Our side of `vantage benchmark physics`: the heat equation, solved by a network.

    python -m vantage.scripts.physics.solving heat.npz

Prints one JSON line. TensorFlow is started as the commands start it.
"""

import json
import sys
import time

from vantage.scripts.cli.starting import limit_threads, start_tensorflow

limit_threads()
start_tensorflow()  # before anything below imports it with other settings

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from vantage.training import compile_step, derivatives  # noqa: E402


def heat(file: str) -> dict[str, float]:
    """Solves the heat equation with the points and weights of a file, see comparison.py.

    Returns:
        `seconds`, `processor_seconds` and `updates` until the relative L2 `error` is small enough,
        and `compile_seconds`, of the seconds those before the second call.
    """
    data = dict(np.load(file))
    most, every = int(data["most"]), int(data["every"])
    began, processor = time.perf_counter(), time.process_time()
    weights = [data[f"weight_{k}"] for k in range(int(data["layers"]))]
    widths = [bias.size for bias in weights[1::2]]
    hidden = [keras.layers.Dense(width, "tanh") for width in widths[:-1]]
    model = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(widths[-1])])
    model.set_weights(weights)

    def forward(inputs):
        within, edge = inputs
        u = derivatives(model, within, order=2, columns=[0])
        return u.first[:, 0, 1] - float(data["alpha"]) * u.second[:, 0, 0], model(edge)

    def loss(outputs, values):
        residual, u = outputs
        return tf.reduce_mean(residual**2) + tf.reduce_mean((u - values) ** 2)

    inputs, values = (data["inside"], data["edge"]), data["values"]
    signature = tf.nest.map_structure(lambda a: tf.TensorSpec(a.shape), (inputs, values))
    schedule = keras.optimizers.schedules.CosineDecay(float(data["rate"]), most)
    adam, variables = keras.optimizers.Adam(schedule), model.trainable_variables
    arguments = forward, loss, variables, adam, signature
    # XLA's compilation would take half of the time.
    step = compile_step(*arguments, updates=every, jit_compile=False)
    updates, error, first = 0, 1.0, 0.0
    while updates < most and error >= data["wanted"]:
        step(inputs, values)
        updates += every
        found = model(data["grid"]).numpy()
        off = np.linalg.norm(found - data["solution"])
        error = float(off / np.linalg.norm(data["solution"]))
        first = first or time.perf_counter() - began
    seconds, spent = time.perf_counter() - began, time.process_time() - processor
    return {
        "seconds": seconds,
        "processor_seconds": spent,
        "updates": updates,
        "error": error,
        "compile_seconds": first,
    }


if __name__ == "__main__":
    print(json.dumps(heat(sys.argv[1])))
