"""Where the batches of a fit come from: arrays, sequences, tf.data, Keras's PyDataset, iterables.

A source yields the batches of an epoch in an order that depends on seed and epoch alone, so that a
resumed fit continues in the middle of an epoch: it skips what was seen.

Legend: B examples, M examples of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from .examples import as_examples

if TYPE_CHECKING:
    from ..core.compiled import Nest

LENGTHS = (
    1.25  # ratio of two bucket lengths: at most a fifth of a sequence is padding of its bucket
)
WINDOW = 50  # batches among which sequences are sorted by length


class Batch(NamedTuple):
    """Examples, their targets (`()` for none) and their weights (None for none)."""

    inputs: Nest
    targets: Nest
    weights: np.ndarray | None


class Cut(NamedTuple):
    """How examples are cut into batches."""

    batch_size: int
    shuffle: bool
    seed: int
    pad_value: float | None = None

    def order(self, count: int, epoch: int) -> np.ndarray:
        """The order of an epoch, a function of seed and epoch alone."""
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng([self.seed, epoch]).permutation(count)


class Source(Protocol):
    """The batches of a fit."""

    @property
    def batches(self) -> int | None:
        """Of an epoch; None if not known before it ends."""

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first ones."""


def source_of(  # noqa: PLR0913  what a user says of the data
    inputs: Any,
    targets: Any = None,
    weights: Any = None,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    steps_per_epoch: int | None = None,
    pad_value: float | None = None,
    as_given: bool = False,
) -> Source:
    """The source of what a user passes as data.

    Args:
        inputs: Arrays `[B, …]` (NumPy, memmap, pandas, tensors) or nests of them; a list of
            sequences of different lengths; a batched `tf.data.Dataset`, a `keras.utils.PyDataset`,
            or an iterable of batches: inputs, (inputs, targets) or (inputs, targets, weights).
        targets: Arrays `[B, …]` beside arrays; None for none.
        weights: Array `[B]` beside arrays; None for none.
        batch_size: M, of arrays.
        shuffle: Whether arrays come in a new order in every epoch, and a PyDataset's batches.
        seed: Of that order.
        steps_per_epoch: Batches of an epoch, of data that come in batches; by default all.
        pad_value: What sequences are padded with; 0 by default, for a model that masks it.
        as_given: Whether targets keep their dtype.

    Raises:
        ValueError: The arrays do not fit together, or the data are of no such kind.
    """
    if not _comes_in_batches(inputs):
        if steps_per_epoch is not None:
            raise ValueError(
                "steps_per_epoch is for data that come in batches. Received: "
                f"steps_per_epoch={steps_per_epoch} with arrays. Leave it out."
            )
        kind = SequenceSource if _is_ragged(inputs) else ArraySource
        cut = Cut(batch_size, shuffle, seed, pad_value)
        return kind(inputs, targets, weights, cut, as_given)
    if targets is not None or weights is not None:
        raise ValueError(
            "Data that come in batches must hold their targets and weights. Received: "
            f"{type(inputs).__name__} beside targets or weights. Yield (inputs, targets) or "
            "(inputs, targets, weights)."
        )
    source: Source
    if isinstance(inputs, tf.data.Dataset):
        source = DatasetSource(inputs, as_given)
        if source.is_endless and steps_per_epoch is None:
            raise ValueError(
                "A Dataset that never ends needs steps_per_epoch. Received: one after repeat(). "
                "Pass it, or leave repeat() out."
            )
    elif isinstance(inputs, keras.utils.PyDataset):
        source = PyDatasetSource(inputs, shuffle, seed, as_given)
    else:
        source = IterableSource(inputs, as_given)
    return source if steps_per_epoch is None else RunningSource(source, steps_per_epoch)


def _comes_in_batches(data: Any) -> bool:
    """Whether data yield batches: data sets, generators, loaders; not arrays, frames or nests."""
    if isinstance(data, tf.data.Dataset | keras.utils.PyDataset):
        return True
    if isinstance(data, np.ndarray | Sequence | Mapping) or hasattr(data, "__array__"):
        return False
    return isinstance(data, Iterable) and not tf.is_tensor(data)


def _is_ragged(inputs: Any) -> bool:
    """Whether inputs are a list of sequences of different lengths."""
    if not isinstance(inputs, list) or not inputs:
        return False
    shapes = [np.shape(each) for each in inputs[:10_000] if not isinstance(each, str | bytes)]
    lengths = {shape[0] for shape in shapes if shape}
    return len(shapes) == min(len(inputs), 10_000) and all(shapes) and len(lengths) > 1


def rows_of(nest: Nest, rows: np.ndarray | slice) -> Nest:
    """Some examples of a nest of arrays."""
    return tf.nest.map_structure(lambda array: array[rows], nest)


def batch_of(yielded: Any, as_given: bool, where: str) -> Batch:
    """A batch of what a source of the user yields.

    Raises:
        ValueError: It is no batch.
    """
    inputs, targets, weights = yielded, None, None
    if isinstance(yielded, tuple):
        if not 1 <= len(yielded) <= 3:
            raise ValueError(
                "Data must yield inputs, (inputs, targets) or (inputs, targets, weights). "
                f"Received: a tuple of {len(yielded)} {where}. Put several inputs into one tuple "
                "of their own, a list or a dict."
            )
        inputs, targets, weights = (*yielded, None, None)[:3]
    return checked(inputs, targets, weights, as_given, where)


def checked(inputs: Any, targets: Any, weights: Any, as_given: bool, where: str) -> Batch:
    """A batch whose parts have equally many examples, at least one.

    Raises:
        ValueError: They do not.
    """
    inputs = as_examples(inputs, f"inputs {where}".strip())
    targets = (
        ()
        if targets is None
        else as_examples(targets, f"targets {where}".strip(), as_given=as_given)
    )
    if weights is not None:
        weights = as_examples(weights, f"weights {where}".strip())
    counts = {array.shape[0] for array in tf.nest.flatten((inputs, targets))}
    counts |= set() if weights is None else {len(weights)}
    if len(counts) != 1 or counts == {0} or not tf.nest.flatten(inputs):
        raise ValueError(
            "Inputs, targets and weights must hold equally many examples, at least one. Received: "
            f"{sorted(counts)} {where}. Pass equally long arrays."
        )
    return Batch(inputs, targets, weights)


class ArraySource:
    """Arrays, whose batches are rows of them: nothing is copied as a whole, also of a memmap.

    Attributes:
        count: B.
        size: M.
    """

    def __init__(self, inputs: Any, targets: Any, weights: Any, cut: Cut, as_given: bool) -> None:
        arrays = (inputs, () if targets is None else targets, () if weights is None else weights)
        self._arrays = tf.nest.map_structure(_as_rows, arrays)
        self._has = targets is not None, weights is not None
        self._cut, self.size, self._as_given = cut, cut.batch_size, as_given
        counts = {len(array) for array in tf.nest.flatten(self._arrays)}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(
                "Inputs, targets and weights must hold equally many examples, at least one. "
                f"Received: {sorted(counts)}. Pass equally long arrays."
            )
        (self.count,) = counts
        self.batch(slice(0, 1))  # its kinds, before any training

    @property
    def batches(self) -> int:
        """⌈B / M⌉."""
        return -(-self.count // self.size)

    def batch(self, rows: np.ndarray | slice) -> Batch:
        """The examples of some rows."""
        inputs, targets, weights = rows_of(self._arrays, rows)
        has_targets, has_weights = self._has
        return checked(
            inputs,
            targets if has_targets else None,
            weights if has_weights else None,
            self._as_given,
            "",
        )

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch, `[B]`."""
        return self._cut.order(self.count, epoch)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch; the last one may be shorter."""
        order = self.order(epoch)
        for begin in range(skip * self.size, self.count, self.size):
            yield self.batch(order[begin : begin + self.size])


def _as_rows(leaf: Any) -> Any:
    """An array by rows; a memmap stays on the disk."""
    array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
    return array if array.ndim else as_examples(leaf, "arrays")  # which refuses it


class SequenceSource:
    """Sequences of different lengths: batches of similar ones, padded to one of a few lengths."""

    def __init__(
        self, inputs: list[Any], targets: Any, weights: Any, cut: Cut, as_given: bool
    ) -> None:
        self._inputs = [np.asarray(each) for each in inputs]
        shapes = {each.shape[1:] for each in self._inputs}
        if len(shapes) != 1:
            raise ValueError(
                "Sequences must have elements of one shape. Received: "
                f"{sorted(shapes)[:3]}. Pass arrays [length, …] that differ in their length only."
            )
        self._lengths = np.array([len(each) for each in self._inputs])
        self._rest = ArraySource(np.arange(len(inputs)), targets, weights, cut, as_given)
        self._cut, self._size = cut, cut.batch_size
        self._pad = 0.0 if cut.pad_value is None else cut.pad_value
        self._buckets = [int(self._lengths.max())]
        while self._buckets[-1] > self._lengths.min() + 1:
            self._buckets.append(max(int(self._buckets[-1] / LENGTHS), int(self._lengths.min())))

    @property
    def batches(self) -> int:
        """⌈B / M⌉."""
        return self._rest.batches

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch."""
        for rows in self._plan(epoch)[skip:]:
            rest = self._rest.batch(rows)
            length = min(each for each in self._buckets if each >= self._lengths[rows].max())
            first = self._inputs[rows[0]]
            shape = (len(rows), length, *first.shape[1:])
            padded = np.full(shape, self._pad, np.result_type(first.dtype))
            for k, row in enumerate(rows):
                padded[k, : self._lengths[row]] = self._inputs[row]
            yield rest._replace(inputs=as_examples(padded, "inputs"))

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch: sorted by length within windows of a random order."""
        count = len(self._inputs)
        order = self._cut.order(count, epoch)
        if not self._cut.shuffle:
            return np.split(order, range(self._size, count, self._size))
        window, plan = WINDOW * self._size, list[np.ndarray]()
        for begin in range(0, count, window):
            part = order[begin : begin + window]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            plan += np.split(part, range(self._size, len(part), self._size))
        return [plan[k] for k in self._cut.order(len(plan), epoch)]


class DatasetSource:
    """A batched `tf.data.Dataset`, which shuffles by itself.

    Its order depends on how many iterators were made before: a resumed fit makes them again.

    Attributes:
        is_endless: Whether it never ends, as after `repeat()`.
    """

    def __init__(self, dataset: tf.data.Dataset, as_given: bool) -> None:
        self._dataset, self._as_given, self._made = dataset, as_given, 0
        count = int(dataset.cardinality().numpy())  # negative if infinite or unknown
        if count == 0:
            raise ValueError(
                "A tf.data.Dataset must hold a batch. Received: an empty one. Fill it."
            )
        self.is_endless = count == tf.data.INFINITE_CARDINALITY
        self._known = count if count > 0 else None

    @property
    def batches(self) -> int | None:
        """Its cardinality; None if unknown."""
        return self._known

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch."""
        while self._made < epoch:
            iter(self._dataset)
            self._made += 1
        self._made = epoch + 1
        for index, yielded in enumerate(self._dataset):
            if index >= skip:
                yield batch_of(yielded, self._as_given, f"in batch {index} of the Dataset")


class PyDatasetSource:
    """A `keras.utils.PyDataset`, with its workers; a resumed fit ends its earlier epochs again."""

    def __init__(
        self, dataset: keras.utils.PyDataset, shuffle: bool, seed: int, as_given: bool
    ) -> None:
        self._dataset, self._as_given, self._ended = dataset, as_given, 0
        self._cut = Cut(1, shuffle, seed)
        count = dataset.num_batches
        self._count = None if count is None else int(count)

    @property
    def batches(self) -> int | None:
        """Its length; None if it is infinite."""
        return self._count

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch."""
        while self._ended < epoch:
            self._dataset.on_epoch_end()
            self._ended += 1
        order: Iterable[int] = itertools.count()
        if self._count is not None:
            order = self._cut.order(self._count, epoch).tolist()
        for index, yielded in self._yielded(itertools.islice(order, skip, None)):
            yield batch_of(yielded, self._as_given, f"in batch {index} of the PyDataset")

    def _yielded(self, order: Iterator[int]) -> Iterator[tuple[int, Any]]:
        """Items in order, fetched ahead by workers where the data set has several."""
        dataset = self._dataset
        workers = int(dataset.workers or 1)
        if workers <= 1 and not dataset.use_multiprocessing:
            yield from ((index, dataset[index]) for index in order)
            return
        kind = ProcessPoolExecutor if dataset.use_multiprocessing else ThreadPoolExecutor
        with kind(workers) as pool:
            waiting = [
                (i, pool.submit(dataset.__getitem__, i))
                for i in itertools.islice(order, int(dataset.max_queue_size))
            ]
            try:
                while waiting:
                    index, future = waiting.pop(0)
                    waiting += [
                        (i, pool.submit(dataset.__getitem__, i)) for i in itertools.islice(order, 1)
                    ]
                    yield index, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()


class IterableSource:
    """Batches of an iterable such as a loader: of an iterator once, else anew in each epoch."""

    def __init__(self, data: Iterable[Any], as_given: bool) -> None:
        self._data, self._as_given = data, as_given
        self._is_once = isinstance(data, Iterator)

    @property
    def batches(self) -> int | None:
        """Its length, if it has one."""
        return len(self._data) if isinstance(self._data, Sized) else None

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Raises:
            ValueError: An iterator is to give a second epoch.
        """
        if self._is_once and epoch:
            raise ValueError(
                "An iterator gives its batches once. Received: more than one epoch. Pass "
                "steps_per_epoch=, and a generator that never ends, or a Dataset."
            )
        for index, yielded in enumerate(self._data):
            if index >= skip:
                yield batch_of(yielded, self._as_given, f"in batch {index} of the data")


class RunningSource:
    """Batches in one go over the epochs, so many in each: of data that may never end."""

    def __init__(self, source: Source, steps: int) -> None:
        self._source, self._steps = source, steps
        self._running: Iterator[Batch] | None = None

    @property
    def batches(self) -> int:
        """The steps of an epoch."""
        return self._steps

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches that follow those of the epochs before.

        Raises:
            ValueError: The data end early.
        """
        if self._running is None:
            self._running = self._all()
            seen = epoch * self._steps + skip
            if sum(1 for _ in itertools.islice(self._running, seen)) < seen:
                raise self._ended(epoch)
        count = skip
        for batch in itertools.islice(self._running, self._steps - skip):
            count += 1
            yield batch
        if count < self._steps:
            raise self._ended(epoch)

    def _all(self) -> Iterator[Batch]:
        if self._source.batches is None:
            yield from self._source.epoch(0)
            return
        for epoch in itertools.count():
            yield from self._source.epoch(epoch)

    def _ended(self, epoch: int) -> ValueError:
        return ValueError(
            f"Data must yield steps_per_epoch batches in every epoch. Received: {self._steps} "
            f"steps, and data that ended in epoch {epoch + 1}. Lower steps_per_epoch or epochs, or "
            "let the data repeat."
        )
