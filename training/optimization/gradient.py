"""The loss of a Keras model and its gradient, as a compiled function that changes nothing.

Legend: P parameters over all variables.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from ..common.uncopied import Uncopied
from ..core.objective import Objective
from ..core.optimizers import global_norm, join
from ..core.step import Update, compile_updates
from ..core.table import DONE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..core.compiled import Nest
    from ..core.losses import LossGradient
    from ..core.step import Step


def compile_gradient(
    forward: Callable[[Nest], Nest],
    loss_gradient: LossGradient,
    variables: Sequence[keras.Variable],
    signature: tuple[Nest, ...],
    *,
    prepare: Callable[[Nest, Nest], tuple[Nest, Nest]] | None = None,
    jit_compile: bool | None = None,
) -> GradientFunction:
    """Compiles `(L, (∂L/∂y)ᵀ ∂y/∂θ)` into one call that changes no variable.

    The mathematics is that of `compile_step` before its optimizer: penalties are part of the loss
    and of the gradient, models are called with `training=True`, and the variables are read anew in
    every call. What layers would assign is dropped: BatchNorm keeps its averages, and a Dropout
    with its seed in the model drops the same units in every call, so the loss is one function of
    the weights, as an optimizer of another library needs it.

    Args:
        forward: As in `compile_step`.
        loss_gradient: As in `compile_step`.
        variables: The variables to differentiate by; each must receive a gradient.
        signature: As in `compile_step`.
        prepare: As in `compile_step`.
        jit_compile: XLA or a graph; by default a graph.

    Returns:
        `f(inputs, targets) -> (metrics, gradients)`. `metrics` are `loss`, `grad_norm` (‖dL/dθ‖₂)
        and those of `compile_step`; `gradients` are float32 arrays, shaped like the variables and
        in their order. Where the model computes in float16, the loss is multiplied by 2¹⁵ in
        between.

    Raises:
        ValueError: As in `compile_step`.
    """
    objective = Objective(forward, loss_gradient, variables)
    size = sum(math.prod(variable.shape) for variable in objective.variables)
    vector = keras.Variable(np.zeros(size, np.float32), trainable=False, name="gradient")  # [P]
    unscaling = keras.optimizers.SGD()  # none is used; but one tells how a loss is scaled

    def update(inputs: Nest, targets: Nest) -> dict[str, tf.Tensor]:
        loss, metrics, _, gradients, _ = objective.evaluate(inputs, targets, unscaling)
        vector.assign(join(gradients))
        # Numbers that are not finite are no error where nothing changes.
        return {
            "status": tf.constant(DONE),
            "loss": loss,
            "grad_norm": global_norm(gradients),
            **metrics,
        }

    step = compile_updates(
        Update(update, [], {}, objective.hosts), signature, None, [vector], jit_compile, prepare
    )
    return GradientFunction(step, [tuple(variable.shape) for variable in objective.variables])


class GradientFunction(Uncopied):
    """A compiled loss with its gradient, as `compile_gradient` returns it."""

    def __init__(self, step: Step, shapes: Sequence[tuple[int, ...]]) -> None:
        self._step, self._shapes = step, shapes
        self._cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def __call__(self, inputs: Nest, targets: Nest) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The loss and other metrics, and dL/dθ of each variable, at the current weights.

        Numbers that are not finite are returned as they are.

        Raises:
            ValueError: The arrays differ from the signature.
        """
        metrics = self._step(inputs, targets)
        pieces = np.split(self._step.weights[0], self._cuts)
        return metrics, [
            piece.reshape(shape) for piece, shape in zip(pieces, self._shapes, strict=True)
        ]

    def _instead_of_copying(self) -> str:
        return "Copy the models alone, and compile another gradient of the copies."
