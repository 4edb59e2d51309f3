"""A GAN learns to write digits: images of 28 × 28 pixels as flat vectors."""

import keras
import numpy as np
from keras import layers

from vantage.training import GAN, non_saturating_loss


def load(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits in random order, scaled up: images `[N, 784]`, and labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    framed = np.pad(images.reshape(-1, 8, 8) / 8, [(0, 0), (1, 1), (1, 1)]) - 1  # [N, 10, 10]
    scale = np.maximum(0, 1 - np.abs(np.linspace(0, 9, 28)[:, None] - np.arange(10)))  # linear
    order = generator.permutation(len(images))
    return (scale @ framed @ scale.T).reshape(-1, 784)[order], labels[order]


def build_trainer(steps: int, seed: int, penalty=5.0, loss=non_saturating_loss) -> GAN:
    """Two dense networks: 100 noise values to pixels in [-1, 1], and pixels to a logit."""
    keras.utils.set_random_seed(seed)
    generator, discriminator = [keras.Input((100,))], [keras.Input((784,))]
    for units in (128, 256):
        generator += [layers.Dense(units), layers.BatchNormalization(), layers.LeakyReLU(0.2)]
        discriminator += [layers.Dense(384 - units), layers.LeakyReLU(0.2)]
    models = [*generator, layers.Dense(784, "tanh")], [*discriminator, layers.Dense(1)]
    decay = keras.optimizers.schedules.CosineDecay(0.002, steps)
    optimizers = [keras.optimizers.Adam(decay, beta_1=0.5) for _ in models]
    options = {"gradient_penalty": penalty, "generator_loss": loss, "batch_size": 64}
    return GAN(*map(keras.Sequential, models), *optimizers, seed=seed, **options)


if __name__ == "__main__":
    images, _ = load(np.random.default_rng(0))
    trainer = build_trainer(steps=4_000, seed=0)
    trainer.fit(images[:1_000], 4_000, sample_every=500, logdir="runs/digits", verbose=True)
