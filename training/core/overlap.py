"""A compiled update that runs while its caller acts on: on the other core, one update behind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .compiled import Nest
    from .step import Step


def assign(variable: tf.Variable, value: float | tf.Tensor) -> None:
    """Assigns a value in its turn, after an update that runs and before the next one.

    `variable.assign` would wait for that update: it asks for the shape of what it assigns, which
    TensorFlow knows only once everything before has run. A number goes as Python's: NumPy's takes
    eight times as long.
    """
    value = value if tf.is_tensor(value) else float(value)
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)


class Overlapped:
    """A step that returns before its update is done; each call tells what the call before it made.

    The caller acts on `weights`, those of one update ago, whichever is the faster: results do not
    depend on time. TensorFlow runs what it is given meanwhile in order, so whoever reads a variable
    of the model waits for the update, and so does whoever assigns one, but by `assign`.

    Attributes:
        weights: The mirrored variables before the update that runs, as `Step.weights`.
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
            The metrics of the update before it; of the first call, its loss as NaN.

        Raises:
            FloatingPointError: The loss or a gradient of the update before it was not finite; the
                one that this call starts runs nevertheless.
        """
        running, self.batch = self._running, self._started
        self._step.compile(inputs, targets, rows)  # where an error of the compiler can be answered
        if not self._is_asynchronous:  # critical: setting it, or asking for it, waits
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
        """The acting weights, and what the update that runs will have made."""
        weights = [weight.copy() for weight in self.weights]
        running = None if self._running is None else self._running.numpy()
        if running is None or not np.isfinite(running).all():
            return {"weights": weights, "running": None}
        return {"weights": weights, "running": running}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on with an update that has run.

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
        """Waits for the update that runs; TensorFlow's calls wait for their results again."""
        tf.config.experimental.set_synchronous_execution(True)
        self._is_asynchronous = False
