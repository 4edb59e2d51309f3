"""Sharpness-aware minimisation around any Keras optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

from ..common.plain import number_or_none
from ..core import arguments
from ..core.gradients import update_by_keras
from ..core.losses import lift_of
from ..core.objective import Evaluation, Objective
from ..core.optimizers import finalize, global_norm
from .host_rows import HostRows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

    from ..core.compiled import Nest
    from ..core.step import Update


class SAM:
    """Lets a Keras optimizer descend along the gradient at the worst weights nearby.

        ε = ρ·∇L(θ)/‖∇L(θ)‖₂,    θ ← optimizer(θ, ∇L(θ + ε))

    This prefers flat minima, which often generalise better. An update evaluates the loss twice, on
    the same examples and with the same units dropped by Dropout. `loss` and the metrics are those
    at θ, `grad_norm` is ‖∇L(θ + ε)‖₂, which the optimizer clips. BatchNorm's averages move once,
    with the statistics at θ. Pass it to `compile_step` or `Regression` as the optimizer. A number
    that is not finite, in either evaluation, refuses the update.

    Source: Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", equations 2 and 3.

    Args:
        optimizer: Any Keras optimizer that is used for nothing else. It remains an ordinary one:
            set its learning rate, and save it with Keras.
        rho: ρ, in the units of the weights.

    Attributes:
        optimizer: The optimizer.

    Raises:
        ValueError: It is not an optimizer of Keras, or ρ is not a number above 0; from
            `compile_step`: the loss is `given`, which has no gradient at other weights.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, rho: float = 0.05) -> None:
        arguments.check_optimizer("The optimizer of SAM", optimizer)
        radius = number_or_none("rho", rho)
        if radius is None or radius <= 0:
            raise ValueError(
                f"rho must be a number above 0. Received: rho={rho!r:.40}. Pass 0.05, or leave SAM "
                "out."
            )
        self.optimizer, self._rho = optimizer, radius

    def get_config(self) -> Mapping[str, object]:
        """The settings, with those of the optimizer."""
        inner = {**self.optimizer.get_config(), "name": type(self.optimizer).__name__}
        return {"rho": self._rho, "optimizer": inner}

    @property
    def variables(self) -> list[keras.Variable]:
        """Those of the optimizer."""
        return list(self.optimizer.variables)

    def finalize(self) -> None:
        """Copies the optimizer's averages (`use_ema`) into the variables."""
        finalize(self.optimizer)

    def make_update(self, objective: Objective, minibatches: bool) -> Update:
        """The update of `compile_step`.

        Raises:
            ValueError: The loss is `given`.
        """
        if lift_of(objective.loss_gradient) == "given":
            raise ValueError(
                "SAM must have the gradient at other weights than the current ones. Received: "
                "`given`, a gradient at one point. Use the optimizer that it holds, or `external`."
            )
        update = update_by_keras(_Worst(objective, self._rho), self.optimizer, None)
        # It is a turn, so that the weights are restored if the second evaluation raises.
        return update._replace(turns=[type(self).__name__])


class _Worst(Objective):
    """An objective whose gradient is that at θ + ε."""

    def __init__(self, objective: Objective, rho: float) -> None:
        super().__init__(objective.forward, objective.loss_gradient, objective.variables)
        self._rho, self._rows = rho, HostRows(self.host)

    def evaluate(
        self,
        inputs: Nest,
        targets: Nest,
        optimizer: keras.optimizers.Optimizer,
        dense: bool = True,
    ) -> Evaluation:
        """Loss, metrics and states at θ, and the gradient at θ + ε; θ is restored."""
        here = super().evaluate(inputs, targets, optimizer)
        before = [tf.identity(variable.value) for variable in self.variables]
        norm = global_norm(here.unscaled)
        is_usable = tf.math.is_finite(norm) & (norm > 0)  # else both evaluations are at θ
        scale = self._rho / norm
        for variable, value, gradient in zip(self.variables, before, here.unscaled, strict=True):
            moved = value + tf.cast(scale * gradient, value.dtype)
            variable.assign(tf.where(is_usable, moved, value))
        there = super().evaluate(inputs, targets, optimizer, dense)
        self._rows.settle(tf.constant(2), tf.constant(True), tf.constant(-1))
        for variable, value in zip(self.variables, before, strict=True):
            variable.assign(value)
        loss = tf.where(tf.math.is_finite(there.loss), here.loss, there.loss)
        return Evaluation(loss, here.metrics, there.gradients, there.unscaled, here.scope)
