"""Arguments of the core and of the trainers of Keras models, checked before any training.

Legend: K updates in one call, M examples per update, P parameters.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ..common.plain import whole
from . import checks
from .losses import signature_of

HABITS = {
    "validation_data": "Pass validation=(inputs, targets) to Regression.fit",
    "validation_split": "Split the arrays, and pass validation=(inputs, targets)",
    "validation_freq": "Pass report_every: every report validates",
    "validation_batch_size": "Leave it out: memory use is bounded automatically",
    "validation_steps": "Leave it out: every report validates on all examples",
    "sample_weight": "Pass targets=(targets, weights), and let the loss multiply by the weights",
    "class_weight": "Pass targets=(targets, weights), and let the loss multiply by the weights",
    "batch_size": "Pass it to the trainer itself",
    "shuffle": "Leave it out: minibatches come from a new permutation every epoch",
    "initial_epoch": "Leave it out: the attribute `epochs` or `steps` counts over all fits",
    "steps_per_epoch": "Leave it out: an epoch is ⌈examples / batch_size⌉ updates",
    "x": "Pass the examples as the first argument",
    "y": "Pass the targets as the second argument",
    "epochs": "Pass `steps`; ⌊examples / batch_size⌋ of them are an epoch",
    "steps": "Pass `epochs`",
    "optimizer": "Pass it to the trainer itself",
    "loss": "Pass it to the trainer itself, lifted: differentiate(loss)",
    "metrics": "Let the loss return (L, {name: value})",
}
"""Arguments of Keras's `fit` that these trainers lack, and what to do instead."""


def refuse_unknown(method: str, unknown: Mapping[str, object]) -> None:
    """Refuses arguments that a method does not have, with a replacement for those of Keras.

    Raises:
        ValueError: It is an argument of Keras's `fit`.
        TypeError: It is any other argument.
    """
    for name in unknown:
        if name in HABITS:
            raise ValueError(
                f"{method} must be called with its own arguments, not those of Keras's `fit`. "
                f"Received: {name}=…. {HABITS[name]}."
            )
        raise TypeError(f"{method} got an unexpected keyword argument {name!r}")


def check_model(name: str, model: object) -> None:
    """Refuses anything but a Keras model or layer.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"{name} must be a Keras model or layer. Received: {_short(model)}. Pass an object "
            "such as keras.Sequential([...]); for a function of models, use compile_step."
        )


def check_optimizer(name: str, optimizer: object) -> None:
    """Refuses anything but a Keras optimizer.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"{name} must be a Keras optimizer. Received: {_short(optimizer)}. "
            "Pass an object, such as keras.optimizers.Adam(1e-3)."
        )


def check_function(name: str, function: object, *parameters: str) -> None:
    """Refuses anything but None and a function that takes these parameters.

    Raises:
        ValueError: It is something else.
    """
    if function is None:
        return
    if not callable(function):
        raise ValueError(
            f"{name} must be a function. Received: {_short(function)}. Pass one, or leave it out."
        )
    _check_parameters(name, function, parameters)


def _check_parameters(
    name: str, function: Callable[..., object], parameters: Sequence[str]
) -> None:
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):  # a builtin, whose parameters are unknown
        return
    try:
        signature.bind(*parameters)
    except TypeError:
        call = ", ".join(parameters)
        raise ValueError(
            f"{name} must be a function that is called with ({call}). Received: one with the "
            f"parameters {signature!s:.120}. Pass lambda {call}: …."
        ) from None


def check_forward(forward: object) -> None:
    """Refuses a `forward` that cannot compute outputs from inputs.

    Raises:
        ValueError: It cannot be called with one argument, or is a class.
    """
    if not callable(forward) or inspect.isclass(forward):
        raise ValueError(
            "`forward` must be a Keras model or a function of the inputs. Received: "
            f"{_short(forward)}. Pass the model itself, or lambda inputs: …."
        )
    if not isinstance(forward, keras.Layer):
        _check_parameters("`forward`", forward, ["inputs"])


def as_variables(name: str, variables: object) -> list[keras.Variable]:
    """Variables as a list.

    Raises:
        ValueError: They are not Keras variables.
    """
    is_one = isinstance(variables, keras.Layer | keras.Variable | tf.Variable)
    listed = [variables] if is_one or not isinstance(variables, Iterable) else list(variables)
    wrong = [each for each in listed if not isinstance(each, keras.Variable)]
    if is_one or wrong:
        raise ValueError(
            f"`{name}` must be a list of Keras variables. Received: "
            f"{_short(variables if is_one else wrong[0])}. Pass model.trainable_variables, or a "
            "list of keras.Variable."
        )
    return listed


def as_mirror(mirror: object) -> list[keras.Variable]:
    """Mirrored variables as a list.

    Raises:
        ValueError: They are not Keras variables, or not float32.
    """
    mirror = as_variables("mirror", mirror)
    for variable in mirror:
        if variable.dtype != "float32":
            raise ValueError(
                f"`mirror` must hold float32 variables. Received: {variable.path}, "
                f"{variable.dtype}. Leave it out, and read its value."
            )
    return mirror


def check_inspected(inspected: object, variables: Sequence[keras.Variable]) -> None:
    """Refuses a variable that cannot hold the gradient of the variables, `[P]`.

    Raises:
        ValueError: It is not a variable of that shape.
    """
    size = sum(math.prod(variable.shape) for variable in variables)
    if (
        not isinstance(inspected, keras.Variable | tf.Variable)
        or tuple(inspected.shape) != (size,)
        or not tf.as_dtype(inspected.dtype).is_floating
    ):
        raise ValueError(
            f"`gradients` must be a variable of {size:,} floats, one for each parameter. Received: "
            f"{_short(inspected)}. Pass keras.Variable(numpy.zeros({size}, 'float32'))."
        )


def as_updates(updates: object) -> int | tuple[int, int] | None:
    """K, (K, M) or None.

    Raises:
        ValueError: It is something else.
    """
    if updates is None:
        return None
    received = updates if isinstance(updates, tuple) else (updates,)
    is_pair = received is updates
    try:
        counts = [whole("updates", each, 1) for each in received]
    except ValueError:
        counts = []
    if len(counts) != 1 + is_pair:
        raise ValueError(
            "`updates` must be K updates, or (K, M) with M examples for each: whole numbers of at "
            f"least 1. Received: updates={_short(updates)}. Leave it out for one update on all "
            "examples."
        )
    return (counts[0], counts[1]) if is_pair else counts[0]


def check_signature(signature: object, has_rows: bool) -> None:
    """Refuses a signature that does not describe inputs and targets; rows need an axis of examples.

    Raises:
        ValueError: It is such a signature.
    """
    if not isinstance(signature, tuple | list) or len(signature) != 2:
        raise ValueError(
            "A signature must be a pair of nests of tf.TensorSpec, (inputs, targets). Received: "
            f"{_short(signature)}. Pass () for no targets."
        )
    leaves = tf.nest.flatten(signature)
    checks.check_signature(leaves)
    if has_rows and not (leaves and all(leaf.shape.rank and leaf.shape[0] for leaf in leaves)):
        raise ValueError(
            "With updates=(K, M) all inputs and targets must have a first axis of examples. "
            f"Received: {_short(checks.describe(signature))}. Add one, or pass updates=K."
        )


def as_jit_compile(jit_compile: object) -> bool | None:
    """Whether XLA compiles; None for the better choice.

    Raises:
        ValueError: It is neither a bool nor None.
    """
    if not isinstance(jit_compile, bool | np.bool_ | None):
        raise ValueError(
            f"jit_compile must be True, False or None. Received: jit_compile={_short(jit_compile)}."
            " Leave it out for the better choice."
        )
    return None if jit_compile is None else bool(jit_compile)


def check_destination(logdir: object, config: object) -> None:
    """Refuses a log directory that is a file or not a path, and settings without names.

    Raises:
        ValueError: One of them is wrong.
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


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
