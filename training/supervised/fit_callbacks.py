"""The callbacks of a fit: Keras's own, and functions of a count and metrics."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ..monitoring.callbacks import as_callbacks, asks_to_stop
from ..storage.packing import pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..storage.packing import State
    from ..tensorboard.writer import Writer

UNSAVED = ("_model", "params", "model", "validation_data", "min_delta")
"""Attributes of Keras's callbacks that a fit sets again, or they themselves (a sign)."""
BATCHES = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_NUMBER = "number"  # the key of one that JSON has no word for


class Models(keras.Model):  # type: ignore[misc]  # Keras has no types
    """Several models as the one that Keras's callbacks see: they save and set all their weights."""

    def __init__(self, models: Sequence[keras.Layer]) -> None:
        super().__init__()
        self.models = list(models)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Nothing: only the fit knows how the models work together.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "A callback must not call the models of a Trainer with a forward of its own. Received: "
            "a call of all of them. Call one of `model.models`."
        )


class FitCallbacks:
    """What a fit calls.

    Args:
        callbacks: Keras's, and functions `callback(epoch, metrics)`.
        models: What is trained.
        optimizer: Whose learning rate callbacks may set.
        epochs: Of the whole fit.
        steps: Of an epoch; None if not known.

    Attributes:
        of_batches: Whether one is to be called at every batch.

    Raises:
        ValueError: One is neither Keras's nor callable.
    """

    def __init__(
        self,
        callbacks: object,
        models: Sequence[keras.Layer],
        optimizer: keras.optimizers.Optimizer,
        epochs: int,
        steps: int | None,
    ) -> None:
        given = list(callbacks) if isinstance(callbacks, list | tuple) else callbacks
        self._keras: list[keras.callbacks.Callback] = []
        if isinstance(given, list):
            self._keras = [c for c in given if isinstance(c, keras.callbacks.Callback)]
            given = [c for c in given if not isinstance(c, keras.callbacks.Callback)]
        self._own = as_callbacks(given)
        single = len(models) == 1 and isinstance(models[0], keras.Model)
        self._model = models[0] if single else Models(models)
        self._optimizer, self._params = optimizer, {"epochs": epochs, "steps": steps, "verbose": 0}
        base = keras.callbacks.Callback
        self.of_batches = any(
            name in vars(callback) or getattr(type(callback), name) is not getattr(base, name)
            for callback in self._keras
            for name in BATCHES
            if not isinstance(callback, _EPOCHS_ONLY)
            and getattr(callback, "save_freq", None) != "epoch"
        )

    @contextlib.contextmanager
    def session(self, writer: Writer, state: State | None) -> Iterator[None]:
        """The context of a fit; `state` is that of a resumed one."""
        for callback in self._own:
            getattr(callback, "begin", lambda writer: None)(writer)
        if not self._keras:
            self._restore(state)
            yield
            return
        attributes = vars(self._model)  # critical: not by setattr, which Keras would track
        before = {name: attributes.get(name) for name in ("optimizer", "stop_training")}
        attributes |= {"optimizer": self._optimizer, "stop_training": False}
        for callback in self._keras:
            if state is not None and isinstance(callback, keras.callbacks.CSVLogger):
                callback.append = True
            callback.set_params(self._params)
            callback.set_model(self._model)
        try:
            self._call("on_train_begin")
            self._restore(state)
            yield
            self._call("on_train_end")
        finally:
            for name, value in before.items():
                if value is None:
                    attributes.pop(name, None)
                else:
                    attributes[name] = value

    def _call(self, name: str, *arguments: Any) -> None:
        for callback in self._keras:
            getattr(callback, name)(*arguments)

    def epoch_begins(self, epoch: int) -> None:
        """Before the batches of an epoch, from 0."""
        self._call("on_epoch_begin", epoch)

    def batch_begins(self, batch: int) -> None:
        """Before a batch of the epoch, from 0."""
        self._call("on_train_batch_begin", batch)

    def batch_ends(self, batch: int, logs: dict[str, float]) -> None:
        """After it, with the means of the epoch so far."""
        self._call("on_train_batch_end", batch, logs)

    def epoch_ends(self, epoch: int, logs: dict[str, float]) -> bool:
        """Calls them at the end of an epoch; returns whether the fit continues."""
        self._call("on_epoch_end", epoch, logs)  # some of Keras's add the learning rate to the logs
        answers = [callback(epoch + 1, logs) for callback in self._own]
        return not (self.stops or any(map(asks_to_stop, answers)))

    @property
    def stops(self) -> bool:
        """Whether one of Keras's asked to end the fit."""
        return bool(self._keras) and bool(vars(self._model).get("stop_training"))

    def get_state(self) -> State:
        """What each remembers: by its `get_state`, else its attributes that are plain values."""
        return [_state_of(callback) for callback in (*self._keras, *self._own)]

    def _restore(self, state: State | None) -> None:
        if state is None:
            return
        callbacks = [*self._keras, *self._own]
        if not isinstance(state, list) or len(state) != len(callbacks):
            received = len(state) if isinstance(state, list) else type(state).__name__
            raise ValueError(
                "A fit must be resumed with the callbacks it had. Received: "
                f"{len(callbacks)}, and a checkpoint with {received}. Pass them as before."
            )
        for callback, each in zip(callbacks, state, strict=True):
            if hasattr(callback, "set_state"):
                callback.set_state(each)
            elif isinstance(callback, keras.callbacks.Callback):
                vars(callback).update({name: _read(value) for name, value in each.items()})


_EPOCHS_ONLY = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.CSVLogger,
    keras.callbacks.History,
)
"""Callbacks of Keras that override the methods for batches, if at all, without using them."""


def _state_of(callback: object) -> State:
    if hasattr(callback, "get_state"):
        return callback.get_state()
    if not isinstance(callback, keras.callbacks.Callback):
        return {}
    found = {}
    for name, value in vars(callback).items():
        with contextlib.suppress(ValueError):  # files, functions: made anew by on_train_begin
            if name not in UNSAVED:
                written = _written(value)
                pack(name, written)
                found[name] = written
    return found


def _written(value: Any) -> State:
    """A value as JSON and arrays; infinities, such as the best loss so far, as texts."""
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return {_NUMBER: str(float(value))}
    return value


def _read(value: State) -> Any:
    is_number = isinstance(value, dict) and set(value) == {_NUMBER}
    return float(value[_NUMBER]) if is_number else value


def as_numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """Logs as Python numbers."""
    return {name: float(value) for name, value in logs.items()}
