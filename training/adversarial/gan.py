"""Adversarial training: two players, two optimizers, many turns of both in one compiled call.

    discriminator   θ_D ← optimizer_D(θ_D, ∂L_D/∂θ_D)     L_D of the logits D(x) and D(G(z))
    generator       θ_G ← optimizer_G(θ_G, ∂L_G/∂θ_G)     L_G of the logits D(G(z))

The losses are functions of logits and see neither model. Source: Goodfellow et al. 2014,
"Generative Adversarial Nets", equation 1 and section 3.

Legend: B examples per batch, N training examples, S shape of one example, Z shape of its noise,
n steps of the discriminator per step of the generator.
"""

from __future__ import annotations

import math
import numbers
from collections import deque
from contextlib import ExitStack
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from ..common.interrupts import Interrupts
from ..common.plain import flag, whole
from ..core import arguments
from ..core.optimizers import finalize, trainable_state
from ..core.turns import Average, Turn
from ..monitoring.progress import Progress
from ..monitoring.reports import describe, report, session, settings
from ..supervised import states
from ..supervised.fit_callbacks import FitCallbacks
from ..supervised.fit_folder import FitFolder
from ..supervised.saving import SavedTrainer
from ..tensorboard.summaries import image_grid
from . import players
from .data import Arrays, Labels, Pair, dataset_batches, looked_at, split, stacked
from .losses import (
    log_sigmoid_loss,
    loss_of_discriminator,
    loss_of_generator,
    name_of,
    non_saturating_loss,
)
from .noise import Noise
from .past import Past
from .penalties import as_limit, as_penalties
from .players import Batch
from .rounds import Rounds
from .samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import keras

    from ..core.compiled import Nest
    from ..core.losses import LossGradient
    from ..storage.packing import State
    from ..tensorboard.writer import Writer
    from .noise import Law
    from .penalties import Penalty

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
SHOWN = 64  # generated examples in a picture


class GAN(SavedTrainer):
    """Trains a generator and a discriminator against each other.

    A conditional GAN is one whose models take labels as further inputs: the generator
    `[noise, labels]`, the discriminator `[examples, labels]` (a tuple of labels is several inputs).

    Args:
        generator: Any Keras model from noise `[B, *Z]` to examples `[B, *S]`.
        discriminator: Any Keras model from examples to logits (no sigmoid) `[B, ...]`.
        generator_optimizer: Any Keras optimizer.
        discriminator_optimizer: Another Keras optimizer.
        generator_loss: A function of the logits of generated examples: `non_saturating_loss`,
            `minimax_loss`, `wasserstein_loss` (also for the hinge), `least_squares_loss` or any
            TensorFlow function; or a lifted loss of these logits and the targets (), as
            `external(loss)`. Functions return L only, without metrics.
        discriminator_loss: A function of the logits of real and of generated examples:
            `log_sigmoid_loss`, `wasserstein_critic_loss`, `hinge_loss`,
            `least_squares_discriminator_loss` or any TensorFlow function; or a lifted loss of the
            outputs (real, fake) and the targets ().
        gradient_penalty: γ of the R1 penalty γ/2 · E ‖∂D(x)/∂x‖² on real examples, which prevents
            the players from circling each other and losing modes; 0 for none. Source: Mescheder
            et al. 2018, "Which Training Methods for GANs do actually Converge?", eq. 9.
        penalty: `R1(γ)`, `R2(γ)`, `WassersteinPenalty(λ)`, a `Penalty` of your own, or a list of
            them, whose sum is added to the discriminator's loss and reported as
            `discriminator_gradient_penalty`.
        clip_weights: c, to which [-c, c] each trained variable of the discriminator is clipped
            after each of its updates, in the compiled call; None for no clipping. It is a Keras
            constraint that is in force in this object's steps only; constraints of layers hold as
            well. Source: Arjovsky et al. 2017, algorithm 1.
        critic_steps: n, the discriminator's steps before each step of the generator, each on its
            own batch and noise.
        noise: A function `(generator, shape) -> array` that draws noise of any law from a
            `numpy.random.Generator`, in the shape `(count, *Z)`; by default a standard normal one.
        noise_shape: Z; by default the generator's `input_shape`.
        labels: The labels of a few examples, for a conditional GAN whose models do not declare
            their inputs, as subclasses of keras.Model; otherwise leave it out.
        ema: The share that the average of the generator's weights keeps in a step,
            θ' ← ema · θ' + (1 − ema) · θ, such as 0.999; None for no average. All weights are
            averaged, also the moments of BatchNormalization. Source: Yazıcı et al. 2019, "The
            Unusual Effectiveness of Averaging in GAN Training", equation 2.
        batch_size: B, of real and of generated examples each.
        seed: The seed of noise and batches; the weights come from the models' initialisers.

    Attributes:
        steps: Training steps so far, one update of the generator and n of the discriminator: the
            x-axis of every report.
        average: The generator with averaged weights, an ordinary Keras model, with which `sample`
            and `generate` work; None without `ema`.

    Raises:
        ValueError: The players share an optimizer or a variable, do not fit together, the
            discriminator ends in a sigmoid, Z is unknown or does not fit, or a number, penalty or
            noise is out of range.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        generator_optimizer: keras.optimizers.Optimizer,
        discriminator_optimizer: keras.optimizers.Optimizer,
        *,
        generator_loss: Callable[[tf.Tensor], tf.Tensor] | LossGradient = non_saturating_loss,
        discriminator_loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
        | LossGradient = log_sigmoid_loss,
        gradient_penalty: float = 0.0,
        penalty: Penalty | Sequence[Penalty] | None = None,
        clip_weights: float | None = None,
        critic_steps: int = 1,
        noise: Law | None = None,
        noise_shape: Sequence[int] | None = None,
        labels: Nest = None,
        ema: float | None = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        batch_size = whole("batch_size", batch_size, 1)
        penalties = as_penalties(penalty, gradient_penalty)
        self._critic_steps = whole("critic_steps", critic_steps, 1)
        limit = as_limit(clip_weights)
        ema = players.as_share(ema)
        arguments.check_model("generator", generator)
        arguments.check_model("discriminator", discriminator)
        arguments.check_optimizer("generator_optimizer", generator_optimizer)
        arguments.check_optimizer("discriminator_optimizer", discriminator_optimizer)
        of_generator = loss_of_generator(generator_loss)
        of_discriminator = loss_of_discriminator(discriminator_loss, penalty is not None)
        self.generator, self.discriminator, self.steps = generator, discriminator, 0
        self._labels = Labels(players.label_specs(generator, discriminator, labels))
        self._law = Noise(noise, players.noise_shape(generator, noise_shape))
        seed = whole("seed", seed, 0)
        generators = np.random.default_rng(seed).spawn(4)
        self._order, self._sampling, self._noise, self._mixing = generators
        self._left = np.empty(0, int)  # remaining examples of the last fit's last epoch
        self._count = 0  # N of the last fit
        self._batch_size = batch_size
        self._settings = {
            "generator_optimizer": settings(generator_optimizer),
            "discriminator_optimizer": settings(discriminator_optimizer),
            "generator_loss": name_of(generator_loss),
            "discriminator_loss": name_of(discriminator_loss),
            "gradient_penalty": float(gradient_penalty),
            "batch_size": batch_size,
            **_chosen(penalty=penalty, clip_weights=clip_weights, ema=ema),
            **_chosen(noise=None if noise is None else name_of(noise)),
            **_chosen(critic_steps=None if self._critic_steps == 1 else self._critic_steps),
        }
        self._logdirs: set[Path] = set()
        zeros = np.zeros((batch_size, *self._law.shape), np.float32)
        no_labels = self._labels.zeros(batch_size)
        examples = players.example_of(generator, zeros, no_labels)
        self._shape = tuple(examples.shape[1:])
        players.check_discriminator(discriminator, examples, no_labels)
        shared = {id(v) for v in generator.variables} & {id(v) for v in discriminator.variables}
        if shared or generator_optimizer is discriminator_optimizer:
            raise ValueError(
                "Each player must have its own optimizer and its own variables. Received: "
                f"{'a shared layer' if shared else 'one optimizer for both'}. Make two."
            )
        self._metrics = (*METRICS, *["discriminator_gradient_penalty"] * (penalty is not None))
        self._mixes = any(each.at == "between" for each in penalties)
        self._turns = {
            "discriminator": Turn(
                players.discriminate(generator, discriminator, penalties),
                of_discriminator,
                discriminator.trainable_variables,
                discriminator_optimizer,
            ),
            "generator": Turn(
                players.generate(generator, discriminator),
                of_generator,
                generator.trainable_variables,
                generator_optimizer,
            ),
        }
        self.average: keras.Model | None = None
        averages: list[Average] = []
        if ema is not None:
            self.average = players.average_of(generator, zeros, no_labels)
            averages = [Average(self.average.weights, generator.weights, 1.0 - ema)]
        self._rounds = Rounds(
            {"discriminator": discriminator, "generator": generator},
            self._turns,
            Batch(
                tf.TensorSpec(self._shape),
                tf.TensorSpec(self._law.shape),
                self._labels.specs,
                tf.TensorSpec((1,)) if self._mixes else (),
            ),
            batch_size,
            self._critic_steps,
            averages,
            limit,
        )
        drawn_by = generator if self.average is None else self.average
        self._samples = Samples(drawn_by, discriminator, self._law.draw(self._sampling, SHOWN))
        self._trained: tuple[object, ...] = ()  # which parts of the players are trained

    def step(self, real: np.ndarray, labels: Nest = None) -> dict[str, float]:
        """One update of the generator after n of the discriminator, all with new noise.

        Args:
            real: Real examples `[n · B, *S]`, of which each update of the discriminator takes B.
            labels: Their labels, if the players take them.

        Raises:
            ValueError: They have other shapes.
            FloatingPointError: A loss or a gradient is not finite.
        """
        self._update_trained()
        size = self._critic_steps * self._batch_size
        labels = self._labels.checked(labels, size)
        if np.shape(real) != (size, *self._shape):
            raise ValueError(
                "A step must receive critic_steps · batch_size examples, "
                f"{[size, *self._shape]}. Received: {list(np.shape(real))}. Reshape them."
            )
        pairs = split((np.asarray(real), labels), self._critic_steps)
        return {name: float(values[0]) for name, values in self._play(pairs, 1).items()}

    def _update_trained(self) -> None:
        """Notices a `trainable` that was set between two calls."""
        self._trained = trainable_state(self.generator), trainable_state(self.discriminator)

    def _play(self, pairs: Sequence[Pair], count: int) -> dict[str, np.ndarray]:
        """Steps on count · n batches of real examples; each metric as an array `[count]`."""
        draws = self._critic_steps + 1
        size = count * self._batch_size
        # One draw for each step, so that steps per call do not change what a law draws.
        drawn = [self._law.draw(self._noise, draws * self._batch_size) for _ in range(count)]
        noise = np.concatenate(drawn).reshape(size, draws, *self._law.shape)
        mix: Nest = ()
        if self._mixes:
            shape = (size, self._critic_steps, 1) if self._critic_steps > 1 else (size, 1)
            mix = self._mixing.random(shape, np.float32)
        real, labels = stacked(pairs, self._critic_steps)
        batch = Batch(real, noise, labels, mix)
        metrics = self._rounds.run(batch, count, self._trained)
        self.steps += count
        return {name: metrics[name] for name in self._metrics}

    def fit(
        self,
        examples: np.ndarray | tf.data.Dataset,
        steps: int | None = None,
        *,
        labels: Nest = None,
        report_every: int = 100,
        sample_every: int | None = None,
        draw: Callable[[GAN], np.ndarray] | None = None,
        verbose: bool = False,
        callbacks: Sequence[Any] = (),
        logdir: str | Path | None = None,
        config: Mapping[str, object] | None = None,
        resume: bool = False,
        checkpoint_every: int | str | None = "30s",
        **unknown: object,
    ) -> dict[str, np.ndarray]:
        """Trains for `steps` more steps, on batches of new permutations of the examples.

        A step takes n batches of B real examples: ⌊N / B⌋ batches are an epoch. A dataset yields
        them in its own order, and starts anew at each of its ends and in each fit; a memory map is
        never copied whole.

        One compiled call makes several steps: the largest number up to 16 that divides `steps`,
        `report_every` and `sample_every`. SIGINT, SIGTERM and SIGHUP end the training after the
        current call.

        Args:
            examples: Real examples `[N, *S]`, scaled like those of the generator; or a
                `tf.data.Dataset` of examples, or of pairs (examples, labels), batched or not.
            steps: The number of steps of the generator; ⌊N / B⌋ / n of them are an epoch.
            labels: Labels `[N, ...]` of the examples, if the players take them: an array, or
                tuples, lists and dicts of them. Generated examples have labels of real ones.
            report_every: Steps between two reports, which give the means since the last report; the
                last step is always reported.
            sample_every: Steps between two sets of samples in TensorBoard, or None for none: a
                picture, and histograms of the discriminator's logits. There is also a set before
                the first step and one after the last.
            draw: A function of this object that returns a picture, uint8 `[height, width,
                channels]`; by default the `image_grid` of 64 examples from fixed noise.
            verbose: Whether a report prints a line.
            callbacks: Keras's, for which a report is the end of an epoch, and functions that every
                report calls as `callback(step, metrics)`. One that returns False stops the
                training. If it has a method `begin`, this is called with the fit's `Writer`, to
                which it may write points, images and histograms. What it adds to `metrics`, as
                `FrechetDistance` does, is written to TensorBoard and returned as well.
            logdir: The fit's own folder, new or empty: `config.json`, checkpoints, and TensorBoard
                event files with `train/generator_loss` and the other metrics for every report; the
                pictures as `samples`; the logits of 256 real and generated examples as
                `discriminator/real` and `discriminator/fake`; settings, versions and the graph of
                both players.
            config: More settings for config.json, the HParams and the Text tab.
            resume: Go on from the newest checkpoint in `logdir` to `steps` in all, to the same bits
                as a fit that was never stopped, if the data are the same.
            checkpoint_every: Calls between two checkpoints, or seconds as "30s"; None for the last
                one alone.
            **unknown: None. Arguments of Keras's `fit` are refused, with what to pass instead.

        Returns:
            The history: each of `METRICS` as an array `[steps]` (shorter if a callback stopped);
            those of the discriminator are means over its n steps. What a callback added to
            `metrics` is an array `[reports]`.

        Raises:
            ValueError: The examples or a number are out of range; the message says how.
            FileExistsError: `logdir` holds something else, or a fit that is not to be resumed.
            FloatingPointError: A loss or a gradient is not finite.
        """
        arguments.refuse_unknown("GAN.fit", unknown)
        steps = whole("steps", steps, 1)
        report_every = whole("report_every", report_every, 1)
        verbose = flag("verbose", verbose)
        if sample_every is not None:
            sample_every = whole("sample_every", sample_every, 1)
        arguments.check_function("draw", draw, "gan")
        arguments.check_destination(logdir, config)
        source, batches = self._source(examples, labels)
        ahead = math.ceil(JUDGED / self._batch_size) if sample_every else 1
        shown, scale, batches = looked_at(source, batches, JUDGED, ahead)
        draw = draw or (lambda _: image_grid(self._samples.picture(shown[1]), *scale))
        picture = (
            draw(self) if sample_every else None
        )  # here, so that bad examples leave no event file
        count = self._steps_per_call(math.gcd(steps, report_every, sample_every or 0))
        self._update_trained()
        self._rounds.compiled(
            count, self._trained
        )  # here, so that bad losses or players leave no event file
        past, players_ = Past(self._metrics), [self.generator, self.discriminator]
        optimizer = self._turns["generator"].optimizer
        of_fit = FitCallbacks(callbacks, players_, optimizer, steps, None)
        size = {} if source is None else {"examples": len(source)}
        known = {**self._settings, **size, "steps": steps, **(config or {})}
        folder = FitFolder(
            logdir,
            self._logdirs,
            {"trainer": "GAN", **known},
            resume=flag("resume", resume),
            every=checkpoint_every,
            check=self._check_state,
        )
        writer, interrupts = folder.writer, Interrupts("always")
        with ExitStack() as stack:
            stack.callback(folder.close)
            stack.enter_context(session(writer))
            memory: State | None = None
            if folder.saved is not None:
                self.set_state(folder.saved["trainer"])
                memory = past.set_state(folder.saved)
                count = math.gcd(count, past.done)
                seen = past.done * self._critic_steps if source is None else 0
                deque(islice(batches, seen), maxlen=0)  # a dataset yields them once more
            elif folder.is_new:
                models = ("generator", self.generator), ("discriminator", self.discriminator)
                describe(writer, known, models)
            if picture is not None and memory is None:
                self._write(writer, shown, picture)
            state = lambda: {"trainer": self.get_state(), **past.get_state(of_fit)}  # noqa: E731
            stack.enter_context(interrupts)
            progress = stack.enter_context(Progress(steps, "steps"))
            stack.enter_context(of_fit.session(writer, memory))
            for done in range(past.done + count, steps + 1, count):
                if past.done % report_every == 0:
                    of_fit.epoch_begins(self.steps)
                self._add(past, done, list(islice(batches, count * self._critic_steps)), count)
                self._show(writer, shown, draw, done, steps, sample_every)
                continues = True
                if done % report_every == 0 or done == steps:
                    since = (done - 1) // report_every * report_every
                    metrics = past.means(since)
                    progress.update(done, f"generator loss {metrics['generator_loss']:.4g}")
                    continues = self._report(metrics, writer, verbose, of_fit, past)
                if interrupts.received is not None or not continues:
                    break
                folder.save_if_due(self.steps, state)
            folder.save(self.steps, state)
            interrupts.raise_received()
        for turn in self._turns.values():
            finalize(turn.optimizer)
        return past.columns

    def _show(
        self,
        writer: Writer,
        shown: Pair,
        draw: Callable[[GAN], np.ndarray],
        done: int,
        steps: int,
        every: int | None,
    ) -> None:
        """Writes samples, if they are due."""
        if every and (done % every == 0 or done == steps):
            self._write(writer, shown, draw(self))

    def _add(self, past: Past, done: int, pairs: Sequence[Pair], count: int) -> None:
        """Makes the steps of a call.

        Raises:
            FloatingPointError: A loss or a gradient is not finite.
        """
        try:
            past.add(done, self._play(pairs, count))
        except FloatingPointError as error:
            raise FloatingPointError(f"After {self.steps} steps: {error}") from None

    def _report(
        self,
        metrics: dict[str, float],
        writer: Writer,
        verbose: bool,
        of_fit: FitCallbacks,
        past: Past,
    ) -> bool:
        """Writes means and calls the callbacks; returns whether the fit continues."""
        writer.scalars(self.steps, {f"train/{name}": v for name, v in metrics.items()})
        report("step", self.steps, metrics, verbose, ())
        continues = of_fit.epoch_ends(self.steps - 1, metrics)
        self._record(writer, metrics, past.added)
        return continues

    def get_state(self) -> State:
        """All that a fit needs to go on: variables, slots, generators, the order, steps."""
        generators = {name: each.bit_generator.state for name, each in self._generators.items()}
        return {
            "variables": states.values_of(self._variables),
            "optimizers": states.optimizers_state(self._optimizers),
            "generators": generators,
            "left": self._left,
            "count": self._count,
            "steps": self.steps,
        }

    @property
    def _optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        return {name: turn.optimizer for name, turn in self._turns.items()}

    @property
    def _generators(self) -> dict[str, np.random.Generator]:
        return {
            "order": self._order,
            "sampling": self._sampling,
            "noise": self._noise,
            "mixing": self._mixing,
        }

    @property
    def _variables(self) -> list[keras.Variable]:
        average = [] if self.average is None else [self.average]
        return states.variables_of([self.generator, self.discriminator, *average])

    def _check_state(self, state: State) -> None:
        """Refuses a state of another trainer or of other players.

        Raises:
            ValueError: It is one.
        """
        parts = "variables", "optimizers", "generators", "left", "count", "steps"
        saved = states.checked_parts(state.get("trainer"), *parts)
        states.check("the players", self._variables, saved["variables"])

    def set_state(self, state: State) -> None:
        """Goes on from what `get_state` returned.

        Raises:
            ValueError: It is of other players or optimizers; nothing changes.
        """
        self._check_state({"trainer": state})
        trained = lambda name: self._turns[name].variables  # noqa: E731
        states.check_optimizers(self._optimizers, trained, state["optimizers"])
        states.assign_optimizers(self._optimizers, state["optimizers"])
        states.assign("the players", self._variables, state["variables"])
        for name, generator in self._generators.items():
            generator.bit_generator.state = state["generators"][name]
        self._left, self._count = np.array(state["left"]), int(state["count"])
        self.steps = whole("steps", state["steps"], 0)

    def _record(
        self, writer: Writer, metrics: Mapping[str, float], added: dict[str, list[float]]
    ) -> None:
        """Keeps and writes what callbacks have added to the metrics of a report."""
        new = {
            name: float(value)
            for name, value in metrics.items()
            if name not in self._metrics and isinstance(value, numbers.Real)
        }
        for name, value in new.items():
            added.setdefault(name, []).append(value)
        if new:
            writer.scalars(self.steps, {f"metrics/{name}": value for name, value in new.items()})

    def _source(self, examples: object, labels: Nest) -> tuple[Arrays | None, Iterator[Pair]]:
        """The arrays of a fit, None for a dataset, and its batches."""
        if not isinstance(examples, tf.data.Dataset):
            arrays = Arrays(examples, labels, self._shape, self._labels, self._batch_size)
            return arrays, self._batches(arrays)
        if labels is not None:
            raise ValueError(
                "A dataset must yield labels together with examples. Received: a dataset and "
                "labels=. Pass tf.data.Dataset.zip(examples, labels) alone."
            )
        batches = dataset_batches(examples, self._shape, self._labels, self._batch_size)
        return None, chain([next(batches)], batches)  # checks the first one

    def _write(self, writer: Writer, shown: Pair, picture: np.ndarray) -> None:
        """Writes a picture, and the logits of real and generated examples."""
        # Nothing here advances the random generators of the training.
        noise = self._law.draw(np.random.default_rng(0), JUDGED)
        writer.image(self.steps, "samples", picture)
        writer.histograms(self.steps, self._samples.logits(shown, noise))

    def _steps_per_call(self, period: int) -> int:
        """The largest number of steps per call that divides `period`, within the limits."""
        size = self._batch_size * self._critic_steps * math.prod(self._shape)
        most = max(min(MOST_STEPS, MOST_NUMBERS // size), 1)
        return next(count for count in range(most, 0, -1) if period % count == 0)

    def sample(self, count: int, labels: Nest = None) -> np.ndarray:
        """New examples `[count, *S]`, float32; the noise does not affect the training.

        Args:
            count: The number of examples.
            labels: Their labels `[count, ...]`, if the generator takes them.

        Raises:
            ValueError: `count` is less than 1, or the labels do not fit.
        """
        count = whole("count", count, 1)
        return self.generate(self._law.draw(self._sampling, count, double=True), labels)

    def generate(self, noise: np.ndarray, labels: Nest = None) -> np.ndarray:
        """The generator's examples `[k, *S]`, float32, in inference mode.

        Args:
            noise: Noise `[k, *Z]`.
            labels: Labels `[k, ...]`, if the generator takes them.

        Raises:
            ValueError: Noise or labels do not fit.
        """
        noise = np.asarray(noise, np.float32)
        if noise.shape[1:] != self._law.shape or not len(noise):
            raise ValueError(
                f"Noise must have shape [n, {', '.join(map(str, self._law.shape))}], n >= 1. "
                f"Received: {list(noise.shape)}. Draw it from a standard normal distribution."
            )
        return self._samples.generate(noise, self._labels.checked(labels, len(noise)))

    def _batches(self, examples: Arrays) -> Iterator[Pair]:
        """Batches of permutations; a fit with the same N resumes where the last one ended."""
        if len(examples) != self._count:
            self._count, self._left = len(examples), np.empty(0, int)
        while True:
            if len(self._left) < self._batch_size:
                self._left = self._order.permutation(self._count)
            rows, self._left = np.split(self._left, [self._batch_size])
            yield examples[rows]  # [B, *S], and labels


def _chosen(**options: object) -> dict[str, object]:
    """The options that are not None, as settings."""
    return {
        name: value if isinstance(value, int | float | str) else str(value)
        for name, value in options.items()
        if value is not None
    }
