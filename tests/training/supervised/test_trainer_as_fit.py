"""The same trainings by Keras's `fit` and by `Trainer`: 12 kinds of models, every optimizer.

Fifty updates from the same weights, on the same batches in the same order.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from vantage.training import Trainer

B, M, EPOCHS = 40, 8, 10  # 5 updates an epoch
RANDOM = np.random.default_rng(0)
FLAT = RANDOM.normal(size=(B, 6)).astype(np.float32)
IMAGES = RANDOM.normal(size=(B, 8, 8, 2)).astype(np.float32)
SERIES = RANDOM.normal(size=(B, 7, 3)).astype(np.float32)
WORDS = RANDOM.integers(1, 11, size=(B, 7)) * (np.arange(7) < RANDOM.integers(2, 8, size=(B, 1)))
TARGETS = np.tanh(FLAT[:, :1] + FLAT[:, 1:2]).astype(np.float32)


class Sampling(layers.Layer):
    """z = μ + σ·ε, with the divergence of a variational autoencoder as a loss of the layer."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, inputs):
        mean, log_variance = inputs
        divergence = ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance
        self.add_loss(0.01 * ops.mean(ops.sum(divergence, axis=-1)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + ops.exp(0.5 * log_variance) * noise


def sequential(*parts):
    return keras.Sequential(list(parts))


def attention():
    inputs = keras.Input((7, 3))
    hidden = layers.Dense(8)(inputs)
    # The bias of keys has no effect: its gradient would be rounding alone.
    hidden = layers.MultiHeadAttention(2, 4, use_bias=False)(hidden, hidden)
    return keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(hidden)))


def several():
    one, two = keras.Input((6,), name="one"), keras.Input((7, 3), name="two")
    hidden = layers.concatenate([layers.Dense(4, "tanh")(one), layers.Flatten()(two)])
    outputs = [layers.Dense(1, name="first")(hidden), layers.Dense(1, name="second")(hidden)]
    return keras.Model([one, two], outputs)


def autoencoder():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(inputs)
    sample = Sampling()([layers.Dense(2)(hidden), layers.Dense(2)(hidden)])
    return keras.Model(inputs, layers.Dense(1)(sample))


def siamese():
    one, two = keras.Input((3,)), keras.Input((3,))
    embed = sequential(keras.Input((3,)), layers.Dense(8, "tanh"), layers.Dense(4))
    return keras.Model([one, two], ops.sum(ops.square(embed(one) - embed(two)), 1, keepdims=True))


def half():
    policy = "mixed_bfloat16"
    return sequential(
        keras.Input((6,)), layers.Dense(16, "relu", dtype=policy), layers.Dense(1, dtype="float32")
    )


KINDS = {
    "dense": (
        lambda: sequential(keras.Input((6,)), layers.Dense(16, "tanh"), layers.Dense(1)),
        FLAT,
    ),
    "convolution": (
        lambda: sequential(
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(1),
        ),
        IMAGES,
    ),
    "LSTM": (lambda: sequential(keras.Input((7, 3)), layers.LSTM(6), layers.Dense(1)), SERIES),
    "attention": (attention, SERIES),
    "embedding with a mask": (
        lambda: sequential(
            keras.Input((7,), dtype="int64"),
            layers.Embedding(11, 4, mask_zero=True),
            layers.GRU(5),
            layers.Dense(1),
        ),
        WORDS,
    ),
    "BatchNorm": (
        lambda: sequential(
            keras.Input((6,)),
            layers.Dense(16, use_bias=False),  # its gradient would be rounding alone
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(),
            layers.Dense(1, kernel_regularizer="l2"),
        ),
        FLAT,
    ),
    "Dropout": (
        lambda: sequential(
            keras.Input((6,)),
            layers.Dense(16, "tanh"),
            layers.Dropout(0.4, seed=2),
            layers.Dense(1),
        ),
        FLAT,
    ),
    "inputs and outputs": (several, (FLAT, SERIES)),
    "VAE": (autoencoder, FLAT),
    "siamese": (siamese, (FLAT[:, :3], FLAT[:, 3:])),
    "mixed precision": (half, FLAT),
    "EMA": (
        lambda: sequential(keras.Input((6,)), layers.Dense(16, "tanh"), layers.Dense(1)),
        FLAT,
    ),
}
NAMES = {
    *("SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor", "Nadam"),
    *("Ftrl", "Lion", "Lamb", "Muon"),
}
GRID = [(kind, name) for kind in KINDS for name in sorted(NAMES)]
# Lion moves by the sign alone, which rounding to half precision turns where a gradient is small.
GRID.remove(("mixed precision", "Lion"))
QUICK = [(kind, "Adam") for kind in KINDS]
QUICK += [("dense", name) for name in ("SGD", "RMSprop", "Adafactor", "Muon")]


def test_every_optimizer_of_keras_is_here():
    found = {n for n, each in vars(keras.optimizers).items() if isinstance(each, type)}
    others = {
        "Optimizer",
        "LossScaleOptimizer",
        "MultiOptimizer",
        "OptimizerMap",
        "ScheduleFreeAdamW",
    }
    assert found - others <= NAMES


def optimizer(kind, name):
    ema = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4}
    options = ema if kind == "EMA" else {}
    return getattr(keras.optimizers, name)(learning_rate=0.01, **options)


def paired(kind):
    """Two models of the same weights."""
    make, inputs = KINDS[kind]
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        models.append(make())
    for one, other in zip(models[0].variables, models[1].variables, strict=True):
        other.assign(one)
    return models, inputs


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow) for each in GRID],
)
def test_fifty_updates_are_those_of_keras(kind, name):
    (plain, model), inputs = paired(kind)
    several = kind == "inputs and outputs"
    targets = [TARGETS, -TARGETS] if several else TARGETS
    # XLA draws other random numbers from a seed than a graph, and rounds otherwise.
    plain.compile(optimizer(kind, name), ["mse", "mae"] if several else "mse", jit_compile=False)
    given = list(inputs) if isinstance(inputs, tuple) else inputs
    plain.fit(given, targets, batch_size=M, epochs=EPOCHS, shuffle=False, verbose=0)

    def both(outputs, targets):
        first, second = outputs
        difference = ops.mean(ops.square(first - targets[0]))
        return difference + ops.mean(ops.abs(second - targets[1]))

    trainer = Trainer(model, both if several else "mse", optimizer(kind, name))
    trainer.fit(given, targets, EPOCHS, batch_size=M, shuffle=False)
    moved = 0.0
    for one, other in zip(plain.get_weights(), model.get_weights(), strict=True):
        tolerance = 2e-2 if kind == "mixed precision" else 2e-3
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance)
        moved = max(moved, float(np.abs(one).max()))
    assert moved > 0 and int(trainer.optimizers[""].iterations) == 50
