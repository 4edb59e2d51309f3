"""Converts the examples that a fit receives, and checks them before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ..core.compiled import Nest

ADVICE = "Pass NumPy arrays, or dicts, tuples or lists of them"


def as_examples(nest: Nest, what: str, *, as_given: bool = False) -> Nest:
    """Arrays `[B, ...]` for a model or a loss; floating-point numbers become Keras's floatx.

    Args:
        nest: Arrays, tensors, data frames; or dicts, tuples or lists of them.
        what: "inputs" or "targets", for error messages.
        as_given: Whether to leave every dtype as it is, also times and objects, for host losses.

    Raises:
        ValueError: A part is not an array of numbers, bools or strings, has no axis of examples,
            has masked entries, or has numbers that floatx cannot represent.
    """
    try:
        return tf.nest.map_structure(lambda leaf: _as_array(leaf, what, as_given), nest)
    except TypeError as error:  # a dict has keys that cannot be sorted
        raise ValueError(
            f"The {what} must be nested in dicts with names as keys, tuples and lists. "
            f"Received: {type(nest).__name__} ({error}). {ADVICE}."
        ) from None


def check_inputs(model: keras.Layer, inputs: Nest) -> None:
    """Refuses strings and complex numbers for a model that declares its inputs as real numbers.

    TensorFlow refuses strings late, and reduces complex numbers to their real parts.
    """
    declared = [str(tensor.dtype) for tensor in getattr(model, "inputs", None) or ()]
    kinds = {array.dtype.kind for array in tf.nest.flatten(inputs)}
    if declared and "string" not in declared and kinds & set("SUOc"):
        received = [str(array.dtype) for array in tf.nest.flatten(inputs)]
        raise ValueError(
            f"The inputs must be real numbers, as the model's are ({', '.join(declared)}). "
            f"Received: {', '.join(received)}. Convert strings with `array.astype('float32')`, and "
            "complex numbers to two features each, `array.real` and `array.imag`."
        )


def as_pair(validation: object, *, as_given: bool = False) -> tuple[Nest, Nest]:
    """The inputs and targets of a validation, converted as by `as_examples`.

    Raises:
        ValueError: They are not a pair, or not examples.
    """
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        received = f"{type(validation).__name__}"
        if isinstance(validation, tuple | list):
            received += f" of {len(validation)}"
        raise ValueError(
            "`validation` must be a pair, (inputs, targets). "
            f"Received: {received}. Pass two arrays or nests of arrays; weights of examples "
            "belong to the targets, where the loss finds them."
        )
    inputs, targets = validation
    pair = (
        as_examples(inputs, "validation's inputs"),
        as_examples(targets, "validation's targets", as_given=as_given),
    )
    counts = {array.shape[0] for array in tf.nest.flatten(pair)}
    if len(counts) != 1 or counts == {0} or not tf.nest.flatten(pair[0]):
        raise ValueError(
            "`validation` must hold equally many examples in its inputs and targets, at least one. "
            f"Received: {sorted(counts)} examples. Pass equally long arrays, or leave it out."
        )
    return pair


def _as_array(leaf: ArrayLike, what: str, as_given: bool) -> np.ndarray:
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
        masked = int(np.ma.getmaskarray(leaf).sum())
        raise ValueError(
            f"The {what} must not have masked entries, which training would see. Received: "
            f"{masked} masked of {leaf.size}. Pass `array.filled(value)`, and the mask as one "
            "more target for the loss."
        )
    try:
        array = np.asarray(leaf)
    except Exception:  # ragged and other special tensors raise many kinds of errors
        array = np.asarray(None)
    if array.ndim == 0:
        raise ValueError(
            f"The {what} must be arrays whose first axis counts the examples. "
            f"Received: {_short(leaf)}. {ADVICE}; for a list of numbers, `numpy.asarray(numbers)`; "
            "for a dataset or generator, its batches joined by `numpy.concatenate`."
        )
    if as_given:
        return array
    if not _is_known(array):
        raise ValueError(
            f"The {what} must be arrays of numbers, bools or strings. "
            f"Received: {array.dtype}{list(array.shape)}. "
            "Convert them, with `array.astype('float32')` for instance; a loss that is lifted by "
            "`external` or `estimated` receives such targets unchanged."
        )
    floatx = keras.config.floatx()
    if not _is_floating(array) or array.dtype == floatx:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(floatx)
    if array.dtype.itemsize > converted.dtype.itemsize:
        lost = np.isinf(converted) & np.isfinite(array)
        if lost.any():
            row = tuple(np.argwhere(lost)[0].tolist())
            raise ValueError(
                f"The {what} must fit {floatx}, whose largest number is "
                f"{np.finfo(floatx).max:.4g}. Received: {array[row]:.4g} in example {row[0]}. "
                "Scale them, by their standard deviation for instance."
            )
    return converted


def dtype_of(array: np.ndarray) -> tf.DType:
    """The dtype for a signature: `tf.string` if TensorFlow has no such dtype."""
    try:
        return tf.as_dtype(array.dtype)
    except TypeError:
        return tf.string


def _is_known(array: np.ndarray) -> bool:
    if array.dtype.kind == "O":  # the only objects that TensorFlow takes are strings
        return all(isinstance(value, str | bytes) for value in array.flat)
    return array.dtype.kind in "biufcSU" or _is_floating(array)


def _is_floating(array: np.ndarray) -> bool:
    """Whether an array holds floating-point numbers, including bfloat16."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _short(leaf: object) -> str:
    text = " ".join(repr(leaf).split())
    return text if len(text) <= 80 else f"{text[:80]}…"
