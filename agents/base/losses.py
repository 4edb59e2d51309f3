"""Losses and target functions of your own in place of an algorithm's.

A loss is a TensorFlow function `(outputs, targets) -> L` or `(L, metrics)`, or one on the host that
`external` or `estimated` has lifted. The targets are a NamedTuple of the algorithm; its fields say
what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, cast

import keras
import numpy as np
import tensorflow as tf

from ...training.core import checks
from ...training.core.compiled import Nest
from ...training.core.host_losses import host_of
from ...training.core.lifts import Differentiated, differentiate
from ...training.core.losses import (
    Loss,
    LossGradient,
    Reordered,
    call,
    in_our_order,
    is_keras_loss,
    lift_of,
)

ON_HOST = ("external", "estimated")
AgentLoss: TypeAlias = Callable[[Nest, Nest], Any]
"""A loss of the user's: a function of TensorFlow, or a lifted one of the host."""
Losses: TypeAlias = Mapping[str, AgentLoss]
"""Those of an agent by turn."""


class NotTaken:
    """The attribute for a function that some agents take, on those that take none: always None.

    Args:
        advice: Who takes one.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, agent: object, owner: type) -> None:
        return None

    def __set__(self, agent: object, function: object) -> None:
        if function is not None:
            raise ValueError(
                f"{self._name} must be None for an agent that takes none. Received: "
                f"{function!r:.80} for {type(agent).__name__}. Leave it out: {self._advice}."
            )


def checked_function(loss: object, name: str) -> Loss:
    """A TensorFlow loss, to be called as (outputs, targets), as its parameter names may require.

    Raises:
        ValueError: It is no function of two arguments, is lifted, or is a loss of Keras.
    """
    if is_keras_loss(loss):
        raise ValueError(
            f"{name} must be a TensorFlow function of the outputs and the algorithm's targets. "
            f"Received: {loss!s:.80}. Write a function that takes from them what the loss of Keras "
            "compares."
        )
    return in_our_order(loss, f"`{name}`")


def checked_losses(loss: AgentLoss | Losses | None, turns: Sequence[str]) -> Losses:
    """Losses of your own by the name of the turn that each belongs to.

    Args:
        loss: A loss or None; for an agent of several turns a dict of losses by their names.
        turns: Of the agent; one without a name if its update is one alone.

    Raises:
        ValueError: There is no such turn, or one is no loss that an agent can take.
    """
    if loss is None:
        return {}
    several = list(turns) != [""]
    if several and not (isinstance(loss, Mapping) and loss):
        names = " or ".join(f"{name!r}" for name in turns)
        raise ValueError(
            f"loss must be a dict of losses under {names}. Received: {loss!s:.80}. Pass "
            f"loss={{{turns[0]!r}: your_loss}}; the other loss stays the algorithm's."
        )
    losses: Losses = cast("Losses", loss if several else {"": loss})
    unknown = [name for name in losses if name not in turns]
    if unknown:
        raise ValueError(
            f"loss must hold losses under {', '.join(turns)}. Received: "
            f"{', '.join(map(str, unknown)):.80}. Rename them."
        )
    return {
        name: _checked(each, f"loss[{name!r}]" if several else "loss")
        for name, each in losses.items()
    }


def _checked(loss: AgentLoss | None, name: str) -> AgentLoss:
    if loss is None:
        raise ValueError(
            f"{name} must be a loss. Received: None. Leave it out to keep the algorithm's."
        )
    lift = lift_of(loss)
    if lift == "given":
        raise ValueError(
            f"{name} must be a loss of outputs and of the algorithm's targets. Received: `given`, "
            "for which the targets themselves are the gradient. Lift a function that computes it "
            "by `external`."
        )
    if lift in ON_HOST:
        return loss
    if isinstance(loss, Differentiated):
        loss = loss.loss
        inner = loss.loss if isinstance(loss, Reordered) else loss
        if isinstance(inner, keras.losses.Loss):
            return checked_function(inner, name)  # which refuses it
        return loss
    return checked_function(loss, name)


def is_on_host(loss: object) -> bool:
    """Whether a loss runs outside TensorFlow."""
    return lift_of(loss) in ON_HOST


def refuse_host(loss: AgentLoss | None, setting: str) -> None:
    """Refuses a loss outside TensorFlow beside a setting that needs it inside.

    Raises:
        ValueError: The loss is one.
    """
    if is_on_host(loss):
        raise ValueError(
            f"{setting} needs a loss of TensorFlow operations. Received: one that "
            f"`{lift_of(loss)}` has lifted. Leave {setting} out."
        )


def reserving(loss: AgentLoss | None, names: Iterable[str]) -> AbstractContextManager[None]:
    """Context in which a loss on the host may report no metric of such a name.

    Those of a TensorFlow loss are known when it is traced, and are checked then.
    """
    host = None if loss is None else host_of(cast("LossGradient", loss))
    return nullcontext() if host is None else host.reserve(names, "the agent")


def lifted(loss: AgentLoss, complete: Callable[[Loss], Loss]) -> LossGradient:
    """A checked loss as a step takes it; one of TensorFlow is completed first."""
    return cast("LossGradient", loss) if is_on_host(loss) else differentiate(complete(loss))


def of_targets(loss: AgentLoss, targets_of: Callable[..., Nest]) -> AgentLoss:
    """The loss of outputs q and targets with y, as one of outputs (q, y) and the other targets.

    The forward pass computes y, for it needs the networks; a loss takes it as a target, through
    which no gradient goes.

    Args:
        loss: Checked.
        targets_of: From y and the other targets to those of the loss.
    """
    if not is_on_host(loss):
        return lambda outputs, others: loss(outputs[0], targets_of(outputs[1], *others))

    def loss_gradient(
        outputs: Nest, others: Nest
    ) -> tuple[tf.Tensor, Nest, Mapping[str, tf.Tensor]]:
        q, y = outputs
        value, gradient, metrics = loss(q, targets_of(y, *others))
        return value, (gradient, None), metrics

    loss_gradient.host = host_of(loss)  # type: ignore[attr-defined]
    loss_gradient.lift = lift_of(loss)  # type: ignore[attr-defined]
    return loss_gradient


def fixed_target(
    function: Callable[[Any, Any], tf.Tensor], values: Any, examples: Any, shape: tuple[int, ...]
) -> tf.Tensor:
    """What a target function returns, as a constant of the update.

    Args:
        function: Of the values and the examples.
        values: What the agent gives it of the networks.
        examples: Those of the update.
        shape: The target's, the examples first.

    Raises:
        ValueError: It returns another shape, or computes outside TensorFlow.
    """
    advice = "Write it with them, and tf.where in place of `if`."
    y = call(function, values, examples, "A target function", advice)
    is_number = checks.is_number(y)
    if not is_number or tuple(np.shape(y)) != shape:
        received = f"shape {tuple(np.shape(y))}" if is_number else type(y).__name__
        raise ValueError(
            f"A target function must return shape {shape}, a target for each of the {shape[0]} "
            f"examples. Received: {received}. Reduce over actions or critics, and not over "
            "examples."
        )
    return tf.stop_gradient(tf.cast(y, tf.float32))
