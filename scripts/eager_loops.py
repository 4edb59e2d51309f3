"""The training loops that people write by hand, eager: what the compiled ones are compared with.

Plain `tf.GradientTape` and `optimizer.apply`, models called directly, no `tf.function`.
"""

import keras
import numpy as np
import tensorflow as tf


def clipped_loss(y: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """The loss of the target range, with the range penalty 0.1."""
    clipped = tf.clip_by_value(y, 0.5, 1.5)
    return tf.reduce_mean((clipped - targets) ** 2 + 0.1 * (y - clipped) ** 2)


def regression(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, inputs, targets, epochs: int
) -> np.ndarray:
    """Full-batch epochs on `clipped_loss`; its history `[epochs]`."""
    inputs, targets = tf.constant(inputs, tf.float32), tf.constant(targets, tf.float32)
    history = []
    for _ in range(epochs):
        with tf.GradientTape() as tape:
            loss = clipped_loss(model(inputs, training=True), targets)
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
            judged = tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(
                tf.nn.softplus(fake_logits)
            )
        gradients = tape.gradient(judged, discriminator.trainable_variables)
        discriminator_optimizer.apply(gradients, discriminator.trainable_variables)
        noise = tf.random.normal(shape)
        with tf.GradientTape() as tape:
            fake_logits = discriminator(generator(noise, training=True), training=True)
            played = tf.reduce_mean(tf.nn.softplus(-fake_logits))
        gradients = tape.gradient(played, generator.trainable_variables)
        generator_optimizer.apply(gradients, generator.trainable_variables)
        history.append((float(played), float(judged)))
    return np.array(history)
