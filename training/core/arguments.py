"""Arguments of the core and of both trainers of Keras models, checked before anything is trained.

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


def refuse_unknown(method: str, unknown: Mapping[str, object]) -> None:
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


def check_model(name: str, model: object) -> None:
    """Refuses what is no Keras model or layer.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"{name} must be a Keras model or layer. Received: {_short(model)}. Pass an object "
            "such as keras.Sequential([...]); for a function of models there is compile_step."
        )


def check_optimizer(name: str, optimizer: object) -> None:
    """Refuses what is no optimizer of Keras.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"{name} must be a Keras optimizer. Received: {_short(optimizer)}. "
            "Pass an object, such as keras.optimizers.Adam(1e-3)."
        )


def check_function(name: str, function: object, *parameters: str) -> None:
    """Refuses what cannot be called with so many arguments; None is left.

    Raises:
        ValueError: It cannot.
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
    except (TypeError, ValueError):  # a builtin: nothing is known of its parameters
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
    """Refuses what computes no outputs from inputs.

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
        ValueError: They are no variables of Keras.
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
        ValueError: They are no variables of Keras, or of another type than float32.
    """
    mirror = as_variables("mirror", mirror)
    for variable in mirror:
        if variable.dtype != "float32":
            raise ValueError(
                f"`mirror` must hold float32 variables. Received: {variable.path}, "
                f"{variable.dtype}. Leave it out, and read its value."
            )
    return mirror


def check_kept(kept: object, variables: Sequence[keras.Variable]) -> None:
    """Refuses what cannot keep the gradient of the variables, `[P]`.

    Raises:
        ValueError: It is no variable of that shape.
    """
    size = sum(math.prod(variable.shape) for variable in variables)
    if (
        not isinstance(kept, keras.Variable | tf.Variable)
        or tuple(kept.shape) != (size,)
        or not tf.as_dtype(kept.dtype).is_floating
    ):
        raise ValueError(
            f"`gradients` must be a variable of {size:,} floats, one for each parameter. Received: "
            f"{_short(kept)}. Pass keras.Variable(numpy.zeros({size}, 'float32'))."
        )


def as_updates(updates: object) -> int | tuple[int, int] | None:
    """K, (K, M) or None.

    Raises:
        ValueError: It is none of these.
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
    """Refuses what does not describe inputs and targets; with rows, all have an axis of examples.

    Raises:
        ValueError: It does not.
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
            f"Received: {_short(checks.describe(signature))}. Give them one, or pass updates=K."
        )


def as_jit_compile(jit_compile: object) -> bool | None:
    """Whether XLA compiles; None for what suits the step.

    Raises:
        ValueError: It is neither a truth value nor None.
    """
    if not isinstance(jit_compile, bool | np.bool_ | None):
        raise ValueError(
            f"jit_compile must be True, False or None. Received: jit_compile={_short(jit_compile)}."
            " Leave it out for what suits the step."
        )
    return None if jit_compile is None else bool(jit_compile)


def check_destination(logdir: object, config: object) -> None:
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


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
