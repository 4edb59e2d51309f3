"""Evaluation and prediction in inference mode, batch by batch; nothing that trains is touched."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from ..core.forward import at_least_float32
from ..core.host_losses import host_of
from ..core.losses import lift_of
from .inference import Inference
from .sources import Batch, source_of
from .weights import weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..core.compiled import Nest
    from ..core.losses import LossGradient
    from .sources import Source


def takes_training(forward: Callable[..., Nest]) -> bool:
    """Whether a function has a parameter `training`."""
    try:
        return "training" in inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return False


def training(forward: Callable[..., Nest]) -> Callable[..., Nest]:
    """A forward in training mode; the core passes it to layers by itself."""
    if isinstance(forward, keras.Layer) or not takes_training(forward):
        return forward
    return lambda inputs: forward(inputs, training=True)


class _Function:
    """A function of several models, with what inference needs of a model."""

    def __init__(self, forward: Callable[..., Nest], models: Sequence[keras.Layer]) -> None:
        self._forward, self._models = forward, models

    def __call__(self, inputs: Nest, training: bool) -> Nest:
        if not takes_training(self._forward):
            raise ValueError(
                "A forward of your own needs a parameter `training` to be run in inference mode. "
                "Received: a function without one. Write `def forward(inputs, training=True)`, and "
                "pass it on to the models."
            )
        return self._forward(inputs, training=training)

    @property
    def variables(self) -> list[keras.Variable]:
        return [v for model in self._models for v in model.variables]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return [v for model in self._models for v in model.trainable_variables]


class Evaluator:
    """Evaluates a forward on data.

    Args:
        forward: Of inputs.
        models: Those that it uses.
        loss_gradient: Whose loss is reported.
        metrics: Keras's, copies of which are reported.
    """

    def __init__(
        self,
        forward: Callable[..., Nest],
        models: Sequence[keras.Layer],
        loss_gradient: LossGradient,
        metrics: Sequence[keras.metrics.Metric],
    ) -> None:
        is_layer = isinstance(forward, keras.Layer)
        self._inference = Inference(forward if is_layer else _Function(forward, models))
        self._loss_gradient = loss_gradient
        self._weighted: LossGradient | None = None  # for batches with weights
        self._metrics = [type(each).from_config(each.get_config()) for each in metrics]

    def of(self, data: Any, batch_size: int) -> Callable[..., dict[str, float]]:
        """What evaluates these data, in the order of an epoch, 0 by default.

        Args:
            data: (inputs, targets), (inputs, targets, weights), or what comes in batches.
            batch_size: Of arrays.

        Raises:
            ValueError: They are no such data.
        """
        parts = data if isinstance(data, tuple) else (data,)
        if not 1 <= len(parts) <= 3:
            raise ValueError(
                "`validation` must be (inputs, targets), (inputs, targets, weights) or a data set. "
                f"Received: a tuple of {len(parts)}. Pass one of them."
            )
        is_host = host_of(self._loss_gradient) is not None
        source = source_of(*parts, batch_size=batch_size, as_given=is_host)
        return lambda epoch=0: self._evaluate(source, epoch)

    def _evaluate(self, source: Source, epoch: int) -> dict[str, float]:
        total, count = 0.0, 0
        for metric in self._metrics:
            metric.reset_state()
        for batch in source.epoch(epoch):
            outputs, penalty = self._inference.observe(batch.inputs)
            size = len(tf.nest.flatten(batch.inputs)[0])
            total += size * (self._loss(outputs, batch) + penalty)
            count += size
            for metric in self._metrics:
                metric.update_state(batch.targets, outputs, sample_weight=batch.weights)
        if not count:
            raise ValueError(
                "Data to evaluate must hold a batch. Received: none. An iterator gives its batches "
                "once: pass a data set that can be read again."
            )
        return {"loss": total / count} | {m.name: float(m.result()) for m in self._metrics}

    def _loss(self, outputs: Nest, batch: Batch) -> float:
        loss_gradient, targets = self._loss_gradient, batch.targets
        if batch.weights is not None:
            self._weighted = self._weighted or weighted(loss_gradient)
            loss_gradient, targets = self._weighted, (targets, batch.weights)
        # critical: a loss that draws random numbers or has a state must not advance the training's.
        if lift_of(loss_gradient) != "given":
            loss_gradient = getattr(loss_gradient, "observe", None) or loss_gradient
        outputs = tf.nest.map_structure(at_least_float32, outputs)
        targets = tf.nest.map_structure(
            lambda a: a if host_of(loss_gradient) else tf.convert_to_tensor(a), targets
        )
        loss, _, _ = loss_gradient(outputs, targets)
        if host := host_of(loss_gradient):
            host.take_metrics(False)  # critical: they do not belong to a training step
        return float(loss)

    def predict(self, source: Source) -> Nest:
        """The outputs of all batches, joined."""
        parts = [self._inference.predict(batch.inputs) for batch in source.epoch(0)]
        return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
