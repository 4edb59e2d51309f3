"""Arguments that both trainers of Keras models take, checked before anything is trained."""

from __future__ import annotations

import inspect
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras

from .writer import Callback

HABITS = {
    "validation_data": "Pass validation=(inputs, targets) to Regression.fit",
    "validation_split": "Split the arrays, and pass validation=(inputs, targets)",
    "validation_freq": "Pass report_every: every report validates",
    "validation_batch_size": "Leave it out: memory is bounded by itself",
    "validation_steps": "Leave it out: every report validates on all examples",
    "sample_weight": "Pass targets=(targets, weights), and let the loss multiply by the weights",
    "class_weight": "Pass targets=(targets, weights), and let the loss multiply by the weights",
    "batch_size": "Pass it to the trainer itself",
    "shuffle": "Leave it out: minibatches are those of a fresh permutation every epoch",
    "initial_epoch": "Leave it out: the attribute `epochs` or `steps` counts over all fits",
    "steps_per_epoch": "Leave it out: an epoch is ⌊examples / batch_size⌋ updates",
    "x": "Pass the examples as the first argument",
    "y": "Pass the targets as the second argument",
    "epochs": "Pass `steps`; ⌊examples / batch_size⌋ of them are an epoch",
    "steps": "Pass `epochs`",
    "optimizer": "Pass it to the trainer itself",
    "loss": "Pass it to the trainer itself, lifted: differentiate(loss)",
    "metrics": "Let the loss return (L, {name: value})",
    "resume": "Save model and optimizer by Keras; fits have no checkpoints of their own",
}
"""What `fit` of Keras takes, and these do not: what to do instead."""


def refuse_unknown(method: str, unknown: Mapping[str, Any]) -> None:
    """Refuses arguments that a method does not have, with what there is in place of Keras's.

    Raises:
        ValueError: It is an argument of Keras's own.
        TypeError: It is any other.
    """
    for name in unknown:
        if name in HABITS:
            raise ValueError(
                f"{method} must be given the arguments of its own. "
                f"Received: {name}=…, as Keras takes it. {HABITS[name]}."
            )
        raise TypeError(f"{method} got an unexpected keyword argument {name!r}")


def as_count(name: str, value: Any, least: int = 1) -> int:
    """A count as Python's int.

    Raises:
        ValueError: It is no whole number, or below `least`.
    """
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < least:
        raise ValueError(
            f"{name} must be a whole number, {name} >= {least}. Received: {name}={_short(value)}. "
            f"Pass an int{_as_int(value)}."
        )
    return count


def check_model(name: str, model: Any) -> None:
    """Refuses what is no Keras model or layer.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"{name} must be a Keras model or layer. Received: {_short(model)}. Pass an object "
            "such as keras.Sequential([...]); for a function of models there is compile_step."
        )


def check_optimizer(name: str, optimizer: Any) -> None:
    """Refuses what is no optimizer of Keras.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"{name} must be a Keras optimizer. Received: {_short(optimizer)}. "
            "Pass an object, such as keras.optimizers.Adam(1e-3)."
        )


def as_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """The callbacks of a fit, each a function of a count and metrics.

    Raises:
        ValueError: One is Keras's, or cannot be called so.
    """
    rule = "callbacks must be functions `callback(count, metrics)`, one that returns False stops."
    if isinstance(callbacks, keras.callbacks.Callback) or not isinstance(callbacks, Iterable):
        raise ValueError(
            f"{rule} Received: {_short(callbacks)}. Pass a list of functions: callbacks=[f]."
        )
    callbacks = tuple(callbacks)
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.Callback):
            raise ValueError(
                f"{rule} Received: keras.callbacks.{type(callback).__name__}, which Keras's own "
                "`fit` alone can call. Write a function: to stop, return False once "
                'metrics["loss"] no longer falls; for the learning rate, assign '
                "optimizer.learning_rate; to save, call model.save."
            )
        if not _takes_two(callback):
            raise ValueError(
                f"{rule} Received: {_short(callback)}. Pass a function of two arguments, such as "
                "lambda count, metrics: None."
            )
    return callbacks


def check_function(name: str, function: Any) -> None:
    """Refuses what cannot be called.

    Raises:
        ValueError: It cannot.
    """
    if function is not None and not callable(function):
        raise ValueError(
            f"{name} must be a function. Received: {_short(function)}. Pass one, or leave it out."
        )


def check_destination(logdir: Any, config: Any) -> None:
    """Refuses a log directory that is no path or is a file, and settings without names.

    Raises:
        ValueError: One is such.
    """
    if logdir is not None and not isinstance(logdir, str | os.PathLike):
        raise ValueError(
            f"logdir must be a path. Received: logdir={_short(logdir)}. Pass a string or a Path."
        )
    if logdir is not None and (not os.fspath(logdir) or Path(logdir).is_file()):
        raise ValueError(
            f"logdir must be a folder. Received: logdir={str(logdir)!r:.80}. Pass another path."
        )
    if config is not None and not (
        isinstance(config, Mapping) and all(isinstance(key, str) for key in config)
    ):
        raise ValueError(
            f"config must be a dict with names as keys. Received: config={_short(config)}. "
            'Pass settings such as {"width": 64}.'
        )


def _takes_two(function: Callable[..., Any]) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(0, {})
    except TypeError:
        return False
    except ValueError:  # one written in C may have no signature
        return True
    return True


def _as_int(value: Any) -> str:
    is_whole = isinstance(value, float) and value.is_integer()
    return f", such as {int(value)}" if is_whole and value >= 1 else ""


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
