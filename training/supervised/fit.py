"""One fit of a Trainer: its epochs and batches, what it measures, and where it can be resumed."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tensorflow as tf

from ..common.console import say
from . import states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import keras

    from ..common.interrupts import Interrupts
    from ..core.table import NonfiniteUpdate
    from ..experience.bad_numbers import Policy
    from ..monitoring.progress import Progress
    from ..storage.packing import State
    from .fit_callbacks import FitCallbacks
    from .fit_folder import FitFolder
    from .sources import Batch


class Trained(Protocol):
    """What a fit needs of its trainer."""

    epochs: int
    metrics: Sequence[keras.metrics.Metric]

    def update(
        self, batch: Batch, count: int, refused: Callable[[NonfiniteUpdate], None]
    ) -> dict[str, np.ndarray]:
        """Makes so many updates; their metrics."""

    def get_state(self) -> State:
        """All that a resumed fit needs of it."""


class Refusals:
    """Updates that were refused because a number was not finite, and what becomes of them.

    Args:
        policy: Whether they are errors, warnings, or skipped in silence.
        limit: How many may be skipped.

    Attributes:
        count: So far.
        are_errors: Whether the first one ends the fit.
    """

    def __init__(self, policy: Policy = "raise", limit: int = 0) -> None:
        self._policy, self._limit, self.count = policy, limit, 0
        self.are_errors = policy == "raise"

    def add(self, error: NonfiniteUpdate, where: str) -> None:
        """Counts one.

        Raises:
            FloatingPointError: It may not be skipped.
        """
        self.count += 1
        text = f"{where}: {error}"
        if self.are_errors:
            raise FloatingPointError(f'{text} Or pass on_bad_numbers="skip" to fit.') from None
        if self.count > self._limit:
            raise FloatingPointError(
                f"{text} It is bad update number {self.count}; {self._limit} may be skipped."
            ) from None
        if self._policy == "warn":
            warnings.warn(f"Skipped update {self.count} of the fit. {text}", stacklevel=3)


class Fit:
    """One call of `fit`: where it is, and what it has measured.

    Args:
        trainer: Makes the updates.
        calls: The examples of each compiled call of an epoch from a batch on, and how many batches
            they are.
        callbacks: What is called.
        folder: Where curves and checkpoints go.

    Attributes:
        refusals: What becomes of batches that are not finite.
    """

    def __init__(
        self,
        trainer: Trained,
        calls: Callable[[int, int], Iterator[tuple[Batch, int]]],
        callbacks: FitCallbacks,
        folder: FitFolder,
    ) -> None:
        self._trainer, self._calls, self._callbacks = trainer, calls, callbacks
        self._folder = folder
        self._epoch = self._batch = 0  # where it is: the next batch of the epoch
        self.refusals = Refusals()
        self._sums: dict[str, list[float]] = {}  # of the epoch: sum over examples, and examples
        self._rows: list[dict[str, float]] = []  # of the epochs before

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Of all epochs, also those before it was resumed; NaN where a name came later."""
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        return {n: np.array([row.get(n, np.nan) for row in self._rows]) for n in names}

    def run(
        self,
        epochs: int,
        validate: Callable[[int], dict[str, float]] | None,
        interrupts: Interrupts,
        progress: Progress,
        verbose: bool,
    ) -> None:
        """Trains to the last epoch, or until a callback or a signal ends it."""
        trainer, folder, goes_on = self._trainer, self._folder, True
        while self._epoch < epochs and goes_on:
            if not self._batch:
                self._sums = {}
                for metric in trainer.metrics:
                    metric.reset_state()
                self._callbacks.epoch_begins(self._epoch)
            self._run_epoch(interrupts)
            logs = self._means()
            if validate is not None:
                logs |= {f"val_{name}": value for name, value in validate(self._epoch).items()}
            self._epoch, self._batch = self._epoch + 1, 0
            trainer.epochs += 1
            self._rows.append(logs)
            folder.writer.scalars(trainer.epochs, _tags(logs))
            progress.update(self._epoch, f"loss {logs.get('loss', np.nan):.4g}")
            if verbose:
                values = "  ".join(f"{name} {value:.6g}" for name, value in logs.items())
                say(f"epoch {self._epoch}/{epochs}  {values}")
            goes_on = self._callbacks.epoch_ends(self._epoch - 1, logs)
            folder.save_if_due(trainer.epochs, self.get_state)
            if interrupts.received is not None:
                break
        folder.save(trainer.epochs, self.get_state)
        interrupts.raise_received()

    def _run_epoch(self, interrupts: Interrupts) -> None:
        """The batches of an epoch that are left."""
        trainer, begun = self._trainer, self._batch
        for batch, count in self._calls(self._epoch, begun):
            if self._callbacks.of_batches:
                self._callbacks.batch_begins(self._batch)
            skipped = np.zeros(count, bool)
            metrics = trainer.update(batch, count, self._refuser(skipped))
            size = len(tf.nest.flatten(batch.inputs)[0]) // count
            for name, values in metrics.items():
                means = np.reshape(values, (count, -1)).mean(1)[~skipped]
                total = self._sums.setdefault(name, [0.0, 0.0])
                total[0] += size * float(means.sum(dtype=np.float64))
                total[1] += size * len(means)
            self._batch += count
            if self._callbacks.of_batches:
                self._callbacks.batch_ends(self._batch - 1, self._means())
                if self._callbacks.stops:
                    return
            if interrupts.received is not None:
                self._folder.save(trainer.epochs, self.get_state)
                interrupts.raise_received()
            self._folder.save_if_due(trainer.epochs, self.get_state)
        if self._batch == begun == 0:
            raise ValueError(
                "Data must yield a batch in every epoch. Received: none in epoch "
                f"{self._epoch + 1}. An iterator gives its batches once: pass a Dataset, or "
                "steps_per_epoch and a generator that never ends."
            )

    def _means(self) -> dict[str, float]:
        means = {"loss": np.nan}  # where every batch was refused
        means |= {n: total / count if count else np.nan for n, (total, count) in self._sums.items()}
        return means | {each.name: float(each.result()) for each in self._trainer.metrics}

    def _refuser(self, skipped: np.ndarray) -> Callable[[NonfiniteUpdate], None]:
        """What is called with an update that is not finite: marks it, or raises."""
        where = f"In epoch {self._epoch + 1}, from batch {self._batch} on"

        def refuse(error: NonfiniteUpdate) -> None:
            skipped[error.update] = True
            self.refusals.add(error, where)

        return refuse

    def get_state(self) -> State:
        """All that a resumed fit needs."""
        return {
            "trainer": self._trainer.get_state(),
            "callbacks": self._callbacks.get_state(),
            "epoch": self._epoch,
            "batch": self._batch,
            "refusals": self.refusals.count,
            "sums": {name: states.numbers(total) for name, total in self._sums.items()},
            "rows": {name: states.numbers(values) for name, values in self.history.items()},
            "metrics": [states.values_of(each.variables) for each in self._trainer.metrics],
        }

    def set_state(self, state: State) -> None:
        """Goes on from it."""
        self._epoch, self._batch = int(state["epoch"]), int(state["batch"])
        self.refusals.count = int(state["refusals"])
        self._sums = {name: states.as_numbers(total) for name, total in state["sums"].items()}
        columns = {name: states.as_numbers(values) for name, values in state["rows"].items()}
        self._rows = [
            {name: values[k] for name, values in columns.items()} for k in range(self._epoch)
        ]
        for metric, values in zip(self._trainer.metrics, state["metrics"], strict=True):
            states.assign(f"metric {metric.name}", metric.variables, values)


def _tags(logs: Mapping[str, float]) -> dict[str, float]:
    return {
        f"validation/{name[4:]}" if name.startswith("val_") else f"train/{name}": value
        for name, value in logs.items()
    }
