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

    def learn(
        self, step: tf.Tensor, change: tf.Tensor, is_taken: tf.Tensor, is_searched: tf.Tensor
    ) -> None:
        """Stores the pair of a step that `is_taken` in place of the oldest, if it curves upwards.

        If it `is_searched` but not taken, all pairs are forgotten.
        """
        curvature = dot(step, change)
        inverse = 1.0 / curvature
        is_usable = (curvature > EPSILON * dot(change, change)) & tf.math.is_finite(inverse)
        pairs = (self.steps, step), (self.changes, change), (self.inverses, inverse)

        def add() -> tf.Tensor:
            for variable, new in pairs:
                variable.assign(tf.concat([variable.value[1:], new[None]], 0))
            return tf.constant(True)

        def forget() -> tf.Tensor:
            for variable, _ in pairs:
                variable.assign(tf.zeros_like(variable.value))
            return tf.constant(True)

        # Branches, because without a change there is nothing to copy.
        tf.cond(is_taken & is_usable, add, lambda: tf.constant(False))
        tf.cond(is_searched & ~is_taken, forget, lambda: tf.constant(False))


def dot(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The inner product of two vectors `[P]`."""
    return tf.tensordot(one, other, 1)
