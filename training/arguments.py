"""Arguments that both trainers of Keras models take, checked before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

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


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
