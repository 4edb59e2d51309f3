"""Lifts of TensorFlow losses: from L(outputs, targets) to `(outputs, targets) -> (L, dL/dy, …)`.

Those of host functions are in `host_losses.py`: `given`, `external` and `estimated`.
"""

from typing import cast

import keras
import tensorflow as tf

from . import checks
from .compiled import Nest
from .forward import Marks, distinct, gradients_once, marked, marks_of
from .losses import (
    Lift,
    Loss,
    LossGradient,
    Metrics,
    aligned,
    call,
    in_our_order,
    is_keras_loss,
    lift_of,
    must_align,
    unpacked,
)


def differentiate(loss: Loss | keras.losses.Loss | str) -> LossGradient:
    """Lifts a TensorFlow loss `(y, targets) -> L` or `(L, metrics)`: dL/dy by a tape at y.

    A loss of Keras, an object, function or name, is reduced and masked as `compile` does it. One
    whose parameter names say so, as `(y_true, y_pred)`, is called in that order. Targets `[B]` of
    outputs `[B, 1]`, which would be broadcast to `[B, B]`, receive the outputs' rank.

    A loss that also reads trained variables (a penalty on weights, dy/dx, a second call of the
    model) has a gradient of its own there: dL/dθ = (∂L/∂y)ᵀ ∂y/∂θ + ∂L/∂θ.

    Raises:
        ValueError: It is no function of two arguments; from the step: L is not a scalar, or does
            not depend on the outputs.
    """
    return Differentiated(in_our_order(loss, "`differentiate`", reduce=True))


def lifted(loss: Loss | LossGradient | keras.losses.Loss | str) -> LossGradient:
    """The loss gradient itself, or that of a loss that nobody has lifted.

    A loss of Keras and a TensorFlow function are differentiated. A function that returns
    (L, dL/dy, metrics) as tensors is a loss gradient.

    Raises:
        ValueError: It is no loss; from the step: it computes outside TensorFlow.
    """
    if lift_of(loss) is not None:
        return cast("LossGradient", loss)
    if is_keras_loss(loss):
        return differentiate(loss)
    return Differentiated(in_our_order(loss, "a step without a lift"), may_be_lifted=True)


class Differentiated:
    """A loss gradient by a tape: of the outputs, and of variables that the loss reads itself.

    Attributes:
        loss: The TensorFlow loss, called as `(outputs, targets)`.
    """

    lift: Lift = "differentiate"

    def __init__(self, loss: Loss | LossGradient, *, may_be_lifted: bool = False) -> None:
        self.loss, self._may_be_lifted = loss, may_be_lifted
        self._aligns: dict[str, bool] = {}  # by shapes
        self._observed = tf.function(self._of_marked, autograph=False)

    def __call__(self, outputs: Nest, targets: Nest) -> tuple[tf.Tensor, Nest, Metrics]:
        """L, dL/dy and the metrics."""
        return self.with_direct(distinct(outputs), targets, ((), ()))[:3]

    def with_direct(
        self, outputs: Nest, targets: Nest, others: tuple[Nest, Nest]
    ) -> tuple[tf.Tensor, Nest, Metrics, tuple[Nest, Nest]]:
        """L, dL/dy, the metrics, and the gradients of `others` at constant y.

        These are logits behind the outputs, and trained variables; None stands for the gradient of
        what the loss does not read.
        """
        targets = self._aligned(outputs, targets)
        with tf.GradientTape() as tape:
            tape.watch((outputs, others))
            result = call(self.loss, outputs, targets)
            if self._is_gradient(result):
                apart = distinct(outputs)
                both = zip(*map(tf.nest.flatten, (outputs, apart)), strict=True)
                if any(one is not other for one, other in both):
                    result = call(self.loss, apart, targets)
                return *result, tf.nest.map_structure(lambda _: None, others)
            value, metrics = unpacked(result)
        seeds, direct = gradients_once(tape, value, (outputs, others))
        hidden, of_variables = (
            any(g is not None for g in tf.nest.flatten(each)) for each in direct
        )
        if not hidden:
            checks.check_loss(value, seeds, outputs, of_variables)
        return value, seeds, metrics, direct

    def value(self, outputs: Nest, targets: Nest) -> tf.Tensor:
        """L alone; outputs may bear Keras's masks and logits."""
        result = call(self.loss, outputs, self._aligned(outputs, targets))
        return result[0] if self._is_gradient(result) else unpacked(result)[0]

    def observe(self, outputs: Nest, targets: Nest) -> tuple[tf.Tensor, None, Metrics]:
        """L as the training computes it, compiled; what the loss assigns (seeds) is undone."""
        arguments = outputs, targets, marks_of(outputs)
        compiled = self._observed.get_concrete_function(*arguments)
        before = [(variable, variable.read_value()) for variable in compiled.graph.variables]
        try:
            return compiled(*arguments), None, {}
        finally:
            for variable, value in before:
                variable.assign(value)

    def _of_marked(self, outputs: Nest, targets: Nest, marks: list[Marks]) -> tf.Tensor:
        with keras.StatelessScope():
            return self.value(marked(outputs, marks), targets)

    def _aligned(self, outputs: Nest, targets: Nest) -> Nest:
        key = str(tf.nest.map_structure(lambda leaf: (leaf.shape, leaf.dtype), (outputs, targets)))
        if key not in self._aligns:
            self._aligns[key] = must_align(self.loss, outputs, targets)
        return aligned(outputs, targets) if self._aligns[key] else targets

    def _is_gradient(self, result: object) -> bool:
        return self._may_be_lifted and isinstance(result, tuple) and len(result) == 3
