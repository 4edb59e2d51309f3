"""What L-BFGS remembers: pairs of steps and changes of the gradient, and the last point.

Legend: P parameters over all variables, m pairs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Sequence

EPSILON = float(np.finfo(np.float32).eps)


class Memory:
    """The pairs (s, y) with ρ = 1/sᵀy, oldest first, and loss and gradient where they ended.

    A pair that is missing holds zeros, with which the recursion changes nothing.

    Attributes:
        kept: The variables that a later session needs.
        is_current: Whether loss and gradient are those of the current weights and examples, which
            may have changed before each call.
    """

    is_used = True

    def __init__(self, variables: Sequence[keras.Variable], pairs: int) -> None:
        size = sum(math.prod(variable.shape) for variable in variables)
        self._of = [id(variable) for variable in variables]
        self._paths = [variable.path for variable in variables]

        def variable(name: str, *shape: int, dtype: str = "float32") -> keras.Variable:
            return keras.Variable(np.zeros(shape), trainable=False, dtype=dtype, name=name)

        with tf.device(variables[0].value.device):
            self.steps = variable("steps", pairs, size)  # s
            self.changes = variable("changes", pairs, size)  # y
            self.inverses = variable("inverses", pairs)  # ρ
            self.gradient = variable("gradient", size)
            self.loss = variable("loss")
            self.is_stalled = variable("is_stalled", dtype="bool")
            self.is_current = variable("is_current", dtype="bool")
        self.kept = [
            self.steps,
            self.changes,
            self.inverses,
            self.gradient,
            self.loss,
            self.is_stalled,
        ]

    def check(self, variables: Sequence[keras.Variable]) -> None:
        """Refuses other variables than those of the history.

        Raises:
            ValueError: They are others.
        """
        if [id(variable) for variable in variables] != self._of:
            raise ValueError(
                "An LBFGS must be used with the variables it was first used for. Received: "
                f"{', '.join(v.path for v in variables)!s:.300}, after "
                f"{', '.join(self._paths)!s:.300}. Use one for each set of variables."
            )

    def open(self) -> None:
        """Before a call: the weights and the examples may be others."""
        tf.raw_ops.AssignVariableOp(resource=self.is_current.value.handle, value=False)

    def close(self) -> None:
        """After a call."""

    @property
    def has_pairs(self) -> tf.Tensor:
        """Whether there is a pair."""
        return self.inverses.value[-1] > 0

    def times_inverse_hessian(self, gradient: tf.Tensor) -> tf.Tensor:
        """H·g, `[P]`, by the two-loop recursion; g without pairs.

        Source: Nocedal & Wright 2006, algorithm 7.4, with γ = sᵀy/yᵀy of (7.20).
        """
        pairs = [tf.unstack(each.value) for each in (self.steps, self.changes, self.inverses)]
        q, alphas = gradient, []
        for s, y, rho in reversed(list(zip(*pairs, strict=True))):
            alphas.append(rho * dot(s, q))
            q -= alphas[-1] * y
        newest = pairs[1][-1]
        gamma = 1.0 / (pairs[2][-1] * dot(newest, newest))
        r = tf.where(self.has_pairs, gamma, 1.0) * q
        for s, y, rho in zip(*pairs, strict=True):
            r += (alphas.pop() - rho * dot(y, r)) * s
        return r

    def add_if(self, adds: tf.Tensor, step: tf.Tensor, change: tf.Tensor) -> None:
        """Stores a pair in place of the oldest one, if `adds` and its curvature is positive."""
        curvature = dot(step, change)
        inverse = 1.0 / curvature
        adds &= (curvature > EPSILON * dot(change, change)) & tf.math.is_finite(inverse)
        for variable, new in (
            (self.steps, step),
            (self.changes, change),
            (self.inverses, inverse),
        ):
            old = variable.value
            variable.assign(tf.where(adds, tf.concat([old[1:], new[None]], 0), old))

    def forget_if(self, forgets: tf.Tensor) -> None:
        """Forgets all pairs."""
        for variable in (self.steps, self.changes, self.inverses):
            variable.assign(tf.where(forgets, tf.zeros_like(variable.value), variable.value))


def dot(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The inner product of two vectors `[P]`."""
    return tf.tensordot(one, other, 1)
