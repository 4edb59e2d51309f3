"""A compiled function called at its floor: flat arguments in, one vector out, captures bound once.

Nothing here knows about learning. `Compiled` takes the place of a `tf.function` call, whose Python
side (binding arguments, looking up captures) costs more than a small update's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

Nest = Any
"""A tensor, or tuples, lists and dicts of them (`tf.nest`)."""


class Compiled:
    """`function(*nests) -> one float32 vector`, traced once for a fixed signature.

    Calls take arrays that match the signature and return the vector as a NumPy array. The
    variables that the function reads must outlive it; its closure holds them here.

    Raises:
        ValueError: On a call whose arrays differ from the signature in structure, shape or kind.
    """

    def __init__(
        self, function: Callable[..., Nest], signature: tuple[Nest, ...], *, jit_compile: bool
    ) -> None:
        self._signature = signature
        leaves = tf.nest.flatten(signature)
        for leaf in leaves:
            if not (isinstance(leaf, tf.TensorSpec) and leaf.shape.is_fully_defined()):
                raise ValueError(
                    "A signature must hold tf.TensorSpecs of known shape. "
                    f"Received: {leaf!r:.80}. Give every axis its length, the batch too."
                )
        self._leaves = [(tuple(leaf.shape), leaf.dtype.as_numpy_dtype) for leaf in leaves]

        def flat(*arguments: tf.Tensor) -> tf.Tensor:
            return function(*tf.nest.pack_sequence_as(signature, arguments))

        body = _concrete(flat, leaves, jit_compile=jit_compile)
        if jit_compile:
            # The call op below ignores jit_compile on the function it is given, so the XLA
            # function sits one level further down.
            inner = body
            body = _concrete(lambda *arguments: inner(*arguments), leaves, jit_compile=False)
            self._inner = inner
        # critical: the op holds neither the function nor its captured variables alive.
        self._alive = (function, body)
        self._body, self._captures = body, list(body.captured_inputs)

    def __call__(self, *arguments: Nest) -> np.ndarray:
        """Runs the function on arrays that match the signature."""
        flat = [
            array
            if type(array) is np.ndarray and array.dtype == dtype and array.shape == shape
            else self._fit(index, array, arguments)
            for index, (array, (shape, dtype)) in enumerate(
                zip(self._flatten(arguments), self._leaves, strict=True)
            )
        ]
        (vector,) = tf.raw_ops.StatefulPartitionedCall(
            args=[*flat, *self._captures], Tout=[tf.float32], f=self._body
        )
        return vector.numpy()

    def _flatten(self, arguments: tuple[Nest, ...]) -> list[Any]:
        try:
            tf.nest.assert_same_structure(self._signature, arguments)
        except (ValueError, TypeError) as error:
            raise ValueError(
                "Arguments must have the structure of the signature, "
                f"{describe(self._signature)}. Received: {describe(arguments)}. "
                "Pass the same tuples, lists and dict keys."
            ) from error
        return tf.nest.flatten(arguments)

    def _fit(self, index: int, array: Any, arguments: tuple[Nest, ...]) -> np.ndarray:
        """Casts within a kind (float64 to float32, int to float); everything else is an error."""
        shape, dtype = self._leaves[index]
        received = np.asarray(array)
        if received.shape != shape or not np.can_cast(received.dtype, dtype, "same_kind"):
            raise ValueError(
                f"Argument {index} of the call must be {np.dtype(dtype)}{list(shape)} as in the "
                f"signature. Received: {received.dtype}{list(received.shape)}. Reshape or cast it, "
                "or compile a second step for the other signature."
            )
        return received.astype(dtype)


def _concrete(function: Callable[..., Any], leaves: list[tf.TensorSpec], *, jit_compile: bool):
    return tf.function(
        function, input_signature=leaves, jit_compile=jit_compile, autograph=False
    ).get_concrete_function()


def describe(nest: Nest) -> Any:
    """A nest with every leaf replaced by `dtype[shape]`."""

    def leaf(value: Any) -> str:
        if isinstance(value, tf.TensorSpec | tf.Tensor):
            return f"{value.dtype.name}{value.shape.as_list()}"
        value = np.asarray(value)
        return f"{value.dtype}{list(value.shape)}"

    return tf.nest.map_structure(leaf, nest)
