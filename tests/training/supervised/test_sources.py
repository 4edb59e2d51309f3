"""Where batches come from: every kind of data, orders that depend on seed and epoch alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vantage.training.supervised.sources import source_of

X = np.arange(22, dtype=np.float32).reshape(11, 2)
T = np.arange(11, dtype=np.float32)


class Batches(keras.utils.PyDataset):
    def __init__(self, **options):
        super().__init__(**options)
        self.ended = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[4 * index : 4 * index + 4], T[4 * index : 4 * index + 4] + 100 * self.ended

    def on_epoch_end(self):
        self.ended += 1


def shuffled():
    return tf.data.Dataset.from_tensor_slices((X, T)).shuffle(11, seed=3).batch(4)


class Loader:
    """Can be read again, as a DataLoader."""

    def __len__(self):
        return 3

    def __iter__(self):
        return ((X[k : k + 4], T[k : k + 4]) for k in (0, 4, 8))


KINDS = {
    "arrays": lambda: source_of(X, T, batch_size=4, shuffle=True, seed=5),
    "a nest": lambda: source_of({"a": X, "b": [T]}, T, batch_size=4),
    "a Dataset": lambda: source_of(shuffled()),
    "a PyDataset": lambda: source_of(Batches(), shuffle=True),
    "workers": lambda: source_of(Batches(workers=3, max_queue_size=2)),
    "a loader": lambda: source_of(Loader()),
    "sequences": lambda: source_of([np.arange(k + 1.0) for k in range(11)], T, batch_size=4),
    "steps": lambda: source_of(shuffled().repeat(), steps_per_epoch=5),
}


def epochs(source, count=3):
    return [
        [tf.nest.map_structure(np.array, batch) for batch in source.epoch(e)] for e in range(count)
    ]


def assert_same(one, other):
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_source_yields_what_was_left(kind):
    """In a new process: another source, in the middle of the third epoch."""
    whole = epochs(KINDS[kind]())
    assert [len(each) for each in whole] == [KINDS[kind]().batches] * 3
    assert_same(list(KINDS[kind]().epoch(2, skip=1)), whole[2][1:])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "steps"])
def test_an_epoch_has_every_example_once(kind):
    for batches in epochs(KINDS[kind]()):
        seen = np.concatenate([batch.targets for batch in batches]) % 100
        assert sorted(seen) == T.tolist()
        assert sorted(map(len, (batch.targets for batch in batches))) == [3, 4, 4]


def test_orders_differ_from_epoch_to_epoch():
    for kind in ("arrays", "a Dataset"):
        first, second, _ = epochs(KINDS[kind]())
        assert any(
            (a.targets != b.targets).any()
            for a, b in zip(first, second, strict=True)
            if len(a.targets) == len(b.targets)
        )


def test_sequences_are_padded_to_few_lengths():
    lengths = np.random.default_rng(0).integers(1, 200, 500)
    source = source_of([np.ones((n, 2)) for n in lengths], lengths, batch_size=8, shuffle=True)
    shapes, padded = set(), 0
    for batch in source.epoch(0):
        shapes.add(batch.inputs.shape[1])
        np.testing.assert_array_equal((batch.inputs.sum((1, 2)) / 2).astype(int), batch.targets)
        padded += batch.inputs[..., 0].size
    assert len(shapes) <= 24 and padded < 1.35 * lengths.sum()


def test_a_memmap_is_read_by_rows(tmp_path):
    array = np.memmap(tmp_path / "data", np.float64, "w+", shape=(100, 3))
    array[:] = np.arange(300).reshape(100, 3)
    source = source_of(array, batch_size=10)
    batch = next(source.epoch(0))
    assert batch.inputs.dtype == np.float32 and batch.inputs[1, 2] == 5.0


def test_weights_and_missing_targets():
    (batch,) = source_of(X, T, np.ones(11)).epoch(0)
    assert batch.weights.shape == (11,)
    (batch,) = source_of(X).epoch(0)
    assert batch.targets == () and batch.weights is None
    batches = source_of(tf.data.Dataset.from_tensor_slices((X, T, T)).batch(8)).epoch(0)
    assert [len(batch.weights) for batch in batches] == [8, 3]


def test_a_generator_is_read_once():
    source = source_of((X, T) for _ in range(3))
    assert len(list(source.epoch(0))) == 3
    with pytest.raises(ValueError, match="gives its batches once.*steps_per_epoch"):
        list(source.epoch(1))
    source = source_of(((X, T) for _ in range(3)), steps_per_epoch=2)
    assert len(list(source.epoch(0))) == 2
    with pytest.raises(ValueError, match="ended in epoch 2. Lower steps_per_epoch"):
        list(source.epoch(1))


def failing():
    yield X, T
    raise OSError("the disk")


BAD = {
    "unequal": (lambda: source_of(X, T[:3]), "equally many examples"),
    "empty": (lambda: source_of(X[:0], T[:0]), "at least one"),
    "weights": (lambda: source_of(X, T, np.ones(3)), "equally many examples"),
    "four parts": (
        lambda: list(source_of(iter([(X, T, T, T)])).epoch(0)),
        "a tuple of 4 in batch 0",
    ),
    "unequal batch": (
        lambda: list(source_of(iter([(X, T[:2])])).epoch(0)),
        "in batch 0 of the data",
    ),
    "targets beside": (lambda: source_of(shuffled(), T), "must hold their targets"),
    "endless": (lambda: source_of(shuffled().repeat()), "never ends needs steps_per_epoch"),
    "no batch": (lambda: source_of(shuffled().take(0)), "must hold a batch"),
    "steps of arrays": (lambda: source_of(X, T, steps_per_epoch=2), "Leave it out"),
    "texts": (lambda: list(source_of([object()], [1]).epoch(0)), "must be arrays"),
    "ragged": (lambda: source_of([np.ones((2, 3)), np.ones((3, 4))]), "elements of one shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_exceptions_of_the_data_reach_the_caller():
    with pytest.raises(OSError, match="the disk"):
        list(source_of(failing()).epoch(0))
