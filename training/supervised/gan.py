"""Adversarial training: two players, two optimizers, many turns of both in one compiled call.

    discriminator   θ_D ← optimizer_D(θ_D, ∂L_D/∂θ_D)     L_D of the logits D(x) and D(G(z))
    generator       θ_G ← optimizer_G(θ_G, ∂L_G/∂θ_G)     L_G of the logits D(G(z))

The losses are functions of logits and see neither model. Source: Goodfellow et al. 2014,
"Generative Adversarial Nets", equation 1 and section 3.

Legend: B examples per batch, N training examples, S shape of one example, Z shape of its noise.
"""

from __future__ import annotations

import math
import numbers
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from ..common.interrupts import Interrupts
from ..common.plain import flag, whole
from ..common.uncopied import Uncopied
from ..core import arguments
from ..core.lifts import differentiate
from ..core.optimizers import finalize, trainable_state
from ..core.turns import Turn, compile_turns
from ..monitoring.callbacks import Callback, as_callbacks
from ..monitoring.progress import Progress
from ..monitoring.reports import begin, describe, open_own, report, session, settings
from ..tensorboard.summaries import image_grid
from . import players
from .examples import as_examples
from .gan_losses import in_order, log_sigmoid_loss, name_of, non_saturating_loss
from .inference import Inference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import keras

    from ..core.step import Step
    from ..tensorboard.writer import Writer

METRICS = (
    "generator_loss",
    "discriminator_loss",
    "generator_grad_norm",
    "discriminator_grad_norm",
    "discriminator_real",  # mean σ(D(x))
    "discriminator_fake",  # mean σ(D(G(z)))
)
MOST_STEPS, MOST_NUMBERS = 16, 2**22  # per call: steps, and numbers in their real examples
JUDGED = 256  # real and generated examples each, whose logits a histogram shows


class GAN(Uncopied):
    """Trains a generator and a discriminator against each other.

    Args:
        generator: Any Keras model from noise `[B, *Z]` to examples `[B, *S]`.
        discriminator: Any Keras model from examples to logits (no sigmoid) `[B, ...]`.
        generator_optimizer: Any Keras optimizer.
        discriminator_optimizer: Another Keras optimizer.
        generator_loss: A function of the logits of generated examples: `non_saturating_loss`,
            `minimax_loss`, `wasserstein_loss` (also for the hinge), `least_squares_loss` or any
            TensorFlow function. Both losses return L only, without metrics.
        discriminator_loss: A function of the logits of real and of generated examples:
            `log_sigmoid_loss`, `wasserstein_critic_loss`, `hinge_loss`,
            `least_squares_discriminator_loss` or any TensorFlow function.
        gradient_penalty: γ of the R1 penalty γ/2 · E ‖∂D(x)/∂x‖² on real examples, which prevents
            the players from circling each other and losing modes; 0 for none. Source: Mescheder
            et al. 2018, "Which Training Methods for GANs do actually Converge?", eq. 9.
        noise_shape: Z; by default the generator's `input_shape`.
        batch_size: B, of real and of generated examples each.
        seed: The seed of noise and batches; the weights come from the models' initialisers.

    Attributes:
        steps: Training steps so far, one update of each player: the x-axis of every report.

    Raises:
        ValueError: The players share an optimizer or a variable, do not fit together, the
            discriminator ends in a sigmoid, Z is unknown or does not fit, or a number is out of
            range.
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
        batch_size = whole("batch_size", batch_size, 1)
        gradient_penalty = _penalty_weight(gradient_penalty)
        arguments.check_model("generator", generator)
        arguments.check_model("discriminator", discriminator)
        arguments.check_optimizer("generator_optimizer", generator_optimizer)
        arguments.check_optimizer("discriminator_optimizer", discriminator_optimizer)
        of_generator = in_order("generator_loss", generator_loss, 1)
        of_discriminator = in_order("discriminator_loss", discriminator_loss, 2)
        self.generator, self.discriminator, self.steps = generator, discriminator, 0
        self._noise_shape = players.noise_shape(generator, noise_shape)
        seed = whole("seed", seed, 0)
        self._order, self._sampling, self._noise = np.random.default_rng(seed).spawn(3)
        self._left = np.empty(0, int)  # remaining examples of the last fit's last epoch
        self._count = 0  # N of the last fit
        self._generating, self._judging = Inference(generator), Inference(discriminator)
        self._batch_size = batch_size
        self._settings = {
            "generator_optimizer": settings(generator_optimizer),
            "discriminator_optimizer": settings(discriminator_optimizer),
            "generator_loss": name_of(generator_loss),
            "discriminator_loss": name_of(discriminator_loss),
            "gradient_penalty": gradient_penalty,
            "batch_size": batch_size,
        }
        self._logdirs: set[Path] = set()
        self._fixed_noise = self._sampling.standard_normal((64, *self._noise_shape), np.float32)
        noise = np.zeros((batch_size, *self._noise_shape), np.float32)
        examples = players.example_of(generator, noise)
        self._shape = tuple(examples.shape[1:])
        players.check_discriminator(discriminator, examples)
        shared = {id(v) for v in generator.variables} & {id(v) for v in discriminator.variables}
        if shared or generator_optimizer is discriminator_optimizer:
            raise ValueError(
                "Each player must have its own optimizer and its own variables. Received: "
                f"{'a shared layer' if shared else 'one optimizer for both'}. Make two."
            )
        self._turns = {
            "discriminator": Turn(
                players.discriminate(generator, discriminator, gradient_penalty),
                differentiate(players.with_metrics(of_discriminator)),
                discriminator.trainable_variables,
                discriminator_optimizer,
            ),
            "generator": Turn(
                players.generate(generator, discriminator),
                differentiate(lambda fake_logits, _: of_generator(fake_logits)),
                generator.trainable_variables,
                generator_optimizer,
            ),
        }
        self._steps: dict[tuple[object, ...], Step] = {}  # by steps in one call, and `_trained`
        self._trained: tuple[object, ...] = ()  # which parts of the players are trained

    def _instead_of_copying(self) -> str:
        return (
            "Save the models and load them (model.save(path), keras.saving.load_model(path)), and "
            "create a new GAN with them."
        )

    def step(self, real: np.ndarray) -> dict[str, float]:
        """One update of each player, on real examples `[B, *S]` and new noise for each player."""
        self._update_trained()
        return {name: float(values[0]) for name, values in self._play(real, 1).items()}

    def _update_trained(self) -> None:
        """Notices a `trainable` that was set between two calls."""
        self._trained = trainable_state(self.generator), trainable_state(self.discriminator)

    def _play(self, real: np.ndarray, count: int) -> dict[str, np.ndarray]:
        """Steps on real examples `[count · B, *S]`; each of `METRICS` as an array `[count]`."""
        size = count * self._batch_size
        noise = self._noise.standard_normal((size, 2, *self._noise_shape), np.float32)
        rows = np.arange(size, dtype=np.int32).reshape(count, -1)
        metrics = self._step(count)((real, noise), (), rows)
        self.steps += count
        return {name: metrics[name] for name in METRICS}

    def _step(self, count: int) -> Step:
        """The compiled call of `count` steps, without XLA, which takes four times as long."""
        key = count, self._trained
        if key not in self._steps:
            models = {"discriminator": self.discriminator, "generator": self.generator}
            turns = {
                name: turn._replace(variables=models[name].trainable_variables)
                for name, turn in self._turns.items()
            }
            size = count * self._batch_size
            shapes = (size, *self._shape), (size, 2, *self._noise_shape)
            self._steps[key] = compile_turns(
                turns,
                (tuple(map(tf.TensorSpec, shapes)), ()),
                updates=(count, self._batch_size),
                jit_compile=False,
            )
        return self._steps[key]

    def fit(
        self,
        examples: np.ndarray,
        steps: int | None = None,
        *,
        report_every: int = 100,
        sample_every: int | None = None,
        draw: Callable[[GAN], np.ndarray] | None = None,
        verbose: bool = False,
        callbacks: Sequence[Callback] = (),
        logdir: str | Path | None = None,
        config: Mapping[str, object] | None = None,
        **unknown: object,
    ) -> dict[str, np.ndarray]:
        """Trains for `steps` more steps, on batches of new permutations of the examples.

        One compiled call makes several steps: the largest number up to 16 that divides `steps`,
        `report_every` and `sample_every`. SIGINT, SIGTERM and SIGHUP end the training after the
        current call.

        Args:
            examples: Real examples `[N, *S]`, scaled like those of the generator.
            steps: The number of steps; ⌊N / B⌋ of them are an epoch.
            report_every: Steps between two reports, which give the means since the last report; the
                last step is always reported.
            sample_every: Steps between two sets of samples in TensorBoard, or None for none: a
                picture, and histograms of the discriminator's logits. There is also a set before
                the first step and one after the last.
            draw: A function of this object that returns a picture, uint8 `[height, width,
                channels]`; by default the `image_grid` of 64 examples from fixed noise.
            verbose: Whether a report prints a line.
            callbacks: Functions that every report calls as `callback(step, metrics)`. A callback
                that returns False stops the training. If it has a method `begin`, this is called
                with the fit's `Writer`, to which it may write points, images and histograms.
            logdir: The folder for TensorBoard event files: `train/generator_loss` and the other
                metrics for every report; the pictures as `samples`; the logits of 256 real and
                generated examples as `discriminator/real` and `discriminator/fake`; settings,
                versions and the graph of both players.
            config: More settings for the HParams and the Text tab.
            **unknown: None. Arguments of Keras's `fit` are refused, with what to pass instead.

        Returns:
            The history: each of `METRICS` as an array `[steps]` (shorter if a callback stopped).

        Raises:
            ValueError: The examples or a number are out of range; the message says how.
            FileExistsError: `logdir` holds the event files of another run.
            FloatingPointError: A loss or a gradient is not finite.
        """
        arguments.refuse_unknown("GAN.fit", unknown)
        steps = whole("steps", steps, 1)
        report_every = whole("report_every", report_every, 1)
        verbose = flag("verbose", verbose)
        if sample_every is not None:
            sample_every = whole("sample_every", sample_every, 1)
        callbacks = as_callbacks(callbacks)
        arguments.check_function("draw", draw, "gan")
        arguments.check_destination(logdir, config)
        examples = self._checked(examples)
        scale = float(examples.min()), float(examples.max())
        draw = draw or (lambda _: image_grid(self._observed(self._fixed_noise), *scale))
        picture = (
            draw(self) if sample_every else None
        )  # here, so that bad examples leave no event file
        batches, history = self._batches(examples), []
        count = self._steps_per_call(math.gcd(steps, report_every, sample_every or 0))
        self._update_trained()
        self._step(count)  # here, so that bad losses or players leave no event file
        real = examples[np.linspace(0, len(examples) - 1, min(len(examples), JUDGED)).astype(int)]
        is_new = logdir is not None and Path(logdir) not in self._logdirs
        writer = open_own(logdir, self._logdirs)
        interrupts = Interrupts("always")
        with session(writer), interrupts, Progress(steps, "steps") as progress:
            if is_new:
                known = {**self._settings, "examples": len(examples), "steps": steps}
                players = ("generator", self.generator), ("discriminator", self.discriminator)
                describe(writer, {**known, **(config or {})}, players)
            if picture is not None:
                self._write_samples(writer, real, picture)
            begin(callbacks, writer)
            for done in range(count, steps + 1, count):
                batch = np.concatenate(list(islice(batches, count)))
                try:
                    history.append(np.stack(list(self._play(batch, count).values()), 1))
                except FloatingPointError as error:
                    raise FloatingPointError(f"After {self.steps} steps: {error}") from None
                interrupts.raise_received()
                if sample_every and (done % sample_every == 0 or done == steps):
                    self._write_samples(writer, real, draw(self))
                if done % report_every and done != steps:
                    continue
                since = (done - 1) // report_every * report_every // count
                means = np.concatenate(history[since:]).mean(0, dtype=np.float64)
                metrics: dict[str, float] = dict(zip(METRICS, means.tolist(), strict=True))
                writer.scalars(self.steps, {f"train/{name}": v for name, v in metrics.items()})
                progress.update(done, f"generator loss {metrics['generator_loss']:.4g}")
                if not report("step", self.steps, metrics, verbose, callbacks):
                    break
        for turn in self._turns.values():
            finalize(turn.optimizer)
        return dict(zip(METRICS, np.concatenate(history).T, strict=True))

    def _write_samples(self, writer: Writer, real: np.ndarray, picture: np.ndarray) -> None:
        """Writes a picture, and the logits of real and generated examples."""
        shape = (JUDGED, *self._noise_shape)
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        # Nothing here advances the random generators of the training.
        fake = map(self._observed, np.array_split(noise, 4))
        logits = {
            "discriminator/real": [self._logits(part) for part in np.array_split(real, 4)],
            "discriminator/fake": [self._logits(part) for part in fake],
        }
        writer.image(self.steps, "samples", picture)
        writer.histograms(self.steps, {n: np.concatenate(parts) for n, parts in logits.items()})

    def _logits(self, examples: np.ndarray) -> np.ndarray:
        return np.asarray(self._judging.observe(examples)[0])

    def _steps_per_call(self, period: int) -> int:
        """The largest number of steps per call that divides `period`, within the limits."""
        size = self._batch_size * math.prod(self._shape)
        most = max(min(MOST_STEPS, MOST_NUMBERS // size), 1)
        return next(count for count in range(most, 0, -1) if period % count == 0)

    def sample(self, count: int) -> np.ndarray:
        """New examples `[count, *S]`, float32; the noise does not affect the training."""
        count = whole("count", count, 1)
        return self.generate(self._sampling.standard_normal((count, *self._noise_shape)))

    def generate(self, noise: np.ndarray) -> np.ndarray:
        """The generator's examples `[n, *S]`, float32, from noise `[n, *Z]`, in inference mode."""
        noise = np.asarray(noise, np.float32)
        if noise.shape[1:] != self._noise_shape or not len(noise):
            raise ValueError(
                f"Noise must have shape [n, {', '.join(map(str, self._noise_shape))}], n >= 1. "
                f"Received: {list(noise.shape)}. Draw it from a standard normal distribution."
            )
        parts = np.array_split(noise, math.ceil(len(noise) / 1024))
        return np.concatenate([np.asarray(self._generating.predict(z), np.float32) for z in parts])

    def _observed(self, noise: np.ndarray) -> np.ndarray:
        """Like `generate`, but assigns nothing, not even the seeds of layers."""
        return np.asarray(self._generating.observe(noise)[0], np.float32)

    def _batches(self, examples: np.ndarray) -> Iterator[np.ndarray]:
        """Batches of permutations; a fit with the same N resumes where the last one ended."""
        if len(examples) != self._count:
            self._count, self._left = len(examples), np.empty(0, int)
        while True:
            if len(self._left) < self._batch_size:
                self._left = self._order.permutation(self._count)
            rows, self._left = np.split(self._left, [self._batch_size])
            yield examples[rows]  # [B, *S]

    def _checked(self, examples: np.ndarray) -> np.ndarray:
        examples = as_examples(examples, "examples")
        if not isinstance(examples, np.ndarray):
            raise ValueError(
                "Examples must be one array. Received: several arrays. Train on one of them."
            )
        if examples.shape[1:] != self._shape or len(examples) < self._batch_size:
            raise ValueError(
                f"Examples must have shape [N, {', '.join(map(str, self._shape))}], as the "
                f"generator makes them, with N >= batch_size={self._batch_size}. "
                f"Received: {list(examples.shape)}. Reshape them, or pass a smaller batch_size."
            )
        if examples.dtype.kind != "f":
            bounds = ""
            if examples.dtype.kind in "iub":
                bounds = f" from {examples.min()} to {examples.max()}"
            raise ValueError(
                f"Examples must be floating-point numbers. Received: {examples.dtype}{bounds}. "
                "Scale them to the range of the generator's output, as float32."
            )
        finite = np.isfinite(examples).reshape(len(examples), -1).all(1)
        if not finite.all():
            first = int(np.argmin(finite))
            values = examples[first].ravel()
            raise ValueError(
                "Examples must be finite floating-point numbers. Received: "
                f"{values[~np.isfinite(values)][0]} in example {first}, and {int((~finite).sum())} "
                f"of {len(finite)} examples that are not finite. Repair or leave them out."
            )
        return examples.astype(np.float32, copy=False)


def _penalty_weight(value: object) -> float:
    if not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
        raise ValueError(
            "A GAN must have a finite gradient_penalty >= 0. "
            f"Received: gradient_penalty={value!r:.40}. Pass a number, 0 for none."
        )
    return float(value)
