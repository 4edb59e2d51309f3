"""Training loops as people write them by hand, to compare `Regression` and `GAN` with.

They use plain `tf.GradientTape` and `optimizer.apply`, and call models directly. Eager loops are
usual. Compiled loops contain only the arithmetic, and show how little is left to gain.
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
    """A function that trains full-batch epochs on the target range, with range penalty 0.1.

    It returns its history `[epochs]`. If compiled, XLA runs all epochs in one call.
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
    """A function that makes a number of updates of each player, with the non-saturating loss.

    It returns the losses of generator and discriminator `[steps, 2]`. The examples are `[N, 784]`;
    the noise has the shape of the generator's input. If compiled, both updates are one call of a
    graph.
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
