"""The objective of a step: L(f(x; θ)) plus penalties, as a function of the trained variables.

`compile_step` evaluates it once per update. An optimizer that evaluates it itself, at weights that
it chooses, implements `EvaluatingOptimizer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import tensorflow as tf

from . import arguments, checks
from .forward import Scope, differentiated
from .host_losses import host_of
from .hosts import Host, Hosts
from .lifts import lifted
from .optimizers import finalize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import keras

    from .compiled import Nest
    from .losses import LossGradient, Metrics
    from .optimizers import Gradient
    from .step import Update


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

    @property
    def hosts(self) -> Hosts:
        """The same as those of a step."""
        return Hosts({} if self.host is None else {"": self.host})

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


@runtime_checkable
class EvaluatingOptimizer(Protocol):
    """An optimizer that evaluates the objective itself, several times in an update.

    `compile_step` and `Regression` take one wherever they take an optimizer of Keras.
    """

    @property
    def variables(self) -> Sequence[keras.Variable]:
        """All that later updates depend on besides the weights; of a compiled step."""

    def make_update(self, objective: Objective, minibatches: bool) -> Update:
        """The update of a step, of all its examples or of minibatches.

        Its function changes nothing if a number is not finite. The metrics that it returns begin
        with `status` (of `status_of`); `loss` and `grad_norm` are those before the update.

        Raises:
            ValueError: The optimizer cannot minimise this objective.
        """

    def finalize(self) -> None:
        """Ends a training, as `finalize_variable_values` of Keras's optimizers does."""

    def get_config(self) -> Mapping[str, object]:
        """The settings, for logs."""


def check_optimizer(name: str, optimizer: object) -> None:
    """Refuses anything but an optimizer of Keras, or one that evaluates the objective itself.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(optimizer, type) or not isinstance(optimizer, EvaluatingOptimizer):
        arguments.check_optimizer(name, optimizer)


def end_training(optimizer: keras.optimizers.Optimizer | EvaluatingOptimizer) -> None:
    """Copies averages (`use_ema`) into the variables, as Keras's `fit` does at its end."""
    if isinstance(optimizer, EvaluatingOptimizer):
        optimizer.finalize()
    else:
        finalize(optimizer)
