"""Adversarial training: two players, two optimizers, each one compiled step of the core.

    discriminator   θ_D ← optimizer_D(θ_D, ∂L_D/∂θ_D),   L_D of the logits D(x), D(G(z))
    generator       θ_G ← optimizer_G(θ_G, ∂L_G/∂θ_G),   L_G of the logits D(G(z))

The losses are functions of logits and see neither model. Source: Goodfellow et al. 2014,
"Generative Adversarial Nets", equation 1 and section 3.

Legend: B examples per batch, N training examples, S the shape of one example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress

from .gradients import compile_step, differentiate
from .writer import open_writer

Callback = Callable[[int, dict[str, float]], bool | None]


def log_sigmoid_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The discriminator's loss −E log σ(D(x)) − E log(1 − σ(D(G(z)))), at any logits finite."""
    return tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(
        tf.nn.softplus(fake_logits)
    )


def minimax_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's textbook loss E log(1 − σ(D(G(z)))): flat where the discriminator wins."""
    return -tf.reduce_mean(tf.nn.softplus(fake_logits))


def non_saturating_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's loss −E log σ(D(G(z))): the same fixed point, steep where it loses."""
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


class GAN:
    """Trains a generator and a discriminator against each other.

    Args:
        generator: Any Keras model from noise `[B, ...]` to examples `[B, *S]`.
        discriminator: Any Keras model from examples to logits (no sigmoid), of any shape.
        generator_optimizer: Any Keras optimizer.
        discriminator_optimizer: Another one.
        generator_loss: Of the logits of generated examples: `non_saturating_loss`, `minimax_loss`
            or a TensorFlow function of your own.
        discriminator_loss: Of the logits of real and of generated examples.
        gradient_penalty: γ of the R1 penalty γ/2 · E ‖∂D(x)/∂x‖² on real examples, which keeps the
            players from circling each other. Source: Mescheder et al. 2018, "Which Training
            Methods for GANs do actually Converge?", equation 9.
        noise_shape: Of one noise vector; by default the generator's own `input_shape`.
        batch_size: B, of real and of generated examples each.
        seed: Of the noise and the batches. The weights come from the models' own initialisers.

    Raises:
        ValueError: The players share an optimizer or a variable, the discriminator ends in a
            sigmoid, a number is out of range, or the noise shape is not known.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        generator_optimizer: keras.optimizers.Optimizer,
        discriminator_optimizer: keras.optimizers.Optimizer,
        *,
        generator_loss: Callable[[tf.Tensor], tf.Tensor] = non_saturating_loss,
        discriminator_loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = log_sigmoid_loss,
        gradient_penalty: float = 0.0,
        noise_shape: Sequence[int] | None = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.generator, self.discriminator, self.steps = generator, discriminator, 0
        self._batch_size = batch_size
        self._noise_shape = tuple(noise_shape or generator.input_shape[1:])
        self._random, self._sampling = np.random.default_rng(seed).spawn(2)
        noise = np.zeros((batch_size, *self._noise_shape), np.float32)
        examples = generator(noise)  # builds both models, if they are not
        discriminator(examples)
        self._shape = tuple(examples.shape[1:])
        real_spec = tf.TensorSpec((batch_size, *self._shape))
        noise_spec = tf.TensorSpec((batch_size, *self._noise_shape))

        def play_discriminator(inputs):
            real, noise = inputs
            fake = _call_frozen(generator, noise)
            if not gradient_penalty:
                return (
                    discriminator(real, training=True),
                    discriminator(fake, training=True),
                    tf.zeros(()),
                )
            with tf.GradientTape() as tape:
                tape.watch(real)
                real_logits = discriminator(real, training=True)
            slopes = tf.reshape(tape.gradient(real_logits, real), [batch_size, -1])  # [B, S]
            penalty = tf.reduce_mean(tf.reduce_sum(slopes**2, 1)) * gradient_penalty / 2
            return real_logits, discriminator(fake, training=True), penalty

        def judge_discriminator(outputs, _):
            real_logits, fake_logits, penalty = outputs
            metrics = {
                "real": tf.reduce_mean(tf.sigmoid(real_logits)),
                "fake": tf.reduce_mean(tf.sigmoid(fake_logits)),
            }
            return discriminator_loss(real_logits, fake_logits) + penalty, metrics

        self._discriminator_step = compile_step(
            play_discriminator,
            differentiate(judge_discriminator),
            discriminator.trainable_variables,
            discriminator_optimizer,
            ((real_spec, noise_spec), ()),
        )
        self._generator_step = compile_step(
            lambda noise: _call_frozen(discriminator, generator(noise, training=True)),
            differentiate(lambda logits, _: generator_loss(logits)),
            generator.trainable_variables,
            generator_optimizer,
            (noise_spec, ()),
        )

    def step(self, real: np.ndarray) -> dict[str, float]:
        """One update of each player on real examples `[B, *S]`, with fresh noise for each."""
        shape = (self._batch_size, *self._noise_shape)
        noise = self._random.standard_normal((2, *shape), np.float32)
        judged = self._discriminator_step((real, noise[0]), ())
        played = self._generator_step(noise[1], ())
        self.steps += 1
        return {
            "generator_loss": played["loss"],
            "discriminator_loss": judged["loss"],
            "generator_grad_norm": played["grad_norm"],
            "discriminator_grad_norm": judged["grad_norm"],
            "discriminator_real": judged["real"],
            "discriminator_fake": judged["fake"],
        }

    def sample(self, n):
        noise = self._sampling.standard_normal((n, *self._noise_shape), np.float32)
        return self.generator(noise, training=False).numpy()


def _call_frozen(model: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    """The other player, in training mode; what it would assign (BatchNorm) is dropped."""
    with keras.StatelessScope():
        return model(inputs, training=True)
