"""A compiled update that runs while its caller acts on: on the other core, one update behind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from .gradients import Step


class Overlapped:
    """A step that returns before its update is done; each call tells what the call before it made.

    The caller acts on `weights`, those of one update ago, whichever is the faster: results do not
    depend on time. TensorFlow runs what it is given meanwhile in order, so whoever reads or assigns
    a variable of the model waits for the update.

    Attributes:
        weights: The mirrored variables before the update that runs, as `Step.weights`.
    """

    def __init__(self, step: Step) -> None:
        self._step, self.weights = step, step.weights
        self._running: tf.Tensor | None = None

    def __call__(self, inputs: np.ndarray, targets: tuple[np.ndarray, ...]) -> dict[str, Any]:
        """Starts an update on copies of the arrays.

        Returns:
            The metrics of the update before it; of the first call, its loss as NaN.

        Raises:
            FloatingPointError: The loss or a gradient of the update before it was not finite.
        """
        metrics = {"loss": math.nan} if self._running is None else self._step.read(self._running)
        self.weights = self._step.weights
        tf.config.experimental.set_synchronous_execution(False)
        self._running = self._step.start(inputs.copy(), tuple(t.copy() for t in targets))
        return metrics

    def settle(self) -> None:
        """Waits for the update that runs; TensorFlow's calls wait for their results again."""
        tf.config.experimental.set_synchronous_execution(True)
