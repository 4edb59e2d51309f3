"""Adversarial training: two players, two optimizers, each with one compiled step of the core.

    discriminator   θ_D ← optimizer_D(θ_D, ∂L_D/∂θ_D)     L_D of the logits D(x) and D(G(z))
    generator       θ_G ← optimizer_G(θ_G, ∂L_G/∂θ_G)     L_G of the logits D(G(z))

The losses are functions of logits and see neither model. Source: Goodfellow et al. 2014,
"Generative Adversarial Nets", equation 1 and section 3.

Legend: B examples per batch, N training examples, S the shape of one example, Z that of its noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from .gradients import compile_step, differentiate
from .interrupts import Interrupts
from .progress import Progress
from .reports import open_own, report
from .summaries import image_grid
from .writer import Callback

METRICS = (
    "generator_loss",
    "discriminator_loss",
    "generator_grad_norm",
    "discriminator_grad_norm",
    "discriminator_real",  # mean σ(D(x))
    "discriminator_fake",  # mean σ(D(G(z)))
)


def log_sigmoid_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The discriminator's loss −E log σ(D(x)) − E log(1 − σ(D(G(z)))), stable at any logits."""
    real, fake = tf.nn.softplus(-real_logits), tf.nn.softplus(fake_logits)
    return tf.reduce_mean(real) + tf.reduce_mean(fake)


def minimax_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's textbook loss E log(1 − σ(D(G(z)))): flat where the discriminator is sure."""
    return -tf.reduce_mean(tf.nn.softplus(fake_logits))


def non_saturating_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's loss −E log σ(D(G(z))): the same fixed point, steep where minimax is flat."""
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


class GAN:
    """Trains a generator and a discriminator against each other.

    Args:
        generator: Any Keras model from noise `[B, *Z]` to examples `[B, *S]`.
        discriminator: Any Keras model from examples to logits (no sigmoid) `[B, ...]`.
        generator_optimizer: Any Keras optimizer.
        discriminator_optimizer: Another one.
        generator_loss: Of the logits of generated examples: `non_saturating_loss`, `minimax_loss`
            or any TensorFlow function.
        discriminator_loss: Of the logits of real and of generated examples.
        gradient_penalty: γ of the R1 penalty γ/2 · E ‖∂D(x)/∂x‖² on real examples, which keeps the
            players from circling each other, and with that the modes covered; 0 for none. Source:
            Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", eq. 9.
        noise_shape: Z; by default what the generator's `input_shape` says.
        batch_size: B, of real and of generated examples each.
        seed: Of noise and batches. The weights come from the models' own initialisers.

    Attributes:
        steps: Training steps so far, one update of each player: the x-axis of what is reported.

    Raises:
        ValueError: The players share an optimizer or a variable, do not fit together, the
            discriminator ends in a sigmoid, Z is not known, or a number is out of range.
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
        if batch_size < 1 or not 0 <= gradient_penalty < math.inf:
            raise ValueError(
                "A GAN must have batch_size >= 1 and a finite gradient_penalty >= 0. "
                f"Received: batch_size={batch_size}, gradient_penalty={gradient_penalty}."
            )
        self.generator, self.discriminator, self.steps = generator, discriminator, 0
        self._noise_shape = _noise_shape(generator, noise_shape)
        self._training, self._sampling = np.random.default_rng(seed).spawn(2)
        self._batch_size = batch_size
        self._logdirs: set[Path] = set()
        self._fixed_noise = self._sampling.standard_normal((64, *self._noise_shape), np.float32)
        noise = np.zeros((batch_size, *self._noise_shape), np.float32)
        examples = generator(noise, training=False)  # builds both models, if they are not yet
        self._shape = tuple(examples.shape[1:])
        _check_discriminator(discriminator, examples)
        shared = {id(v) for v in generator.variables} & {id(v) for v in discriminator.variables}
        if shared or generator_optimizer is discriminator_optimizer:
            raise ValueError(
                "Each player must have its own optimizer and its own variables. Received: "
                f"{'a shared layer' if shared else 'one optimizer for both'}. Make two."
            )
        real_spec = tf.TensorSpec((batch_size, *self._shape))
        noise_spec = tf.TensorSpec(noise.shape)
        self._discriminator_step = compile_step(
            _discriminate(generator, discriminator, gradient_penalty),
            differentiate(_judged(discriminator_loss)),
            discriminator.trainable_variables,
            discriminator_optimizer,
            ((real_spec, noise_spec), ()),
        )
        self._generator_step = compile_step(
            lambda noise: _frozen(discriminator, generator(noise, training=True)),
            differentiate(lambda fake_logits, _: generator_loss(fake_logits)),
            generator.trainable_variables,
            generator_optimizer,
            (noise_spec, ()),
        )

    def step(self, real: np.ndarray) -> dict[str, float]:
        """One update of each player, on real examples `[B, *S]` and fresh noise for either."""
        shape = (2, self._batch_size, *self._noise_shape)
        noise = self._training.standard_normal(shape, np.float32)
        judged = self._discriminator_step((real, noise[0]), ())
        played = self._generator_step(noise[1], ())
        self.steps += 1
        values = (played["loss"], judged["loss"], played["grad_norm"], judged["grad_norm"])
        return dict(zip(METRICS, (*values, judged["real"], judged["fake"]), strict=True))

    def fit(
        self,
        examples: np.ndarray,
        steps: int,
        *,
        report_every: int = 100,
        sample_every: int | None = None,
        draw: Callable[[GAN], np.ndarray] | None = None,
        verbose: bool = False,
        callbacks: Sequence[Callback] = (),
        logdir: str | Path | None = None,
    ) -> dict[str, np.ndarray]:
        """Trains for `steps` more steps, on batches of fresh permutations of the examples.

        SIGINT and SIGTERM end the training after the current step.

        Args:
            examples: Real ones, `[N, *S]`, scaled like what the generator makes.
            steps: How many; ⌊N / B⌋ of them are an epoch.
            report_every: Steps between two reports of the means since the last one; the last step
                is reported in any case.
            sample_every: Steps between two pictures in TensorBoard, or None; there is also one
                before the first step and one after the last.
            draw: What makes a picture, uint8 `[height, width, channels]`, of this object; by
                default the `image_grid` of 64 examples from noise that stays the same.
            verbose: Whether a report prints a line.
            callbacks: A report calls each as `callback(step, metrics)`; one that returns False
                stops the training.
            logdir: Where TensorBoard event files go: `train/generator_loss` and the other metrics,
                a point for every report, and the pictures as `samples`.

        Returns:
            The history: each of `METRICS` as an array `[steps]` (shorter if a callback stopped).

        Raises:
            ValueError: The examples or a number are out of range; the message says how.
            FileExistsError: `logdir` holds the event files of another run.
            FloatingPointError: A loss or a gradient is not finite.
        """
        if min(steps, report_every, 1 if sample_every is None else sample_every) < 1:
            raise ValueError(
                "A fit must have steps, report_every and sample_every >= 1. Received: "
                f"steps={steps}, report_every={report_every}, sample_every={sample_every}."
            )
        examples = self._checked(examples)
        scale = float(examples.min()), float(examples.max())
        draw = draw or (lambda gan: image_grid(gan.generate(gan._fixed_noise), *scale))
        picture = draw(self) if sample_every else None  # here: bad examples leave no event file
        batches, rows = self._batches(examples), []
        writer = open_own(logdir, self._logdirs)
        with closing(writer), Interrupts() as interrupts, Progress(steps, "steps") as progress:
            if picture is not None:
                writer.image(self.steps, "samples", picture)
            for done in range(1, steps + 1):
                try:
                    rows.append(list(self.step(next(batches)).values()))
                except FloatingPointError as error:
                    raise FloatingPointError(f"After {self.steps} steps: {error}") from None
                interrupts.raise_received()
                if sample_every and (done % sample_every == 0 or done == steps):
                    writer.image(self.steps, "samples", draw(self))
                if done % report_every and done != steps:
                    continue
                means = np.mean(rows[(done - 1) // report_every * report_every :], axis=0)
                metrics = dict(zip(METRICS, means.tolist(), strict=True))
                writer.scalars(self.steps, {f"train/{name}": v for name, v in metrics.items()})
                progress.update(done, f"generator loss {metrics['generator_loss']:.4g}")
                if not report("step", self.steps, metrics, verbose, callbacks):
                    break
        return dict(zip(METRICS, np.asarray(rows, np.float32).T, strict=True))

    def sample(self, count: int) -> np.ndarray:
        """New examples `[count, *S]`, float32, from noise that the training does not share."""
        if count < 1:
            raise ValueError(f"A sample must have count >= 1. Received: count={count}.")
        return self.generate(self._sampling.standard_normal((count, *self._noise_shape)))

    def generate(self, noise: np.ndarray) -> np.ndarray:
        """The examples `[n, *S]`, float32, that noise `[n, *Z]` stands for, in inference mode."""
        parts = np.array_split(np.asarray(noise, np.float32), math.ceil(len(noise) / 1024))
        made = [np.asarray(self.generator(part, training=False), np.float32) for part in parts]
        return np.concatenate(made)

    def _batches(self, examples: np.ndarray) -> Iterator[np.ndarray]:
        while True:
            order = self._training.permutation(len(examples))
            for last in range(self._batch_size, len(order) + 1, self._batch_size):
                yield examples[order[last - self._batch_size : last]]  # [B, *S]

    def _checked(self, examples: np.ndarray) -> np.ndarray:
        examples = np.asarray(examples)
        if examples.shape[1:] != self._shape or len(examples) < self._batch_size:
            raise ValueError(
                f"Examples must have shape [N, {', '.join(map(str, self._shape))}], as the "
                f"generator makes them, with N >= batch_size={self._batch_size}. "
                f"Received: {list(examples.shape)}. Reshape them, or pass a smaller batch_size."
            )
        if not np.issubdtype(examples.dtype, np.floating) or not np.isfinite(examples).all():
            raise ValueError(
                "Examples must be finite floating-point numbers. Received: "
                f"{examples.dtype} from {examples.min()} to {examples.max()}. "
                "Scale them to the range of the generator's output, as float32."
            )
        return examples.astype(np.float32, copy=False)


def _discriminate(generator: keras.Model, discriminator: keras.Model, gamma: float):
    """The discriminator's forward: `(real, noise) -> (real logits, fake logits, R1 penalty)`."""

    def forward(inputs):
        real, noise = inputs
        with tf.GradientTape() as tape:
            tape.watch(real)
            real_logits = discriminator(real, training=True)
        penalty = tf.zeros(())
        if gamma:
            slopes = tf.reshape(tape.gradient(real_logits, real), [real.shape[0], -1])
            penalty = gamma / 2 * tf.reduce_mean(tf.reduce_sum(slopes**2, 1))
        # Real and generated batches apart: BatchNorm must not mix their statistics.
        return real_logits, discriminator(_frozen(generator, noise), training=True), penalty

    return forward


def _judged(discriminator_loss):
    def loss(outputs, _):
        real_logits, fake_logits, penalty = outputs
        metrics = {
            "real": tf.reduce_mean(tf.sigmoid(real_logits)),
            "fake": tf.reduce_mean(tf.sigmoid(fake_logits)),
        }
        return discriminator_loss(real_logits, fake_logits) + penalty, metrics

    return loss


def _frozen(opponent: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    """The opponent's outputs in training mode; what it would assign (BatchNorm) is dropped."""
    with keras.StatelessScope():
        return opponent(inputs, training=True)


def _noise_shape(generator: keras.Model, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is None:
        shape = getattr(generator, "input_shape", None)
        shape = shape[1:] if isinstance(shape, tuple) else (None,)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            "A generator must have one input of known shape [B, *Z]. Received: "
            f"input_shape={getattr(generator, 'input_shape', None)}, Z={tuple(shape)}. "
            "Start it with `keras.Input((100,))`, or pass noise_shape=(100,)."
        )
    return tuple(shape)


def _check_discriminator(discriminator: keras.Model, examples: tf.Tensor) -> None:
    takes = getattr(discriminator, "input_shape", None)
    if isinstance(takes, tuple) and not tf.TensorShape(takes).is_compatible_with(examples.shape):
        raise ValueError(
            "A discriminator must take what the generator makes. Received: examples "
            f"{list(examples.shape)}, input_shape={takes}. Change one of the two models."
        )
    logits = discriminator(examples, training=False)  # builds it, if it is not yet
    layers = getattr(discriminator, "layers", None) or [discriminator]
    ends_in_sigmoid = getattr(layers[-1], "activation", None) is keras.activations.sigmoid
    if ends_in_sigmoid or not tf.is_tensor(logits):
        raise ValueError(
            "A discriminator must return one tensor of logits: the losses apply the sigmoid. "
            f"Received: {'a sigmoid as its last layer' if ends_in_sigmoid else type(logits)}. "
            "Let it end in a layer without activation, such as `keras.layers.Dense(1)`."
        )
