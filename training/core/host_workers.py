"""A host loss in worker processes: its batch is divided by rows, and its results are averaged.

Legend: B examples, W workers, n_k examples of worker k.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from ..common.plain import whole
from ..common.processes import Workers
from .losses import Reordered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .compiled import Nest

RULE = "A loss with `workers` must be a mean over its examples."


class Part(NamedTuple):
    """What a host loss returned for some of the examples."""

    value: float
    gradients: list[np.ndarray]
    metrics: dict[str, float]


class Divided:
    """A host loss, evaluated by W processes: `(y, targets) -> (L, dL/dy, metrics)`.

        L = Σₖ nₖ Lₖ / B        dL/dy = concatenation of nₖ/B dLₖ/dy        metrics like L

    Results are combined by the workers' index, so equal W give equal bits. The first call compares
    a few examples at once with the same in two parts, unless the loss is random.

    Args:
        loss: The host loss, as a function of (outputs, targets).
        workers: W.
        timeout: Seconds in which each worker must answer.
        unpack: Checks what the loss returned for outputs: `(result, outputs) -> part`.
    """

    def __init__(
        self,
        loss: Callable[[Nest, Nest], Any],
        workers: int,
        timeout: float,
        unpack: Callable[[object, Nest], tuple[float, list[np.ndarray], dict[str, float]]],
    ) -> None:
        self._count = whole("workers", workers, 1)
        is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not is_number or not 0 < timeout < 1e9:
            raise ValueError(
                "timeout must be a number of seconds above 0. Received: "
                f"timeout={timeout!r:.40}. Pass the longest time that a worker may take for its "
                "part of a batch."
            )
        # The class itself would import TensorFlow in the workers.
        self._is_reordered = isinstance(loss, Reordered)
        loss = loss.loss if isinstance(loss, Reordered) else loss
        self._workers = Workers(loss, self._count, float(timeout), "A host loss")
        self._unpack, self._is_checked = unpack, False

    def __call__(self, outputs: Nest, targets: Nest) -> tuple[float, Nest, dict[str, float]]:
        """The loss, its gradient and its metrics for the whole batch."""
        examples = len(tf.nest.flatten(outputs)[0])
        if not self._is_checked:
            self._check_mean(outputs, targets, examples)
            self._is_checked = True
        sizes = [len(rows) for rows in np.array_split(range(examples), self._count)]
        cuts = np.cumsum([0, *(size for size in sizes if size)]).tolist()
        parts = self._evaluate(outputs, targets, list(itertools.pairwise(cuts)))
        value, gradients, metrics = _averaged(parts, np.diff(cuts) / examples)
        return value, tf.nest.pack_sequence_as(outputs, gradients), metrics

    def _evaluate(
        self, outputs: Nest, targets: Nest, bounds: Sequence[tuple[int, int]]
    ) -> list[Part]:
        requests = [_rows(outputs, targets, *each) for each in bounds]
        swap = self._is_reordered
        results = self._workers([each[::-1] for each in requests] if swap else requests)
        pairs = zip(results, requests, strict=True)
        return [Part(*self._unpack(result, request[0])) for result, request in pairs]

    def _check_mean(self, outputs: Nest, targets: Nest, examples: int) -> None:
        """Refuses a sum over examples, and whatever else is no mean.

        Raises:
            ValueError: The loss of a few examples is not the mean of the losses of its parts.
        """
        count = min(examples, 4)
        half = count // 2
        if half == 0:
            return
        # One worker evaluates all of them: the others may not even be there.
        full, again, one, other = (
            self._evaluate(outputs, targets, [each])[0]
            for each in ((0, count), (0, count), (0, half), (half, count))
        )
        is_random = not _agree(full, again)
        parts = Part(*_averaged([one, other], np.array([half, count - half]) / count))
        if not is_random and not _agree(full, parts):
            raise ValueError(
                f"{RULE} Received: L = {full.value:.6g} for {count} examples, and "
                f"{one.value:.6g} and {other.value:.6g} for {half} and {count - half} of them, or "
                "gradients that do not fit. Divide loss and gradient by len(outputs), or leave out "
                "`workers`."
            )


def _rows(outputs: Nest, targets: Nest, begin: int, end: int) -> tuple[Nest, Nest]:
    """Some rows of all arrays; a target that has no row for each example stays whole."""
    examples = len(tf.nest.flatten(outputs)[0])

    def part(leaf: np.ndarray) -> np.ndarray:
        array = leaf.view(np.ndarray)  # workers cannot import the class of guarded arrays
        return array[begin:end] if array.ndim and len(array) == examples else array

    rows: tuple[Nest, Nest] = tf.nest.map_structure(part, (outputs, targets))
    return rows


def _averaged(
    parts: Sequence[Part], weights: np.ndarray
) -> tuple[float, list[np.ndarray], dict[str, float]]:
    names = set(parts[0].metrics)
    for part in parts:
        if set(part.metrics) != names:
            raise ValueError(
                "An external loss must return the same metrics in every call. Received: "
                f"{', '.join(part.metrics) or 'none'}, and {', '.join(names) or 'none'} from "
                "another worker. Return NaN for an unknown one."
            )
    value = float(sum(w * float(part.value) for w, part in zip(weights, parts, strict=True)))
    scaled = [[w * g for g in part.gradients] for w, part in zip(weights, parts, strict=True)]
    gradients = [np.concatenate(leaves) for leaves in zip(*scaled, strict=True)]
    metrics = {
        name: float(sum(w * float(p.metrics[name]) for w, p in zip(weights, parts, strict=True)))
        for name in parts[0].metrics
    }
    return value, gradients, metrics


def _agree(one: Part, other: Part) -> bool:
    pairs = [(np.asarray(one.value, float), np.asarray(other.value, float))]
    pairs += zip(one.gradients, other.gradients, strict=True)
    for a, b in pairs:
        finite = np.isfinite(a) & np.isfinite(b)
        scale = np.abs(np.where(finite, a, 0)).max(initial=0.0)
        if not np.allclose(np.where(finite, a, 0), np.where(finite, b, 0), 1e-3, 1e-4 * scale):
            return False
    return True
