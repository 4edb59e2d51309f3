"""A fit that is resumed where it was killed, run as a program: KIND FOLDER RESULT.

It writes the SHA-256 of all weights to RESULT when the fit has ended.
"""

import hashlib
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from vantage.training import GAN, Regression, Trainer

X = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
T = np.tanh(X.sum(1, keepdims=True))


def adam(**options):
    return keras.optimizers.Adam(0.01, **options)


def network(outputs=1):
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(16, "tanh"),
            layers.Dropout(0.2, seed=1),
            layers.Dense(outputs),
        ]
    )


def fit(kind, folder):
    """The models of the fit, after it has ended."""
    keras.utils.set_random_seed(0)
    often = {"logdir": folder, "resume": True, "checkpoint_every": 3}
    if kind == "trainer":
        model = network()
        data = tf.data.Dataset.from_tensor_slices((X, T)).shuffle(200, seed=2).batch(16)
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1e-3)
        Trainer(model, "mse", adam()).fit(data, epochs=40, callbacks=[plateau], **often)
        return [model]
    if kind == "regression":
        model = network()
        trainer = Regression(model, "mse", adam(), batch_size=16, jit_compile=False)
        trainer.fit(X, T, epochs=200, report_every=2, validation=(X, T), **often)
        return [model]
    players = network(2), network()
    gan = GAN(*players, adam(beta_1=0.5), adam(beta_1=0.5), batch_size=16, ema=0.9, seed=3)
    gan.fit(X, 800, report_every=20, **often)
    return [*players, gan.average]


if __name__ == "__main__":
    kind, folder, result = sys.argv[1:]
    digest = hashlib.sha256()
    for model in fit(kind, folder):
        for array in model.get_weights():
            digest.update(array.tobytes())
    Path(result).write_text(digest.hexdigest(), encoding="utf-8")
