"""Supervised training: any Keras model on any lifted loss, many epochs in one compiled call.

Legend: B examples, M examples per minibatch, U = ⌊B / M⌋ updates per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .compiled import Nest
from .gradients import LossGradient, Step, compile_step
from .interrupts import Interrupts
from .progress import Progress
from .reports import open_own, report
from .writer import Callback, Writer


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
        verbose: bool = False,
        callbacks: Sequence[Callback] = (),
        logdir: str | Path | None = None,
    ) -> dict[str, np.ndarray]:
        """Trains for `epochs` more epochs; compiles when it first sees arrays of these shapes.

        One compiled call makes gcd(`epochs`, `report_every`) epochs: 1,000 small epochs reported
        every 100 take milliseconds. SIGINT and SIGTERM end the training after the current call.

        Args:
            inputs: Array or nest of arrays `[B, ...]`, as the model takes them.
            targets: Array or nest of arrays `[B, ...]`, as the loss takes them.
            epochs: How many.
            report_every: Epochs between two reports; the last epoch is reported in any case.
            verbose: Whether a report prints a line with the epoch's metrics.
            callbacks: A report calls each as `callback(epoch, metrics)`; one that returns False
                stops the training.
            logdir: Where TensorBoard event files go: `train/loss`, `train/grad_norm` and the loss's
                own metrics, a point for every epoch.

        Returns:
            `{"loss", "grad_norm", **metrics}`, arrays `[epochs]` (shorter if a callback stopped):
            means over the updates of an epoch, each measured before it changed the weights.

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
        history: list[dict[str, np.ndarray]] = []
        writer = open_own(logdir, self._logdirs)
        with closing(writer), Interrupts() as interrupts, Progress(epochs, "epochs") as progress:
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
                due = done % report_every == 0 or done == epochs
                goes_on = not due or report("epoch", self.epochs, last, verbose, callbacks)
                interrupts.raise_received()
                if not goes_on:
                    break
        return {name: np.concatenate([part[name] for part in history]) for name in history[0]}

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


def _as_examples(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.ndim == 0:
        raise ValueError(
            "Inputs and targets must be arrays whose first axis counts the examples. "
            f"Received: {leaf!r:.80}. Pass NumPy arrays, or dicts, tuples or lists of them."
        )
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array
