"""Supervised training: any Keras model, any lifted loss, many epochs in one compiled call.

Legend: B examples, M examples per minibatch, U = ⌊B / M⌋ updates per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress

from .compiled import Nest
from .gradients import LossGradient, Step, compile_step
from .writer import Writer, open_writer

Callback = Callable[[int, Mapping[str, float]], bool | None]


class Regression:
    """Trains `model` on a loss of its outputs and targets: `loss_gradient(model(x), targets)`.

    Without `batch_size` an epoch is one update on all examples, in their order. With it, an epoch
    is U = ⌊B / M⌋ updates on minibatches of exactly M examples of a fresh permutation: the B mod M
    examples at its end are left out, other ones in every epoch. (A smaller last minibatch would
    need a second compiled step, and its examples would weigh more than the others.)

    Args:
        model: Any Keras model or layer; one that is not built yet is built by the first `fit`.
        loss_gradient: `differentiate(loss)`, `external(loss)`, `estimated(score)` or `given`.
        optimizer: Any Keras optimizer; it belongs to this model from now on.
        batch_size: M; None for full batches.
        seed: Of the permutations.
        jit_compile: XLA or not; by default only for several updates of a TensorFlow loss.

    Attributes:
        epochs: Epochs trained so far, over all calls of `fit`: the x-axis of what is reported.
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
        self._logdir: Path | None = None

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
        progress: bool | None = None,
    ) -> dict[str, np.ndarray]:
        """Trains for `epochs` more epochs.

        One compiled call makes gcd(`epochs`, `report_every`) epochs; the first call compiles. Every
        epoch is in the history and in TensorBoard (`train/loss`, `train/grad_norm`, ...); a value
        is the mean over the epoch's updates, each measured before it changes the weights.

        Args:
            inputs: Array or nest of arrays `[B, ...]`, as the model takes them.
            targets: Array or nest of arrays `[B, ...]`, as the loss takes them.
            epochs: How many.
            report_every: Epochs between two reports; the last epoch is reported too.
            verbose: Whether a report prints a line with the epoch's metrics.
            callbacks: A report calls each `callback(epoch, metrics)`; one that returns False stops
                the training, None and True go on.
            logdir: Where TensorBoard event files go, if anywhere.
            progress: Whether to show a progress bar; by default on a terminal only.

        Returns:
            `{"loss", "grad_norm", **metrics}`, arrays `[epochs]`, shorter if a callback stopped.

        Raises:
            ValueError: The arrays do not agree, or a number is out of range.
            FileExistsError: `logdir` holds event files of another run.
            FloatingPointError: The loss or a gradient is not finite; see `Step`.
        """
        if epochs < 1 or report_every < 1:
            raise ValueError(
                "A fit must have epochs >= 1 and report_every >= 1. "
                f"Received: epochs={epochs}, report_every={report_every}."
            )
        inputs, targets = tf.nest.map_structure(_as_examples, (inputs, targets))
        examples, size = self._sizes(inputs, targets)
        together, updates = math.gcd(epochs, report_every), examples // size
        writer = self._open(logdir)
        history: list[dict[str, np.ndarray]] = []
        with closing(writer), _progress_bar(progress) as bar:
            task = bar.add_task("epochs", total=epochs)
            step = self._compile(inputs, targets, (together * updates, size))
            for done in range(together, epochs + 1, together):
                values = step(inputs, targets, self._rows(examples, size, together))
                metrics = {k: v.reshape(together, updates).mean(1) for k, v in values.items()}
                history.append(metrics)
                for k in range(together):
                    self.epochs += 1
                    writer.scalars(self.epochs, {f"train/{n}": v[k] for n, v in metrics.items()})
                bar.update(task, completed=done)
                if done % report_every and done != epochs:
                    continue
                if not self._report(
                    {n: float(v[-1]) for n, v in metrics.items()}, verbose, callbacks
                ):
                    break
        return {name: np.concatenate([part[name] for part in history]) for name in history[0]}

    def predict(self, inputs: Nest) -> Nest:
        """The model's outputs in inference mode, as NumPy arrays `[B, ...]`."""
        inputs = tf.nest.map_structure(_as_examples, inputs)
        return tf.nest.map_structure(np.asarray, self.model(inputs, training=False))

    def _sizes(self, inputs: Nest, targets: Nest) -> tuple[int, int]:
        counts = {array.shape[0] for array in tf.nest.flatten((inputs, targets))}
        examples = max(counts)
        size = examples if self._batch_size is None else self._batch_size
        if len(counts) > 1 or not 1 <= size <= examples:
            raise ValueError(
                "Inputs and targets must have the same first axis, of at least batch_size >= 1 "
                f"examples. Received: {sorted(counts)} examples, batch_size={self._batch_size}. "
                "Pass arrays of equal length, or a smaller batch_size."
            )
        return examples, size

    def _compile(self, inputs: Nest, targets: Nest, updates: tuple[int, int]) -> Step:
        if not self.model.built:
            self.model(tf.nest.map_structure(lambda array: array[:1], inputs))
        signature = tf.nest.map_structure(
            lambda array: tf.TensorSpec(array.shape, array.dtype), (inputs, targets)
        )
        key = repr((signature, updates))
        if key not in self._steps:
            # One update per call gains nothing from XLA but a longer compilation.
            jit_compile = False if updates[0] == 1 else None
            self._steps[key] = compile_step(
                self.model,
                self._loss_gradient,
                self.model.trainable_variables,
                self._optimizer,
                signature,
                updates=updates,
                jit_compile=jit_compile if self._jit_compile is None else self._jit_compile,
            )
        return self._steps[key]

    def _rows(self, examples: int, size: int, epochs: int) -> np.ndarray:
        """Which examples each update takes, `[epochs · U, M]`."""
        if size == examples:
            return np.tile(np.arange(examples, dtype=np.int32), (epochs, 1))
        kept = examples // size * size
        orders = [self._generator.permutation(examples)[:kept] for _ in range(epochs)]
        return np.concatenate(orders).reshape(-1, size).astype(np.int32)

    def _report(self, metrics, verbose: bool, callbacks: Sequence[Callback]) -> bool:
        """Prints, calls back, and says whether to go on."""
        if verbose:
            line = "  ".join(f"{name} {value:.6f}" for name, value in metrics.items())
            print(f"epoch {self.epochs:6d}  {line}", flush=True)
        answers = [callback(self.epochs, metrics) for callback in callbacks]
        return all(answer is None or answer for answer in answers)

    def _open(self, logdir: str | Path | None) -> Writer:
        if logdir is not None and Path(logdir) != self._logdir:
            if any(Path(logdir).glob("events.out.tfevents.*")):
                raise FileExistsError(
                    "A log directory must not hold the event files of another run. "
                    f"Received: logdir={str(logdir)!r}. Choose another one."
                )
            self._logdir = Path(logdir)
        return open_writer(logdir)


def _as_examples(leaf) -> np.ndarray:
    array = np.asarray(leaf)
    if array.ndim == 0:
        raise ValueError(
            "Inputs and targets must be arrays whose first axis counts the examples. "
            f"Received: {leaf!r}. Pass NumPy arrays, or dicts, tuples or lists of them."
        )
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def _progress_bar(progress: bool | None) -> Progress:
    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    return Progress(console=console, disable=not shown)
