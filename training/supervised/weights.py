"""Weights of examples: a lifted loss of outputs and (targets, weights)."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ..core.host_losses import External
from ..core.lifts import Differentiated
from ..core.losses import Metrics, Reordered, lift_of, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import tensorflow as tf

    from ..core.compiled import Nest
    from ..core.losses import LossGradient

NAME = "sample_weight"


def weighted(loss_gradient: LossGradient) -> LossGradient:
    """The loss gradient of outputs and (targets, weights), weights `[B]` or as the loss takes them.

    A loss of Keras multiplies its loss of each example, as in `fit`. A function takes them as a
    parameter `sample_weight`.

    Raises:
        ValueError: The loss takes no weights.
    """
    if isinstance(loss_gradient, Differentiated):
        return WeightedLoss(loss_gradient)
    if isinstance(loss_gradient, External) and takes_weights(loss_gradient.loss):
        return External(_unpacking(loss_gradient.loss), "external")
    raise _refusal(lift_of(loss_gradient) or "a function")


def takes_weights(loss: Callable[..., Any]) -> bool:
    """Whether a loss has a parameter for weights of examples."""
    if isinstance(loss, Reordered):
        return takes_weights(loss.loss)
    if isinstance(loss, keras.losses.Loss):
        return True
    try:
        parameters = signature_of(loss).parameters
    except (TypeError, ValueError):
        return False
    return NAME in parameters or any(
        each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()
    )


def _unpacking(loss: Callable[..., Any]) -> Callable[[Nest, Nest], Any]:
    def unpacked(outputs: Nest, pair: Nest) -> Any:
        targets, weights = pair
        return loss(outputs, targets, sample_weight=weights)

    return unpacked


def _refusal(received: str) -> ValueError:
    return ValueError(
        "Weights of examples need a loss of Keras, or a function with a parameter "
        f"`sample_weight`. Received: {received} without one. Write `def loss(outputs, targets, "
        "sample_weight=None)`, or pass the weights as targets."
    )


def class_weights(by_class: Mapping[int, float], targets: Any, weights: Any = None) -> np.ndarray:
    """The weight of each example `[B]` by its class, times its own weight if it has one.

    Args:
        by_class: Weights by class number.
        targets: Class numbers `[B]` or `[B, 1]`, or one-hot `[B, classes]`.
        weights: Those of the examples, or None.

    Raises:
        ValueError: The targets are no classes, or a class has no weight.
    """
    array = np.asarray(targets)
    if array.ndim == 2 and array.shape[1] > 1:
        array = array.argmax(1)
    array = array.reshape(-1) if array.ndim == 2 else array
    if array.ndim != 1 or array.dtype.kind not in "biuf" or (array != array.astype(int)).any():
        raise ValueError(
            "class_weight needs targets that are class numbers [B] or one-hot [B, classes]. "
            f"Received: {np.asarray(targets).dtype}{list(np.shape(targets))}. Pass sample_weight."
        )
    classes, where = np.unique(array.astype(int), return_inverse=True)
    missing = [int(each) for each in classes if each not in by_class]
    if missing:
        raise ValueError(
            f"class_weight must have a weight for every class. Received: none for {missing[:5]}. "
            "Add them."
        )
    found: np.ndarray = np.array([by_class[each] for each in classes], np.float32)[where]
    return found if weights is None else found * np.asarray(weights, np.float32)


class WeightedLoss:
    """A TensorFlow loss of outputs and (targets, weights), differentiated."""

    lift = "differentiate"

    def __init__(self, differentiated: Differentiated) -> None:
        if not takes_weights(differentiated.loss):
            raise _refusal("a TensorFlow function")
        self._loss: Callable[..., Any] = differentiated.loss

    def _of(self, weights: tf.Tensor) -> Differentiated:
        loss = self._loss
        return Differentiated(lambda y, t: loss(y, t, sample_weight=weights))

    def __call__(self, outputs: Nest, pair: Nest) -> tuple[tf.Tensor, Nest, Metrics]:
        """L, dL/dy and the metrics."""
        targets, weights = pair
        return self._of(weights)(outputs, targets)

    def with_direct(
        self, outputs: Nest, pair: Nest, others: tuple[Nest, Nest]
    ) -> tuple[tf.Tensor, Nest, Metrics, tuple[Nest, Nest]]:
        """As `Differentiated.with_direct`."""
        targets, weights = pair
        return self._of(weights).with_direct(outputs, targets, others)

    def observe(self, outputs: Nest, pair: Nest) -> tuple[tf.Tensor, None, Metrics]:
        """L alone, as `Differentiated.observe`; nothing is assigned."""
        with keras.StatelessScope():
            return self.value(outputs, pair), None, {}

    def value(self, outputs: Nest, pair: Nest) -> tf.Tensor:
        """L alone."""
        targets, weights = pair
        return self._of(weights).value(outputs, targets)
