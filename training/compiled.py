"""A compiled function called at its floor: flat arguments in, one vector out, captures bound once.

Nothing here knows about learning. `Compiled` takes the place of a `tf.function` call, whose Python
side (binding arguments, looking up captures) costs more than a small update's arithmetic.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from . import checks

Nest = Any
"""A tensor, or tuples, lists and dicts of them (`tf.nest`)."""


class Compiled:
    """`function(*nests) -> one float32 vector`, traced once for a fixed signature.

    Calls take arrays that match the signature and return the vector as a tensor. The variables that
    the function reads must outlive it; its closure holds them here.

    Raises:
        ValueError: On a call whose arrays differ from the signature in structure, shape or kind.
    """

    def __init__(
        self, function: Callable[..., Nest], signature: tuple[Nest, ...], *, jit_compile: bool
    ) -> None:
        self._signature = signature
        leaves = tf.nest.flatten(signature)
        checks.check_signature(leaves)
        self._leaves = [(tuple(leaf.shape), leaf.dtype.as_numpy_dtype) for leaf in leaves]

        def flat(*arguments: tf.Tensor) -> tf.Tensor:
            return function(*tf.nest.pack_sequence_as(signature, arguments))

        inner = body = _concrete(flat, leaves, jit_compile=jit_compile)
        if jit_compile:
            # The call op below ignores jit_compile on the function it is given, so the XLA
            # function sits one level further down.
            body = _concrete(lambda *arguments: inner(*arguments), leaves, jit_compile=False)
        # critical: the op holds neither the function nor its captured variables alive.
        self._alive = (function, body, inner)
        self._body, self._captures = body, list(body.captured_inputs)

    def __call__(self, *arguments: Nest) -> tf.Tensor:
        """Runs the function on arrays that match the signature."""
        try:
            tf.nest.assert_same_structure(self._signature, arguments)
        except (ValueError, TypeError):
            raise checks.structure_error(self._signature, arguments) from None
        flat = [
            array
            if type(array) is np.ndarray and array.dtype == dtype and array.shape == shape
            else checks.fit(index, array, shape, dtype)
            for index, (array, (shape, dtype)) in enumerate(
                zip(tf.nest.flatten(arguments), self._leaves, strict=True)
            )
        ]
        (vector,) = tf.raw_ops.StatefulPartitionedCall(
            args=[*flat, *self._captures], Tout=[tf.float32], f=self._body
        )
        return vector


def _concrete(function: Callable[..., Any], leaves: list[tf.TensorSpec], *, jit_compile: bool):
    return tf.function(
        function, input_signature=leaves, jit_compile=jit_compile, autograph=False
    ).get_concrete_function()
