"""The host side of a step whose losses run outside TensorFlow: targets, metrics and errors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from . import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

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


class Hosts:
    """The hosts of one step, by the names of its turns; the only turn of a step is named "".

    Args:
        by_turn: Those of the turns whose losses run on the host.
        is_alone: Whether no other loss of the step sees the targets.
    """

    def __init__(self, by_turn: Mapping[str, Host], is_alone: bool = True) -> None:
        self._by_turn, self._is_alone = dict(by_turn), is_alone
        self._specs: Nest = ()  # of the targets
        self._opaque: tuple[int, ...] = ()  # indices of targets that TensorFlow has no dtype for

    def __bool__(self) -> bool:
        return bool(self._by_turn)

    def guard(self, compiled: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        """The compiled function, which then raises a host loss's exception, not TensorFlow's."""

        def call(*arguments: Nest) -> tf.Tensor:
            try:
                return compiled(*arguments)
            except tf.errors.OpError:
                errors = [host.error for host in self._by_turn.values() if host.error is not None]
                for host in self._by_turn.values():
                    host.error, host.metrics = None, []
                if not errors:
                    raise
                raise errors[0] from None

        return call if self else compiled

    def stand_ins(self, targets: Nest) -> Nest:
        """The signature of the targets, with row numbers for what TensorFlow would change.

        TensorFlow turns strings into bytes and has no times or objects: in a signature `tf.string`
        stands for all of these. A host loss receives the rows of the original array.

        Raises:
            ValueError: A loss of TensorFlow would receive the row numbers.
        """
        leaves = tf.nest.flatten(targets)
        self._specs = targets
        self._opaque = tuple(j for j, leaf in enumerate(leaves) if leaf.dtype == tf.string)
        if self._opaque and not self._is_alone:
            raise ValueError(
                "Targets of strings must be for losses on the host alone. Received: a step in "
                "which a loss of TensorFlow takes turns with one on the host. Pass numbers, or "
                "compile a step for each."
            )
        for j in self._opaque:
            leaves[j] = tf.TensorSpec(leaves[j].shape[:1], tf.int32)
        for host in self._by_turn.values():
            host.opaque = self._opaque
        return tf.nest.pack_sequence_as(targets, leaves)

    def hold(self, targets: Nest) -> Nest:
        """Holds the targets that stay on the host for one call; returns those for the call.

        Raises:
            ValueError: They differ from the signature in structure or shape.
        """
        if not self._opaque:
            return targets
        specs = self._specs
        try:
            tf.nest.assert_same_structure(specs, targets)
        except (ValueError, TypeError):
            raise checks.structure_error(specs, targets) from None
        leaves, shapes = tf.nest.flatten(targets), [s.shape for s in tf.nest.flatten(specs)]
        for j in self._opaque:
            array = np.asarray(leaves[j])
            checks.check_shape(f"Target {j}", array, tuple(shapes[j]))
            for host in self._by_turn.values():
                host.originals[j] = array
            rows = np.arange(len(array)) if array.ndim else np.zeros(())
            leaves[j] = rows.astype(np.int32)
        return tf.nest.pack_sequence_as(targets, leaves)

    def take_metrics(self, stacked: bool) -> dict[str, Any]:
        """Returns the metrics since the last time, those of a turn under its name."""
        return {
            f"{turn}_{name}" if turn else name: value
            for turn, host in self._by_turn.items()
            for name, value in host.take_metrics(stacked).items()
        }
