"""The training loops that people write by hand: what `Regression` and `GAN` are compared with.

Plain `tf.GradientTape` and `optimizer.apply`, models called directly. Eager they are the usual way;
compiled, with nothing but the arithmetic in them, they show how little is left to gain.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from vantage.scripts.examples import target_range
from vantage.training import log_sigmoid_loss, non_saturating_loss


def regression(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    inputs: np.ndarray,
    targets: np.ndarray,
    epochs: int,
    compiled: bool = False,
) -> Callable[[], np.ndarray]:
    """A function that trains full-batch epochs on the target range, range penalty 0.1.

    It returns its history `[epochs]`. Compiled, all epochs are one call by XLA.
    """
    inputs, targets = tf.constant(inputs, tf.float32), tf.constant(targets, tf.float32)
    optimizer.build(model.trainable_variables)

    def update():
        with tf.GradientTape() as tape:
            loss = target_range.clipped_loss(model(inputs, training=True), targets, 0.1)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    if not compiled:
        return lambda: np.array([float(update()) for _ in range(epochs)])

    @tf.function(jit_compile=True)
    def train():
        history = tf.TensorArray(tf.float32, epochs)
        for epoch in tf.range(epochs):
            history = history.write(epoch, update())
        return history.stack()

    return lambda: train().numpy()


def gan(
    generator: keras.Model,
    discriminator: keras.Model,
    generator_optimizer: keras.optimizers.Optimizer,
    discriminator_optimizer: keras.optimizers.Optimizer,
    examples: np.ndarray,
    batch_size: int,
    compiled: bool = False,
) -> Callable[[int], np.ndarray]:
    """A function that makes so many updates of either player, non-saturating.

    It returns the losses of generator and discriminator `[steps, 2]`. The examples are `[N, 784]`;
    the noise is what the generator's input says. Compiled, both updates are one call of a graph.
    """
    draw, shape = np.random.default_rng(0), (batch_size, *generator.input_shape[1:])
    generator_optimizer.build(generator.trainable_variables)
    discriminator_optimizer.build(discriminator.trainable_variables)

    def update(real):
        noise = tf.random.normal(shape)
        with tf.GradientTape() as tape:
            real_logits = discriminator(real, training=True)
            fake_logits = discriminator(generator(noise, training=True), training=True)
            judged = log_sigmoid_loss(real_logits, fake_logits)
        gradients = tape.gradient(judged, discriminator.trainable_variables)
        discriminator_optimizer.apply(gradients, discriminator.trainable_variables)
        noise = tf.random.normal(shape)
        with tf.GradientTape() as tape:
            fake_logits = discriminator(generator(noise, training=True), training=True)
            played = non_saturating_loss(fake_logits)
        gradients = tape.gradient(played, generator.trainable_variables)
        generator_optimizer.apply(gradients, generator.trainable_variables)
        return played, judged

    if compiled:
        update = tf.function(update)

    def train(steps: int) -> np.ndarray:
        history = []
        for _ in range(steps):
            rows = draw.choice(len(examples), batch_size, replace=False)
            history.append([float(loss) for loss in update(tf.constant(examples[rows]))])
        return np.array(history)

    return train
