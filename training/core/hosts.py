"""The host side of a step whose losses run outside TensorFlow: targets, metrics and errors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from . import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .compiled import Nest


class Host:
    """The host's side of a step: targets for the loss, and its exception or metrics."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.metrics: list[dict[str, float]] = []
        self.opaque: tuple[int, ...] = ()  # indices of targets that TensorFlow has no dtype for
        self.originals: dict[int, np.ndarray] = {}  # those targets, in the current call
        self.names: list[str] | None = None  # names of the metrics, from the first call on
        self.reserved: tuple[str, ...] = ()  # names that no metric may have
        self.user = ""  # who uses them itself

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.error = error

    @contextlib.contextmanager
    def reserve(self, names: Iterable[str], user: str) -> Iterator[None]:
        """Context in which a metric of such a name is refused, before a weight changes."""
        self.reserved, self.user = tuple(names), user
        try:
            yield
        finally:
            self.reserved = ()

    def guard(self, compiled: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        """The compiled function, which then raises the host loss's exception, not TensorFlow's."""

        def call(*arguments: Nest) -> tf.Tensor:
            try:
                return compiled(*arguments)
            except tf.errors.OpError:
                error, self.error, self.metrics = self.error, None, []
                if error is None:
                    raise
                raise error from None

        return call

    def stand_ins(self, targets: Nest) -> Nest:
        """The signature of the targets, with row numbers for what TensorFlow would change.

        TensorFlow turns strings into bytes and has no times or objects: in a signature `tf.string`
        stands for all of these. The host loss receives the rows of the original array.
        """
        leaves = tf.nest.flatten(targets)
        self.opaque = tuple(j for j, leaf in enumerate(leaves) if leaf.dtype == tf.string)
        for j in self.opaque:
            leaves[j] = tf.TensorSpec(leaves[j].shape[:1], tf.int32)
        return tf.nest.pack_sequence_as(targets, leaves)

    def hold(self, specs: Nest, targets: Nest, opaque: Sequence[int]) -> Nest:
        """Holds the targets that stay on the host for one call; returns those for the call.

        Raises:
            ValueError: They differ from the signature in structure or shape.
        """
        try:
            tf.nest.assert_same_structure(specs, targets)
        except (ValueError, TypeError):
            raise checks.structure_error(specs, targets) from None
        leaves, shapes = tf.nest.flatten(targets), [s.shape for s in tf.nest.flatten(specs)]
        for j in opaque:
            array = np.asarray(leaves[j])
            checks.check_shape(f"Target {j}", array, tuple(shapes[j]))
            self.originals[j] = array
            rows = np.arange(len(array)) if array.ndim else np.zeros(())
            leaves[j] = rows.astype(np.int32)
        return tf.nest.pack_sequence_as(targets, leaves)

    def check_metrics(self) -> None:
        """Refuses metrics with other names than in the first call of the step."""
        names = list(self.metrics[-1])
        self.names = names if self.names is None else self.names
        if set(names) != set(self.names):
            raise ValueError(
                "An external loss must return the same metrics in every call. Received: "
                f"{', '.join(names) or 'none'}, after {', '.join(self.names) or 'none'}. Return "
                "NaN for an unknown one."
            )

    def take_metrics(self, stacked: bool) -> dict[str, Any]:
        """Returns the metrics since the last time, of one call, or as arrays `[K]` if stacked."""
        rows, self.metrics = self.metrics, []
        if not stacked:
            return rows[-1]
        return {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
