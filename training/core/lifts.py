"""Lifts of TensorFlow losses: from L(outputs, targets) to `(outputs, targets) -> (L, dL/dy, …)`.

`host_losses.py` holds the lifts of everything else: `given`, `external` and `estimated`.
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

    A Keras loss (an object, a function or a name) is reduced and masked as in `compile`. A loss
    whose parameters are named in Keras's order, such as `(y_true, y_pred)`, is called in that
    order. Targets `[B]` for outputs `[B, 1]`, which would be broadcast to `[B, B]`, are reshaped
    to the outputs' rank.

    A loss that also reads trained variables (a penalty on weights, dy/dx, a second call of the
    model) adds its gradient with respect to them: dL/dθ = (∂L/∂y)ᵀ ∂y/∂θ + ∂L/∂θ.

    Raises:
        ValueError: The loss is not a function of two arguments; from the step: L is not a scalar,
            or does not depend on the outputs.
    """
    return Differentiated(in_our_order(loss, "`differentiate`", reduce=True))


def lifted(loss: Loss | LossGradient | keras.losses.Loss | str) -> LossGradient:
    """Returns a loss gradient as it is, and lifts a loss that is not lifted yet.

    A Keras loss and a TensorFlow function are differentiated. A function that returns tensors
    (L, dL/dy, metrics) is used as a loss gradient.

    Raises:
        ValueError: It is not a loss; from the step: it computes outside TensorFlow.
    """
    if lift_of(loss) is not None:
        return cast("LossGradient", loss)
    if is_keras_loss(loss):
        return differentiate(loss)
    return Differentiated(in_our_order(loss, "a step without a lift"), may_be_lifted=True)


class Differentiated:
    """A loss gradient by a tape, at the outputs and at variables that the loss itself reads.

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
        """L, dL/dy, the metrics, and the gradients at `others` for constant y.

        `others` are the logits behind the outputs, and the trained variables. The gradient is None
        where the loss does not read one.
        """
        targets = self._aligned(outputs, targets)
        with tf.GradientTape() as tape:
            tape.watch((outputs, others))
            result = call(self.loss, outputs, targets)
            if self._is_gradient(result):
                copies = distinct(outputs)
                both = zip(*map(tf.nest.flatten, (outputs, copies)), strict=True)
                if any(one is not other for one, other in both):
                    result = call(self.loss, copies, targets)
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
        """L alone; the outputs may carry Keras's masks and logits."""
        result = call(self.loss, outputs, self._aligned(outputs, targets))
        return result[0] if self._is_gradient(result) else unpacked(result)[0]

    def observe(self, outputs: Nest, targets: Nest) -> tuple[tf.Tensor, None, Metrics]:
        """L as the training computes it, compiled; afterwards variables are as they were."""
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
