"""The objective of a step: L(f(x; θ)) plus penalties, as a function of the trained variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf

from . import arguments, checks
from .forward import Scope, differentiated
from .host_losses import Host, host_of
from .lifts import lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras

    from .compiled import Nest
    from .losses import LossGradient, Metrics
    from .optimizers import Gradient


class Evaluation(NamedTuple):
    """The objective and its gradient at the current weights; nothing is assigned."""

    loss: tf.Tensor
    """L with the penalties, `[]`."""
    metrics: Metrics
    """Those of the loss, and `penalty` if there are penalties."""
    gradients: list[Gradient]
    """dL/dθ of each variable, scaled as the optimizer expects it."""
    unscaled: list[tf.Tensor]
    """The same in float32, without any scale."""
    scope: Scope
    """What the forward pass would assign, and the values that it used."""

    @property
    def states(self) -> list[tuple[keras.Variable, tf.Tensor]]:
        """What layers would assign (BatchNorm, Dropout), and the values."""
        return list(self.scope.states.values())


class Objective:
    """A forward function, a loss of its outputs, and the variables to train.

    Attributes:
        forward: Maps inputs to outputs.
        loss_gradient: The lifted loss.
        variables: The variables to train, each once.

    Raises:
        ValueError: As in `compile_step`.
    """

    def __init__(
        self,
        forward: Callable[[Nest], Nest],
        loss_gradient: LossGradient,
        variables: Sequence[keras.Variable],
    ) -> None:
        self.loss_gradient = lifted(loss_gradient)
        arguments.check_forward(forward)
        self.forward = forward
        listed = arguments.as_variables("variables", variables)
        self.variables = list({id(variable): variable for variable in listed}.values())
        checks.check_variables(self.variables)

    @property
    def host(self) -> Host | None:
        """The host's side of a loss outside TensorFlow."""
        return host_of(self.loss_gradient)

    def evaluate(
        self,
        inputs: Nest,
        targets: Nest,
        optimizer: keras.optimizers.Optimizer,
        dense: bool = True,
    ) -> Evaluation:
        """The objective and its gradient; `optimizer` may scale the loss. As in `differentiated`.

        Raises:
            ValueError: The loss or a metric is not one, or a variable receives no gradient.
        """
        scope, loss, metrics, gradients, unscaled = differentiated(
            self.forward, self.loss_gradient, self.variables, optimizer, inputs, targets, dense
        )
        checks.check_metrics(metrics)
        checks.check_stop(metrics.get("stop", False))
        if scope.penalties:
            metrics = {"penalty": tf.add_n(scope.penalties), **metrics}
            loss += metrics["penalty"]
        return Evaluation(loss, metrics, gradients, unscaled, scope)
