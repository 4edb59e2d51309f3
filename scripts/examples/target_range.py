"""A loss that clips predictions to [0.5, 1.5]: if all start below, it has no gradient."""

import keras
import numpy as np
import tensorflow as tf

from vantage.training import Regression, differentiate

LOW, HIGH, NOISE = 0.5, 1.5, 0.1


def sample(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets `[count, 1]`: 5 of 8 inputs have 0.8 x + 0.2 within the range."""
    x = generator.uniform(0, 2, (count, 1))
    return x, 0.8 * x + 0.2 + generator.normal(0, NOISE, (count, 1))


def clipped_loss(y: tf.Tensor, targets: tf.Tensor, penalty: float) -> tf.Tensor:
    """The range penalty p · mean(outside²) has a gradient where the clipped error has none."""
    clipped = tf.clip_by_value(y, LOW, HIGH)
    return tf.reduce_mean((clipped - targets) ** 2 + penalty * (y - clipped) ** 2)


def build_trainer(penalty: float, seed: int) -> Regression:
    """Ten hidden units on the clipped loss."""
    keras.utils.set_random_seed(seed)
    alive = keras.initializers.RandomUniform(0, 1)  # zero biases: half of the units start dead
    hidden = keras.layers.Dense(10, "relu", bias_initializer=alive)
    model = keras.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(1)])
    loss = differentiate(lambda y, targets: clipped_loss(y, targets, penalty))
    return Regression(model, loss, keras.optimizers.Adam(0.01))


if __name__ == "__main__":
    inputs, targets = sample(1_000, np.random.default_rng(0))
    for penalty in (0.0, 0.1):
        print(f"range penalty {penalty}")
        trainer = build_trainer(penalty, seed=0)
        trainer.fit(inputs, targets, epochs=1_000, report_every=100, verbose=True)
