"""Where a GAN's examples come from: datasets of every kind, and memory maps."""

import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from adversaries import DATA, LABELS, B, S, conditional, equal, gan, received, unchanged, values
from keras import layers

Dataset = tf.data.Dataset


def stream(data=DATA, **options):
    spec = tf.TensorSpec(options.get("shape", (S,)), data.dtype)
    return Dataset.from_generator(lambda: iter(data), output_signature=spec)


KINDS = {
    "single": lambda: Dataset.from_tensor_slices(DATA),
    "batched": lambda: Dataset.from_tensor_slices(DATA).batch(B, drop_remainder=True),
    "other_batches": lambda: Dataset.from_tensor_slices(DATA).batch(7),
    "unknown_length": stream,
    "unknown_shape": lambda: stream(shape=(None,)),
    "unknown_rank": lambda: stream(shape=None),
    "endless": lambda: Dataset.from_tensor_slices(DATA).repeat(),
    "float64": lambda: Dataset.from_tensor_slices(DATA.astype(float)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_of_every_kind_yield_their_examples_in_order(kind):
    """Five batches of four are an epoch of 20 examples."""
    trainer = gan()
    seen = received(trainer)
    trainer.fit(KINDS[kind](), 8, report_every=2)
    real = np.concatenate([batch.real for batch in seen])
    np.testing.assert_array_equal(real, np.concatenate([DATA, DATA[:12]]))


def test_critic_steps_take_consecutive_batches_of_a_dataset():
    trainer = gan(critic_steps=2)
    seen = received(trainer)
    trainer.fit(Dataset.from_tensor_slices(DATA), 2, report_every=1)
    for step, batch in enumerate(seen):
        for k in range(2):
            begin = (2 * step + k) * B
            np.testing.assert_array_equal(batch.real[:, k], DATA[begin : begin + B])


def test_the_end_of_an_epoch_that_fills_no_batch_is_left_out():
    trainer = gan()
    seen = received(trainer)
    trainer.fit(Dataset.from_tensor_slices(DATA[:10]), 4, report_every=1)
    real = [batch.real for batch in seen]
    for k in range(4):
        np.testing.assert_array_equal(real[k], DATA[4 * (k % 2) : 4 * (k % 2) + 4])


@pytest.mark.parametrize("is_batched", [False, True])
def test_pairs_of_examples_and_labels(is_batched):
    trainer = gan(conditional())
    seen = received(trainer)
    pairs = Dataset.from_tensor_slices((DATA, LABELS))
    trainer.fit(pairs.batch(3) if is_batched else pairs, 5)
    np.testing.assert_array_equal(np.concatenate([b.real for b in seen]), DATA)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in seen]), LABELS)


def test_pictures_take_no_examples_of_the_training(tmp_path):
    """A dataset that is shuffled anew whenever it is iterated."""

    def shuffled():
        return Dataset.from_tensor_slices(DATA).shuffle(20, seed=3)

    draw = lambda each: np.zeros((1, 1, 1), np.uint8)  # noqa: E731
    busy, plain = gan(), gan()
    busy.fit(shuffled(), 12, sample_every=3, draw=draw, logdir=tmp_path)
    plain.fit(shuffled(), 12)
    assert equal(values(busy.generator), values(plain.generator))


def once():
    """An iterable that is read once, as a stream is."""
    left = iter(DATA)
    spec = tf.TensorSpec((S,), tf.float32)
    return Dataset.from_generator(lambda: left, output_signature=spec)


def test_a_dataset_that_ends_early_says_so_and_keeps_the_steps_before():
    trainer = gan()
    with pytest.raises(ValueError, match="Received: an end after 5 batches of batch_size=4. Pass"):
        trainer.fit(once(), 12, report_every=1)
    assert trainer.steps == 5


def failing():
    def examples():
        yield from DATA[:6]
        raise OSError("the disk is gone")

    return Dataset.from_generator(examples, output_signature=tf.TensorSpec((S,), tf.float32))


BAD = DATA.copy()
BAD[9] = np.inf


@pytest.mark.parametrize(
    ("dataset", "steps", "message"),
    [
        (Dataset.from_tensor_slices(DATA[:3]), 0, "an end after 0 batches of batch_size=4"),
        (Dataset.from_tensor_slices(DATA[:0]), 0, "an end after 0 batches"),
        (Dataset.from_tensor_slices(DATA[:, :1]), 0, r"must yield examples \[2\].*Received: one"),
        (Dataset.from_tensor_slices((DATA, LABELS)), 0, r"must yield examples \[2\].*one of \("),
        (Dataset.from_tensor_slices((DATA * 9).astype(int)), 0, "floating-point.* Received: int64"),
        (
            stream(DATA[:, :1], shape=(None,)),
            0,
            r"yield examples \[2\].*Received: \[1\] in batch 1",
        ),
        (failing(), 1, "without an error. Received after 1 batches: .*the disk is gone"),
        (Dataset.from_tensor_slices(BAD), 2, "Examples of batch 3 .*finite.* inf in example 1"),
    ],
)
def test_datasets_that_do_not_fit(dataset, steps, message, tmp_path):
    trainer = gan()
    before = unchanged(trainer)
    with pytest.raises(ValueError, match=message):
        trainer.fit(dataset, 12, report_every=1, logdir=None if steps else tmp_path / "run")
    assert trainer.steps == steps and not (tmp_path / "run").exists()
    assert steps or equal(before, unchanged(trainer))


def test_labels_beside_a_dataset_are_refused():
    with pytest.raises(ValueError, match="yield labels together with examples. Received: .*zip"):
        gan(conditional()).fit(Dataset.from_tensor_slices(DATA), 1, labels=LABELS)


# --------------------------------------------------------------------------------- memory maps


def mapped(path, array):
    written = np.memmap(path, array.dtype, "w+", shape=array.shape)
    written[:] = array
    written.flush()
    return np.memmap(path, array.dtype, "r", shape=array.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_memory_map_trains_as_an_array_does(dtype, tmp_path):
    one, other = gan(), gan()
    one.fit(DATA.astype(dtype), 7)
    other.fit(mapped(tmp_path / "map", DATA.astype(dtype)), 7)
    assert equal(values(one.generator), values(other.generator))


def test_a_memory_map_is_never_copied_whole(tmp_path):
    size = 2**22
    array = mapped(tmp_path / "map", np.ones((size, S)))  # 64 MiB
    trainer = gan()
    trainer.fit(DATA, 2)  # compiles
    tracemalloc.start()
    trainer.fit(array, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    order = 8 * size  # the permutation
    assert peak < order + array.nbytes / 8, peak


def test_bad_numbers_in_a_memory_map_are_found_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("vantage.training.adversarial.data.CHUNK", 8)
    with pytest.raises(ValueError, match="Received: inf in example 9"):
        gan().fit(mapped(tmp_path / "map", BAD), 1)


# -------------------------------------------------------------------------------------- images


def test_images_of_a_dataset_by_convolutions(tmp_path):
    keras.utils.set_random_seed(0)
    generator = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(32, "relu"),
            layers.Reshape((2, 2, 8)),
            layers.Conv2DTranspose(8, 4, 2, "same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2DTranspose(1, 4, 2, "same", activation="tanh"),
        ]
    )
    discriminator = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(8, 4, 2, "same"), layers.LeakyReLU(0.2)]
        + [layers.Flatten(), layers.Dense(1)]
    )
    images = np.random.default_rng(0).uniform(-1, 1, (30, 8, 8, 1)).astype(np.float32)
    dataset = Dataset.from_tensor_slices(images).shuffle(30, seed=0).batch(6).prefetch(1)
    trainer = gan((generator, discriminator), critic_steps=2, ema=0.9, gradient_penalty=1.0)
    history = trainer.fit(dataset, 4, sample_every=2, logdir=tmp_path)
    assert np.isfinite(history["discriminator_loss"]).all()
    assert trainer.sample(3).shape == (3, 8, 8, 1)
