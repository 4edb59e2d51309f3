"""Our side of `vantage benchmark fit`, and Keras's: examples per second of a training.

    python -m vantage.scripts.fits.sides TASK vantage|keras SECONDS

Prints one JSON line. The first epochs, which compile, are not counted.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from keras import layers

from vantage.scripts.fits.tasks import BATCH, TASKS, data_of
from vantage.training import Trainer


def model_of(task: str) -> keras.Model:
    """The network of a task."""
    keras.utils.set_random_seed(0)
    parts: dict[str, list[keras.Layer]] = {
        "mlp": [keras.Input((20,)), layers.Dense(64, "relu"), layers.Dense(64, "relu")],
        "cnn": [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
        ],
        "lstm": [keras.Input((30, 8)), layers.LSTM(32)],
        "embedding": [
            keras.Input((20,), dtype="int32"),
            layers.Embedding(600_000, 64),
            layers.GlobalAveragePooling1D(),
        ],
    }
    return keras.Sequential([*parts[task.removesuffix("-dataset")], layers.Dense(1)])


def measure(task: str, side: str, seconds: float) -> dict[str, float]:
    """Trains for about so long; `examples_per_second`."""
    inputs, targets = data_of(task)
    model, rate = model_of(task), TASKS[task].rate
    kind = keras.optimizers.SGD if TASKS[task].is_sgd else keras.optimizers.Adam
    dataset = None
    if task.endswith("-dataset"):
        dataset = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(BATCH).prefetch(2)
    if side == "keras":
        model.compile(kind(rate), "mse")
        if dataset is None:
            train = lambda n: model.fit(inputs, targets, batch_size=BATCH, epochs=n, verbose=0)  # noqa: E731
        else:
            train = lambda n: model.fit(dataset, epochs=n, verbose=0)  # noqa: E731
    else:
        trainer = Trainer(model, "mse", kind(rate))
        if dataset is None:
            train = lambda n: trainer.fit(inputs, targets, n, batch_size=BATCH)  # noqa: E731
        else:
            train = lambda n: trainer.fit(dataset, epochs=n)  # noqa: E731
    train(1)
    began = time.perf_counter()
    train(1)
    epochs = max(1, int(seconds / (time.perf_counter() - began)))
    began = time.perf_counter()
    train(epochs)
    return {"examples_per_second": epochs * len(targets) / (time.perf_counter() - began)}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
