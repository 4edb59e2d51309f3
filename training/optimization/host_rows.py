"""Metrics of a host loss in updates that call it several times: one row for each update."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from ..core.hosts import Host


class HostRows:
    """Leaves the metrics at the start of an update, and drops those of its other evaluations.

    Without a loss on the host it does nothing.
    """

    def __init__(self, host: Host | None) -> None:
        self._host = host
        self._last: dict[str, float] = {}

    def settle(
        self, count: tf.Tensor | int, starts: tf.Tensor | bool, end: tf.Tensor | int
    ) -> None:
        """Ends an update within a compiled call.

        Args:
            count: The number of its evaluations.
            starts: Whether the first one was at the weights of the start; otherwise the update
                started where the last one ended.
            end: Which one was at the weights that it chose; -1 if it chose those of the start.
        """
        if self._host is not None:
            tf.numpy_function(self._settle, [count, starts, end], tf.int32)

    def _settle(self, count: int, starts: bool, end: int) -> np.int32:
        assert self._host is not None
        every = self._host.metrics
        cut = len(every) - int(count)
        rows = every[cut:]
        first = rows[0] if starts else self._last
        self._last = first if end < 0 else rows[end]
        every[cut:] = [first]
        return np.int32(0)
