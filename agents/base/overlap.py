"""A compiled update that runs on another core while its caller acts, one update behind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...training.core.compiled import Nest
    from ...training.core.step import Step


class OverlappedStep:
    """A step that returns before its update has ended; each call reports the previous update.

    The caller always acts on `weights`, which are one update old, so results do not depend on
    timing. TensorFlow runs its operations in order meanwhile: reading a variable of the model waits
    for the running update, and so does assigning one, except by `assign`.

    Attributes:
        weights: The mirrored variables before the running update, as `Step.weights`.
        batch: The arrays of the update that the last call reported.
    """

    def __init__(self, step: Step) -> None:
        self._step, self.weights = step, step.weights
        self._is_asynchronous = False
        self._running: tf.Tensor | None = None
        self.batch: Nest = ()
        self._started: Nest = ()

    def __call__(
        self, inputs: Nest, targets: Nest, rows: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Starts an update on copies of the arrays.

        Returns:
            The metrics of the previous update; the first call reports a loss of NaN.

        Raises:
            FloatingPointError: The loss or a gradient of the previous update was not finite; the
                update that this call starts runs nevertheless.
        """
        running, self.batch = self._running, self._started
        self._step.compile(inputs, targets, rows)  # so that errors of the compiler are raised here
        if not self._is_asynchronous:  # critical: setting or reading TensorFlow's flag waits
            tf.config.experimental.set_synchronous_execution(False)
            self._is_asynchronous = True
        inputs, targets = self._started = keras.tree.map_structure(np.copy, (inputs, targets))
        self._running = self._step.start(inputs, targets, rows)  # queued behind the one that runs
        if running is None:
            return {"loss": math.nan}
        metrics = self._step.read(running)
        self.weights = self._step.weights
        return metrics

    def get_state(self) -> dict[str, Any]:
        """The acting weights, and the result of the running update, for which it waits."""
        weights = [weight.copy() for weight in self.weights]
        running = None if self._running is None else self._running.numpy()
        if running is None or not np.isfinite(running).all():
            return {"weights": weights, "running": None}
        return {"weights": weights, "running": running}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores the acting weights and the result of an update that the next call reports.

        Raises:
            ValueError: The weights have other shapes.
        """
        shapes, received = ([w.shape for w in each] for each in (self.weights, state["weights"]))
        if shapes != received:
            raise ValueError(
                f"The acting weights must have the shapes {shapes}. Received: {received}. "
                "Resume with the network of the run."
            )
        self.weights, running = list(state["weights"]), state["running"]
        self._running = None if running is None else tf.constant(running, tf.float32)

    def settle(self) -> None:
        """Waits for the running update; from then on TensorFlow's calls wait for their results."""
        tf.config.experimental.set_synchronous_execution(True)
        self._is_asynchronous = False
