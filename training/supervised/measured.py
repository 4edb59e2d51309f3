"""A loss beside which Keras's metrics see the outputs, within the update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.host_losses import host_of
from ..core.losses import lift_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from ..core.compiled import Nest
    from ..core.losses import LossGradient


class Measured:
    """A loss gradient that also updates metrics, whose states wait for the update as all others.

    Args:
        loss_gradient: Of outputs and targets.
        metrics: Keras's.
        has_weights: Whether the targets are (targets, weights).
    """

    def __init__(
        self,
        loss_gradient: LossGradient,
        metrics: Sequence[keras.metrics.Metric],
        has_weights: bool,
    ) -> None:
        self.lift, self.host = lift_of(loss_gradient), host_of(loss_gradient)
        self._loss_gradient, self._metrics = loss_gradient, metrics
        self._has_weights = has_weights
        if hasattr(loss_gradient, "with_direct"):
            self.with_direct = self._with_direct

    def __call__(self, outputs: Nest, targets: Nest) -> Any:
        """What the loss gradient returns."""
        result = self._loss_gradient(outputs, targets)
        self._measure(outputs, targets)
        return result

    def _with_direct(self, outputs: Nest, targets: Nest, others: tuple[Nest, Nest]) -> Any:
        result = self._loss_gradient.with_direct(outputs, targets, others)  # type: ignore[attr-defined]
        self._measure(outputs, targets)
        return result

    def _measure(self, outputs: Nest, targets: Nest) -> None:
        weights = None
        if self._has_weights:
            targets, weights = targets
        for metric in self._metrics:
            metric.update_state(targets, outputs, sample_weight=weights)
