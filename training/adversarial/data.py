"""Where a GAN's real examples come from: arrays, memory maps and datasets, all checked.

Legend: B examples per batch, N training examples, S shape of one example.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from ..core import checks
from ..supervised.examples import as_examples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..core.compiled import Nest

Pair: TypeAlias = "tuple[np.ndarray, Nest]"
"""Real examples `[B, *S]`, float32, and their labels, `()` for none."""
CHUNK = 2**22  # numbers of a memory map that are checked at once


class Labels:
    """What the labels of a GAN must look like: a nest of specs without the axis of examples."""

    def __init__(self, specs: Nest) -> None:
        self.specs = specs  # (): the players take no labels

    def __bool__(self) -> bool:
        return bool(tf.nest.flatten(self.specs))

    def zeros(self, count: int) -> Nest:
        """Labels `[count, ...]`, all 0."""
        make = lambda spec: np.zeros((count, *spec.shape), spec.dtype.as_numpy_dtype)  # noqa: E731
        return tf.nest.map_structure(make, self.specs)

    def checked(self, labels: Nest, count: int | None) -> Nest:
        """The labels, nested like the specs.

        Raises:
            ValueError: They are nested or shaped in another way, not numbers, not finite, or not
                as many as the examples; there are none, or there must be none.
        """
        given = labels is not None and not (isinstance(labels, tuple) and not labels)
        if given != bool(self):
            raise ValueError(
                "Labels must be given if both players take them, as [noise, labels] and [examples, "
                f"labels], and only then. Received: {'labels' if given else 'no labels'} for "
                f"players that take {self.described() if self else 'none'}. "
                + ("Pass labels=." if self else "Leave them out, or give both models more inputs.")
            )
        if not given:
            return ()
        if isinstance(labels, list) and not tf.nest.is_nested(self.specs):
            labels = np.array(labels) if all(map(np.isscalar, labels)) else labels
        leaves = tf.nest.flatten(as_examples(labels, "labels"))
        specs = tf.nest.flatten(self.specs)
        counts = {len(leaf) for leaf in leaves}
        count = len(leaves[0]) if count is None and leaves else count
        fits = len(leaves) == len(specs) and counts == {count} and self._is_nested(labels)
        fits &= all(leaf.shape[1:] == spec.shape for leaf, spec in zip(leaves, specs, strict=False))
        fits &= all(_casts(leaf, spec) for leaf, spec in zip(leaves, specs, strict=False))
        if not fits:
            raise ValueError(
                f"Labels must be {self.described()}, with {count} examples each. Received: "
                f"{checks.describe(tf.nest.pack_sequence_as(labels, leaves))!s:.200}. Pass one "
                "label for each example, in the shapes that the models take."
            )
        for leaf in leaves:
            check_finite(leaf, "labels")
        return tf.nest.pack_sequence_as(self.specs, leaves)

    def described(self) -> object:
        """The specs as text."""
        text = lambda spec: f"{spec.dtype.name}[N{''.join(f', {n}' for n in spec.shape)}]"  # noqa: E731
        return tf.nest.map_structure(text, self.specs)

    def _is_nested(self, labels: Nest) -> bool:
        try:
            tf.nest.assert_same_structure(self.specs, labels, check_types=False)
        except (TypeError, ValueError):
            return False
        return True


def _casts(leaf: np.ndarray, spec: tf.TensorSpec) -> bool:
    return bool(np.can_cast(leaf.dtype, spec.dtype.as_numpy_dtype, "same_kind"))


class Arrays:
    """Real examples and labels in arrays; `arrays[rows]` is a pair of these rows.

    A memory map is neither copied nor converted whole.

    Raises:
        ValueError: They are no examples of the generator's shape, or not finite.
    """

    def __init__(
        self, examples: object, labels: Nest, shape: tuple[int, ...], of: Labels, batch_size: int
    ) -> None:
        is_map = isinstance(examples, np.memmap)
        self._examples = array = as_examples(examples, "examples", as_given=is_map)
        if not isinstance(array, np.ndarray):
            raise ValueError(
                "Examples must be one array. Received: several arrays. Train on one of them, and "
                "pass labels as labels=."
            )
        if array.shape[1:] != shape or len(array) < batch_size:
            raise ValueError(
                f"Examples must have shape {_shown('N', shape)}, as the generator makes them, "
                f"with N >= batch_size={batch_size}. Received: {list(array.shape)}. Reshape them, "
                "or pass a smaller batch_size."
            )
        check_floating(array)
        size = max(CHUNK // max(array[0].size, 1), 1) if is_map else len(array)
        for begin in range(0, len(array), size):
            check_finite(_single(array[begin : begin + size]), "examples", begin)
        if not is_map:
            self._examples = _single(array)
        self._labels = of.checked(labels, len(array))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, rows: np.ndarray) -> Pair:
        return _single(self._examples[rows]), tf.nest.map_structure(
            lambda leaf: leaf[rows], self._labels
        )

    def scale(self) -> tuple[float, float]:
        """The smallest and the largest number of all examples."""
        return float(self._examples.min()), float(self._examples.max())

    def some(self, count: int) -> Pair:
        """At most `count` examples from all places, the same in every call."""
        return self[np.linspace(0, len(self) - 1, min(len(self), count)).astype(int)]


def dataset_batches(
    dataset: tf.data.Dataset, shape: tuple[int, ...], of: Labels, batch_size: int
) -> Iterator[Pair]:
    """Batches of exactly B examples of a dataset, which starts anew at each of its ends.

    An epoch leaves out the examples after its last whole batch. The first batch is checked like all
    others, when it is taken.

    Raises:
        ValueError: The dataset yields examples of another shape, or none or too few; it raises; or
            its examples are not finite.
    """
    spec = dataset.element_spec
    parts = spec if isinstance(spec, tuple) else (spec,)
    is_pair = len(parts) == 1 + bool(of) and isinstance(parts[0], tf.TensorSpec)
    known = tf.TensorShape(parts[0].shape) if is_pair else tf.TensorShape(None)
    is_batched = known.is_compatible_with((None, *shape))
    if not is_pair or not (is_batched or known.is_compatible_with(shape)):
        expected = f"({_shown('', shape)}, labels)" if of else _shown("", shape)
        raise ValueError(
            f"A dataset must yield examples {expected}, as the generator makes them, one by one or "
            f"in batches. Received: one of {spec!s:.200}. Map it to "
            f"{'pairs of examples and labels' if of else 'examples alone'} of that shape."
        )
    _check_kind(np.dtype(parts[0].dtype.as_numpy_dtype).kind, parts[0].dtype.name)
    join = dataset.rebatch if is_batched and known.rank is not None else dataset.batch
    batches, taken = join(batch_size, drop_remainder=True), 0
    while True:
        before = taken
        for element in _elements(batches, taken):
            real, labels = element if of else (element, ())
            if real.shape != (batch_size, *shape):
                raise ValueError(
                    f"A dataset must yield examples {_shown('', shape)}, as the generator makes "
                    f"them. Received: {list(real.shape[1:])} in batch {taken + 1}. Reshape or "
                    "leave them out."
                )
            check_finite(_single(real), f"examples of batch {taken + 1}")
            taken += 1
            yield _single(real), of.checked(labels if of else None, batch_size)
        if taken == before:
            raise ValueError(
                "A dataset must yield at least one batch whenever it is iterated, and it is "
                f"iterated anew at each of its ends. Received: an end after {before} batches of "
                f"batch_size={batch_size}. Pass one that can be repeated (`dataset.cache()` stores "
                "what is read once), or a smaller batch_size."
            )


def _elements(batches: tf.data.Dataset, taken: int) -> Iterator[Nest]:
    """The elements as arrays; an error of the dataset says after how many batches it came."""
    iterator = iter(batches.as_numpy_iterator())
    while True:
        try:
            element = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # a user's function may raise anything
            raise ValueError(
                "A dataset must yield examples without an error. Received after "
                f"{taken} batches: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}. Repair what it reads or computes."
            ) from error
        taken += 1
        yield element


def looked_at(
    source: Arrays | None, batches: Iterator[Pair], count: int, ahead: int
) -> tuple[Pair, tuple[float, float], Iterator[Pair]]:
    """At most `count` examples to look at, the range of examples, and all batches.

    Without arrays they are those of the first batches, `ahead` of them, which are trained later.
    """
    if source is not None:
        return source.some(count), source.scale(), batches
    first = list(islice(batches, ahead))
    real, labels = tf.nest.map_structure(lambda *leaves: np.concatenate(leaves)[:count], *first)
    return (real, labels), (float(real.min()), float(real.max())), chain(first, batches)


def check_floating(array: np.ndarray) -> None:
    """Refuses examples that are not floating-point numbers.

    Raises:
        ValueError: They are not.
    """
    bounds = ""
    if array.dtype.kind in "iub":
        bounds = f" from {array.min()} to {array.max()}"
    _check_kind(array.dtype.kind, f"{array.dtype}{bounds}")


def _check_kind(kind: str, received: str) -> None:
    if kind != "f":
        raise ValueError(
            f"Examples must be floating-point numbers. Received: {received}. "
            "Scale them to the range of the generator's output, as float32."
        )


def check_finite(array: np.ndarray, what: str, begin: int = 0) -> None:
    """Refuses examples or labels that are not finite, and names the first of them.

    Raises:
        ValueError: Some are not finite.
    """
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array).reshape(len(array), -1).all(1)
    if not finite.all():
        first = int(np.argmin(finite))
        values = array[first].ravel()
        raise ValueError(
            f"{what[:1].upper()}{what[1:]} must be finite floating-point numbers. Received: "
            f"{values[~np.isfinite(values)][0]} in example {begin + first}, and "
            f"{int((~finite).sum())} of {len(finite)} examples that are not finite. Repair or "
            "leave them out."
        )


def split(pair: Pair, count: int) -> list[Pair]:
    """Pairs of about equally many examples."""
    leaves = [np.array_split(leaf, count) for leaf in tf.nest.flatten(pair)]
    return [tf.nest.pack_sequence_as(pair, part) for part in zip(*leaves, strict=True)]


def stacked(pairs: Sequence[Pair], parts: int) -> Pair:
    """Batches as the examples of steps of n parts: `[rows, ...]`, for n > 1 `[rows, n, ...]`."""

    def joined(*leaves: np.ndarray) -> np.ndarray:
        if parts == 1:
            return np.concatenate(leaves)
        array = np.stack(leaves)  # [count · n, B, ...]
        array = array.reshape(-1, parts, *array.shape[1:]).swapaxes(1, 2)
        return array.reshape(-1, parts, *array.shape[3:])

    pair: Pair = tf.nest.map_structure(joined, *pairs)
    return pair


def _single(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return np.asarray(array).astype(np.float32, copy=False)


def _shown(first: str, shape: Sequence[int]) -> str:
    return f"[{', '.join([*filter(None, [first]), *map(str, shape)])}]"
