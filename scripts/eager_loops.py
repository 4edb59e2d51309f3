"""The training loops that people write by hand, eager: what the compiled ones are compared with.

Plain `tf.GradientTape` and `optimizer.apply`, models called directly, no `tf.function`.
"""

import keras
import numpy as np
import tensorflow as tf

from vantage.scripts.examples import target_range
from vantage.training import log_sigmoid_loss, non_saturating_loss


def regression(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, inputs, targets, epochs: int
) -> np.ndarray:
    """Full-batch epochs on the target range, range penalty 0.1; its history `[epochs]`."""
    inputs, targets = tf.constant(inputs, tf.float32), tf.constant(targets, tf.float32)
    history = []
    for _ in range(epochs):
        with tf.GradientTape() as tape:
            loss = target_range.clipped_loss(model(inputs, training=True), targets, 0.1)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        history.append(float(loss))
    return np.array(history)


def gan(
    generator: keras.Model,
    discriminator: keras.Model,
    generator_optimizer: keras.optimizers.Optimizer,
    discriminator_optimizer: keras.optimizers.Optimizer,
    examples: np.ndarray,
    batch_size: int,
    steps: int,
) -> np.ndarray:
    """Updates of either player, non-saturating; losses of generator and discriminator `[steps, 2]`.

    The examples are `[N, 784]`; the noise is what the generator's input says.
    """
    draw, history = np.random.default_rng(0), []
    shape = (batch_size, *generator.input_shape[1:])
    for _ in range(steps):
        real = tf.constant(examples[draw.choice(len(examples), batch_size, replace=False)])
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
        history.append((float(played), float(judged)))
    return np.array(history)
