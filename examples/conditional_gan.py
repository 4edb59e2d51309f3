"""A conditional GAN draws the digit that it is asked for, 8 × 8 pixels as a vector."""

import keras
from keras import layers
from sklearn.datasets import load_digits

from vantage.training import GAN


def player(first, end, activation=None):
    """A network of two inputs: noise or pixels, and labels."""
    inputs = [keras.Input((first,)), keras.Input((), dtype="int32")]  # noise or pixels, label
    hidden = layers.Concatenate()([inputs[0], layers.Embedding(10, 16)(inputs[1])])
    for _ in range(2):
        hidden = layers.LeakyReLU(0.2)(layers.Dense(128)(hidden))
    return keras.Model(inputs, layers.Dense(end, activation)(hidden))


def main(steps=1_000, logdir=None):
    """Returns the trainer."""
    pixels, labels = load_digits(return_X_y=True)
    keras.utils.set_random_seed(0)
    optimizers = [keras.optimizers.Adam(1e-3, beta_1=0.5) for _ in range(2)]
    gan = GAN(player(16, 64, "tanh"), player(64, 1), *optimizers, gradient_penalty=1.0, ema=0.99)
    gan.fit(pixels / 8 - 1, steps, labels=labels, report_every=250, verbose=True, logdir=logdir)
    return gan


if __name__ == "__main__":
    print(main(logdir="runs/conditional").sample(3, labels=[7, 7, 7]).reshape(3, 8, 8).round())
