"""The objective of a step at weights that its optimizer chooses, traced once.

Legend: P parameters over all variables.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from ..core import checks
from ..core.compiled import is_random
from ..core.optimizers import join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.compiled import Nest
    from ..core.objective import Objective


class Place(NamedTuple):
    """Weights, and what was evaluated there."""

    weights: tf.Tensor
    """`[P]`."""
    gradient: tf.Tensor
    """dL/dθ, `[P]`."""
    metrics: tf.Tensor
    """All of them, flat."""
    states: list[tf.Tensor]
    """What layers would assign."""


class Stock:
    """What evaluators of a step share, because variables outlast the traces that use them."""

    def __init__(self) -> None:
        self.unscaled = keras.optimizers.SGD()
        """An optimizer that scales no loss."""
        self._metrics = {0: _zeros(0)}

    def metrics_of(self, count: int) -> keras.Variable:
        """A variable for so many numbers."""
        if count not in self._metrics:
            with tf.init_scope():  # now, even if a trace asks for it
                self._metrics[count] = _zeros(count)
        return self._metrics[count]


def _zeros(count: int) -> keras.Variable:
    return keras.Variable(np.zeros(count, np.float32), trainable=False, name="metrics")


class Evaluator:
    """Evaluates the objective of a step within its trace; moves the variables as it does.

    Args:
        objective: The objective.
        inputs: Of the step.
        targets: Of the step.
        stock: What outlasts traces.
        reserved: Names that no metric of the loss may have.

    Attributes:
        last: A variable for metrics that outlast an update.

    Raises:
        ValueError: The objective differs from call to call, or is computed in float16.
    """

    def __init__(
        self,
        objective: Objective,
        inputs: Nest,
        targets: Nest,
        stock: Stock,
        reserved: Sequence[str],
    ) -> None:
        self._variables = objective.variables
        self._sizes = [math.prod(variable.shape) for variable in self._variables]
        self._names: list[tuple[str, tuple[int, ...]]] = []
        self._states: list[keras.Variable] = []
        trained = {id(variable) for variable in self._variables}

        def evaluate(weights: tf.Tensor) -> tuple[tf.Tensor, Place]:
            self.assign(weights)
            loss, metrics, _, gradients, scope = objective.evaluate(inputs, targets, stock.unscaled)
            if scope.loss_scale is not None:
                raise ValueError(
                    "A model that a line search trains must compute in float32. Received: one that "
                    "computes in float16, whose rounding looks like noise. Leave out the policy "
                    "mixed_float16, or use an optimizer such as Adam."
                )
            checks.check_names(metrics, reserved, "its optimizer")
            self._names[:] = [(n, tuple(np.shape(value))) for n, value in metrics.items()]
            flat = [tf.cast(value, tf.float32) for value in metrics.values()]
            states = [(v, value) for v, value in scope.states.values() if id(v) not in trained]
            self._states[:] = [variable for variable, _ in states]
            gradient = tf.ensure_shape(join(gradients), [sum(self._sizes)])
            values = [tf.cast(value, v.dtype) for v, value in states]
            return loss, Place(weights, gradient, join([*flat, tf.zeros([0])]), values)

        signature = [tf.TensorSpec([sum(self._sizes)])]
        function = tf.function(evaluate, input_signature=signature, autograph=False)
        self._function = function.get_concrete_function()
        if is_random(self._function.graph):
            raise ValueError(
                "A loss that a line search minimises must be the same in every evaluation. "
                "Received: one with random numbers, such as Dropout's. Set the rate of such layers "
                "to 0, or use an optimizer such as Adam."
            )
        count = sum(math.prod(shape) for _, shape in self._names)
        self.last = stock.metrics_of(count)

    def __call__(self, weights: tf.Tensor) -> tuple[tf.Tensor, Place]:
        """The loss and the place; the variables have these weights now."""
        loss, place = self._function(weights)
        return loss, Place(*place)

    def current(self) -> tf.Tensor:
        """The weights of the variables, `[P]`."""
        return join([tf.identity(variable.value) for variable in self._variables])

    def blank(self, weights: tf.Tensor) -> Place:
        """A place where nothing was evaluated."""
        _, place = self._function.structured_outputs
        zeros = [tf.zeros(each.shape, each.dtype) for each in place[3]]
        return Place(weights, tf.zeros_like(weights), tf.zeros_like(self.last.value), zeros)

    def assign(self, weights: tf.Tensor) -> None:
        """Sets the variables."""
        pieces = tf.split(weights, self._sizes)
        for variable, piece in zip(self._variables, pieces, strict=True):
            variable.assign(tf.reshape(piece, variable.shape))

    def assign_states_if(self, condition: tf.Tensor, place: Place) -> None:
        """Sets the states of layers to those of a place."""
        for variable, value in zip(self._states, place.states, strict=True):
            variable.assign(tf.where(condition, value, variable.value))

    def metrics(self, place: Place) -> dict[str, tf.Tensor]:
        """The metrics at a place, by name."""
        sizes = [math.prod(shape) for _, shape in self._names]
        pieces = tf.split(place.metrics, sizes) if sizes else []
        named = zip(self._names, pieces, strict=True)
        return {name: tf.reshape(piece, shape) for (name, shape), piece in named}
