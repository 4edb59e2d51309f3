"""Supervised training: any Keras model on any lifted loss, many epochs in one compiled call.

Legend: B examples, M examples per minibatch, U = ⌊B / M⌋ updates per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .compiled import Nest
from .gradients import LossGradient, Step, compile_step
from .interrupts import Interrupts
from .progress import Progress
from .reports import begin, describe, open_own, report, session, settings
from .summaries import scatter
from .writer import Callback, Writer

LOOKED_AT = 1_000  # examples whose predictions a look shows
LOOKS = 5  # at most, in one fit: each takes some milliseconds


class Regression:
    """Trains a model on a loss of its outputs: `loss_gradient(model(inputs), targets)`.

    Without `batch_size` an epoch is one update on all examples. With it, an epoch is U = ⌊B / M⌋
    updates on minibatches of exactly M examples of a fresh permutation; the B mod M examples at its
    end are left out, other ones in every epoch. (A shorter last minibatch would need a second
    compiled step, and its examples would weigh more than the others.)

    Args:
        model: Any Keras model or layer; one that is not built yet is built by the first `fit`.
        loss_gradient: `differentiate(loss)`, `external(loss)`, `estimated(score)` or `given`.
        optimizer: Any Keras optimizer, used for nothing else.
        batch_size: M, or None for full batches.
        seed: Of the permutations. The weights come from the model's own initialisers.
        jit_compile: XLA or not. By default only where one call makes several updates of a
            TensorFlow loss.

    Attributes:
        epochs: Epochs trained so far, over all calls of `fit`: the x-axis of every report.
    """

    def __init__(
        self,
        model: keras.Layer,
        loss_gradient: LossGradient,
        optimizer: keras.optimizers.Optimizer,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        jit_compile: bool | None = None,
    ) -> None:
        self.model, self.epochs = model, 0
        self._loss_gradient, self._optimizer = loss_gradient, optimizer
        self._batch_size, self._jit_compile = batch_size, jit_compile
        self._generator = np.random.default_rng(seed)
        self._steps: dict[str, Step] = {}
        self._logdirs: set[Path] = set()

    def fit(
        self,
        inputs: Nest,
        targets: Nest,
        epochs: int,
        *,
        report_every: int = 1,
        validation: tuple[Nest, Nest] | None = None,
        compare: Callable[[Nest], np.ndarray] | None = None,
        verbose: bool = False,
        callbacks: Sequence[Callback] = (),
        logdir: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> dict[str, np.ndarray]:
        """Trains for `epochs` more epochs; compiles when it first sees arrays of these shapes.

        One compiled call makes gcd(`epochs`, `report_every`) epochs: 1,000 small epochs reported
        every 100 take milliseconds. SIGINT, SIGTERM and SIGHUP end the training after the current
        call.

        Args:
            inputs: Array or nest of arrays `[B, ...]`, as the model takes them.
            targets: Array or nest of arrays `[B, ...]`, as the loss takes them.
            epochs: How many.
            report_every: Epochs between two reports; the last epoch is reported in any case.
            validation: Inputs and targets whose loss is computed at every report, in inference
                mode: the metric `validation_loss`. (A loss that is `estimated` draws its
                perturbations for that from the generator that the training draws from.)
            compare: What of the outputs is comparable with the targets, and shaped like them; by
                default the outputs themselves, if they are one array shaped like the targets.
            verbose: Whether a report prints a line with the epoch's metrics.
            callbacks: A report calls each as `callback(epoch, metrics)`; one that returns False
                stops the training. One that has a method `begin` is given the fit's `Writer` by it,
                for points, images and histograms of its own.
            logdir: Where TensorBoard event files go: `train/loss`, `train/grad_norm` and the loss's
                own metrics, a point for every epoch; `validation/loss`; before the first epoch and
                at most five times later the image `predictions` and the histogram `residuals` of
                1,000 examples, if they are comparable; settings, versions and the model's graph.
            config: More settings for the HParams and the Text tab.

        Returns:
            `{"loss", "grad_norm", **metrics}`, arrays `[epochs]` (shorter if a callback stopped):
            means over the updates of an epoch, each measured before it changed the weights. With
            `validation` also `validation_loss`, an array `[reports]`.

        Raises:
            ValueError: The arrays do not agree, or a number is out of range.
            FileExistsError: `logdir` holds the event files of another run.
            FloatingPointError: The loss or a gradient is not finite.
        """
        if epochs < 1 or report_every < 1:
            raise ValueError(
                "A fit must have epochs >= 1 and report_every >= 1. "
                f"Received: epochs={epochs}, report_every={report_every}."
            )
        inputs, targets = tf.nest.map_structure(_as_examples, (inputs, targets))
        examples, size = self._sizes(inputs, targets)
        count, updates = math.gcd(epochs, report_every), examples // size  # of one call, one epoch
        full = size == examples
        step = self._compile(inputs, targets, count if full else (count * updates, size))
        history, losses = list[dict[str, np.ndarray]](), list[float]()
        reports = math.ceil(epochs / report_every)
        looks = {math.ceil(reports * k / LOOKS) for k in range(1, LOOKS + 1)}
        shown = (*((inputs, targets) if validation is None else validation), compare)
        compared = None if logdir is None else self._compare(*shown)
        is_new = logdir is not None and Path(logdir) not in self._logdirs
        writer = open_own(logdir, self._logdirs)
        with session(writer), Interrupts() as interrupts, Progress(epochs, "epochs") as progress:
            if is_new:
                sizes = {"examples": examples, "epochs": epochs, "batch_size": size}
                known = {"optimizer": settings(self._optimizer), **sizes}
                describe(writer, {**known, **(config or {})}, [(self.model.name, self.model)])
            _write_comparison(writer, self.epochs, compared)
            begin(callbacks, writer)
            for done in range(count, epochs + 1, count):
                try:
                    rows = None if full else self._rows(examples, size, count)
                    values = step(inputs, targets, rows)
                except FloatingPointError as error:
                    raise FloatingPointError(f"After {self.epochs} epochs: {error}") from None
                metrics = {k: v.reshape(count, updates).mean(1) for k, v in values.items()}
                history.append(metrics)
                if logdir is not None:
                    _write_epochs(writer, self.epochs, metrics)
                self.epochs += count
                last = {name: float(each[-1]) for name, each in metrics.items()}
                progress.update(done, f"loss {last['loss']:.4g}")
                goes_on = True
                if done % report_every == 0 or done == epochs:
                    if validation is not None:
                        losses.append(self._loss(*validation))
                        last["validation_loss"] = losses[-1]
                        writer.scalars(self.epochs, {"validation/loss": losses[-1]})
                    if compared is not None and math.ceil(done / report_every) in looks:
                        _write_comparison(writer, self.epochs, self._compare(*shown))
                    goes_on = report("epoch", self.epochs, last, verbose, callbacks)
                interrupts.raise_received()
                if not goes_on:
                    break
        columns = {name: np.concatenate([part[name] for part in history]) for name in history[0]}
        return columns if validation is None else {**columns, "validation_loss": np.array(losses)}

    def _loss(self, inputs: Nest, targets: Nest) -> float:
        """The loss in inference mode."""
        outputs = tf.nest.map_structure(tf.constant, self.predict(inputs))
        targets = tf.nest.map_structure(_as_examples, targets)
        loss, _, _ = self._loss_gradient(outputs, targets)
        if host := getattr(self._loss_gradient, "host", None):
            host.take_metrics(False)  # critical: they are not those of a training step
        return float(loss)

    def _compare(
        self, inputs: Nest, targets: Nest, compare: Callable[[Nest], np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Predictions and targets of up to 1,000 examples, `[n, k]` each, if comparable."""
        count = len(tf.nest.flatten(targets)[0])
        rows = np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)
        inputs, targets = tf.nest.map_structure(lambda a: np.asarray(a)[rows], (inputs, targets))
        outputs = self.predict(inputs)
        predictions = outputs if compare is None else compare(outputs)
        if isinstance(targets, np.ndarray) and np.shape(predictions) == targets.shape:
            return np.reshape(predictions, (len(rows), -1)), targets.reshape(len(rows), -1)
        if compare is None:
            return None
        raise ValueError(
            "`compare` must make of the outputs an array shaped like the targets. "
            f"Received: {np.shape(predictions)} from {compare}. Leave it out for no comparison."
        )

    def predict(self, inputs: Nest) -> Nest:
        """The model's outputs in inference mode, NumPy arrays `[B, ...]`."""
        inputs = tf.nest.map_structure(_as_examples, inputs)
        return tf.nest.map_structure(np.asarray, self.model(inputs, training=False))

    def _sizes(self, inputs: Nest, targets: Nest) -> tuple[int, int]:
        counts = {array.shape[0] for array in tf.nest.flatten((inputs, targets))}
        size = max(counts) if self._batch_size is None else self._batch_size
        if len(counts) > 1 or not 1 <= size <= max(counts):
            raise ValueError(
                "Inputs and targets must hold equally many examples along their first axis, at "
                f"least one minibatch. Received: {sorted(counts)} examples, "
                f"batch_size={self._batch_size}. Pass equally long arrays or a smaller batch_size."
            )
        return max(counts), size

    def _compile(self, inputs: Nest, targets: Nest, updates: int | tuple[int, int]) -> Step:
        signature = tf.nest.map_structure(
            lambda array: tf.TensorSpec(array.shape, array.dtype), (inputs, targets)
        )
        key = repr((signature, updates))
        if key not in self._steps:
            if not self.model.built:
                self.model(tf.nest.map_structure(lambda array: array[:1], inputs))
            # XLA does not repay a single update.
            several = False if updates == 1 or updates == (1, self._batch_size) else None
            self._steps[key] = compile_step(
                self.model,
                self._loss_gradient,
                self.model.trainable_variables,
                self._optimizer,
                signature,
                updates=updates,
                jit_compile=several if self._jit_compile is None else self._jit_compile,
            )
        return self._steps[key]

    def _rows(self, examples: int, size: int, epochs: int) -> np.ndarray:
        """The examples of each update, `[epochs · U, M]`."""
        kept = examples // size * size
        orders = [self._generator.permutation(examples)[:kept] for _ in range(epochs)]
        return np.concatenate(orders).reshape(-1, size).astype(np.int32)


def _write_epochs(writer: Writer, done: int, metrics: dict[str, np.ndarray]) -> None:
    for index in range(len(metrics["loss"])):
        point = {f"train/{name}": each[index] for name, each in metrics.items()}
        writer.scalars(done + index + 1, point)


def _write_comparison(
    writer: Writer, epochs: int, compared: tuple[np.ndarray, np.ndarray] | None
) -> None:
    if compared is None:
        return
    predictions, targets = compared  # [n, k]
    writer.histograms(epochs, {"residuals": predictions - targets})
    if targets.shape[1] > 5:  # colours there are for so many
        predictions, targets = predictions.reshape(-1, 1), targets.reshape(-1, 1)
    diagonal = np.linspace(targets.min(), targets.max(), 256)[:, None].repeat(2, 1)
    outputs = (np.stack(pair, 1) for pair in zip(targets.T, predictions.T, strict=True))
    writer.image(epochs, "predictions", scatter(diagonal, *outputs))


def _as_examples(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.ndim == 0:
        raise ValueError(
            "Inputs and targets must be arrays whose first axis counts the examples. "
            f"Received: {leaf!r:.80}. Pass NumPy arrays, or dicts, tuples or lists of them."
        )
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array
