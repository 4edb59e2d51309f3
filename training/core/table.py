"""What a call of updates reports: a table of metrics, and the error of a refused update.

Legend: K updates in one call, M examples per update. The table is `[K, metrics]`; its first column
is the status. A vector metric takes one column per element.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .compiled import Nest
    from .losses import Metrics

DONE, STOPPED = 1.0, 0.5  # status of an update; 0: not finite, or not reached


class NonfiniteUpdate(FloatingPointError):
    """An update that was refused because its loss or gradient is not finite.

    Attributes:
        received: The metrics of the update.
        update: Its index in the call.
        updates: K, the number of updates of the call.
        cause: What is known about the reason.
        turns: The names of the turns of this update that changed weights before the bad one.
    """

    def __init__(
        self,
        received: str,
        update: int,
        updates: int,
        cause: str = "",
        turns: Sequence[str] = (),
    ) -> None:
        super().__init__(received)
        self.received, self.update, self.updates = received, update, updates
        self.turns = tuple(turns)
        self.cause = cause or (
            "look for log(0), division by zero or a learning rate that is too high"
        )

    def __str__(self) -> str:
        where = f" in update {self.update + 1} of {self.updates}" if self.updates > 1 else ""
        return (
            f"The loss and its gradient must be finite. Received{where}: {self.received}. "
            f"{self._refused()}; {self.cause}."
        )

    def _refused(self) -> str:
        if not self.turns:
            return "That update changed no weight"
        return f"That update ended after {_listed(self.turns)}, which had changed weights"

    @property
    def made(self) -> str:
        """What the same call had changed before; empty if nothing."""
        earlier = f"{self.update} of {self.updates} steps" if self.update else ""
        turns = f"of this step {_listed(self.turns)}" if self.turns else ""
        return " and ".join(filter(None, (earlier, turns)))

    def located(self, inputs: Nest, targets: Nest, rows: np.ndarray | None) -> NonfiniteUpdate:
        """The error with the example that is not finite, or with where to look for it.

        Args:
            inputs: The inputs of all examples.
            targets: The targets of all examples.
            rows: The examples of each update, `[K, M]`, or None for all.
        """
        examples = None if rows is None else np.unique(np.asarray(rows)[self.update])
        for what, nest in (("inputs", inputs), ("targets", targets)):
            for index, leaf in enumerate(tf.nest.flatten(nest)):
                array = np.asarray(leaf)
                if array.ndim == 0 or array.dtype.kind not in "fc":
                    continue
                used = array if examples is None else array[examples]
                bad = ~np.isfinite(used).reshape(len(used), -1).all(1)
                if bad.any():
                    first = int(np.argmax(bad))
                    example = first if examples is None else examples[first]
                    values = used[first].ravel()
                    part = "" if nest is leaf else f" (part {index})"
                    cause = (
                        f"the {what}{part} hold {values[~np.isfinite(values)][0]} in example "
                        f"{example}, and {int(bad.sum())} of {len(bad)} examples of that update "
                        "are not finite: repair or leave out such examples"
                    )
                    return self._because(cause)
        cause = f"its inputs and targets are finite: {self.cause}"
        if examples is not None:
            listed = ", ".join(map(str, examples[:20])) + (", …" if len(examples) > 20 else "")
            cause += f", in examples {listed}"
        return self._because(cause)

    def _because(self, cause: str) -> NonfiniteUpdate:
        return NonfiniteUpdate(self.received, self.update, self.updates, cause, self.turns)


def _listed(turns: Sequence[str]) -> str:
    return f"turn{'s' * (len(turns) > 1)} {' and '.join(map(repr, turns))}"


def columns(metrics: Metrics) -> list[str]:
    """The column names of metrics: the name of a vector occurs once per element."""
    sizes = {name: tuple(np.shape(value)) for name, value in metrics.items()}
    return [name for name, size in sizes.items() for _ in range(size[0] if size else 1)]


def with_vectors(
    metrics: dict[str, Any], table: np.ndarray, names: list[str], stacked: bool
) -> dict[str, Any]:
    """The metrics, with a vector `[M]` (`[K, M]` if stacked) where a name has several columns."""
    for name in {name for name in names if names.count(name) > 1}:
        where = [index for index, each in enumerate(names) if each == name]
        metrics[name] = table[:, where] if stacked else table[0, where]
    return metrics


def status_of(finite: tf.Tensor, metrics: Metrics) -> tuple[tf.Tensor, tf.Tensor]:
    """The status of an update as a number for the table, and whether it may change weights."""
    stop = tf.convert_to_tensor(metrics.get("stop", False))
    if stop.dtype.is_floating:
        finite &= tf.math.is_finite(stop)  # NaN would count as true
    stops = tf.cast(stop, tf.bool)
    number = tf.where(finite, tf.where(stops, STOPPED, DONE), 0.0)
    return number, finite & ~stops


def completed(
    table: np.ndarray, names: list[str], stacked: bool, turns: Sequence[str] = ()
) -> np.ndarray:
    """The rows `[≤ K, metrics]` of the updates before the one that the loss stopped.

    If the step makes a single update, its row is returned, since it shows the reason.

    Raises:
        FloatingPointError: An update was not finite.
    """
    k = int(np.argmax(table[:, 0] < DONE))
    if table[k, 0] == STOPPED:
        return table[:k] if stacked else table
    raise nonfinite(table, k, names, turns)


def nonfinite(
    table: np.ndarray, k: int, names: list[str], turns: Sequence[str] = ()
) -> NonfiniteUpdate:
    """The error of update k, which may consist of several turns."""
    row = dict(zip(names, table[k].tolist(), strict=True))
    parts = []
    for name in [name for name in row if name != "status"]:
        values = table[k, [each == name for each in names]]
        bad = ~np.isfinite(values)
        if len(values) == 1:
            parts.append(f"{name}={row[name]:.6g}")
        elif bad.any():
            parts.append(f"{name}={values[bad][0]:g} of {bad.sum()} examples")
    received = ", ".join(parts)
    good = itertools.takewhile(
        lambda turn: np.isfinite([row[f"{turn}_loss"], row[f"{turn}_grad_norm"]]).all(), turns[:-1]
    )
    return NonfiniteUpdate(received, k, len(table), turns=tuple(good))
