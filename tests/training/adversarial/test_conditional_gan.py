"""Conditional GANs: labels of every kind reach both players, in training, samples and pictures."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from adversaries import (
    CLASSES,
    DATA,
    LABELS,
    B,
    S,
    Z,
    conditional,
    equal,
    gan,
    optimizers,
    received,
    unchanged,
    values,
)
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.training import R1, WassersteinPenalty, log_sigmoid_loss, non_saturating_loss


@pytest.mark.parametrize("critic_steps", [1, 2])
def test_steps_equal_an_eager_loop(critic_steps):
    trainer = gan(conditional(), critic_steps=critic_steps)
    (generator, discriminator), (own, other) = conditional(), optimizers()
    *_, random = np.random.default_rng(0).spawn(3)
    size = critic_steps * B
    for step in range(2):
        real, labels = DATA[step : step + size], LABELS[step : step + size]
        trainer.step(real, labels)
        noise = random.standard_normal((B, critic_steps + 1, Z), np.float32)
        for k in range(critic_steps):
            batch, of_batch = (
                tf.constant(np.split(each, critic_steps)[k]) for each in (real, labels)
            )
            with tf.GradientTape() as tape:
                fake = discriminator([generator([tf.constant(noise[:, k]), of_batch]), of_batch])
                loss = log_sigmoid_loss(discriminator([batch, of_batch]), fake)
            gradients = tape.gradient(loss, discriminator.trainable_weights)
            other.apply(gradients, discriminator.trainable_variables)
        with tf.GradientTape() as tape:
            fake = generator([tf.constant(noise[:, critic_steps]), of_batch])
            loss = non_saturating_loss(discriminator([fake, of_batch]))
        gradients = tape.gradient(loss, generator.trainable_weights)
        own.apply(gradients, generator.trainable_variables)
    for ours, theirs in ((trainer.generator, generator), (trainer.discriminator, discriminator)):
        for a, b in zip(values(ours), values(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_labels_stay_with_their_examples():
    """Examples are their labels."""
    examples = np.stack([LABELS, -LABELS], 1).astype(np.float32)
    trainer = gan(conditional(), critic_steps=2)
    seen = received(trainer)
    trainer.fit(examples, 6, labels=LABELS)
    for batch in seen:
        np.testing.assert_array_equal(batch.real[..., 0], batch.labels)


def test_samples_have_the_chosen_labels():
    """A generator that returns its label."""
    inputs = [keras.Input((Z,)), keras.Input((), dtype="int32")]
    noise = layers.Dense(S, kernel_initializer="zeros")(inputs[0])
    generator = keras.Model(inputs, noise + layers.Reshape((1,))(inputs[1]))
    trainer = gan((generator, conditional()[1]), ema=0.5)
    chosen = np.arange(1500) % CLASSES
    np.testing.assert_array_equal(trainer.sample(1500, labels=chosen)[:, 0], chosen)
    made = trainer.generate(np.zeros((3, Z)), labels=[4, 0, 2])
    np.testing.assert_array_equal(made[:, 1], [4, 0, 2])


def nested():
    """Players with a dict of labels: a class, and a vector."""

    def model(first, end):
        more = {"class": keras.Input((), dtype="int32"), "angle": keras.Input((2,))}
        inputs = [keras.Input((first,)), more]
        coded = layers.Embedding(CLASSES, 4)(more["class"])
        hidden = layers.Concatenate()([inputs[0], coded, more["angle"]])
        return keras.Model(inputs, layers.Dense(end)(hidden))

    keras.utils.set_random_seed(0)
    return model(Z, S), model(S, 1)


def several():
    """Players with two labels as two inputs."""

    def model(first, end):
        inputs = [keras.Input((first,)), keras.Input((1,)), keras.Input((2,))]
        return keras.Model(inputs, layers.Dense(end)(layers.Concatenate()(inputs)))

    return model(Z, S), model(S, 1)


class Player(keras.Model):
    def __init__(self, end):
        super().__init__()
        self.dense = layers.Dense(end)

    def call(self, inputs):
        first, labels = inputs
        return self.dense(keras.ops.concatenate([first, labels], 1))


ANGLES = np.random.default_rng(2).normal(size=(20, 2))
NESTS = {
    "dict": (nested, {"class": LABELS, "angle": ANGLES}, {}),
    "tuple": (several, (ANGLES[:, :1], ANGLES), {}),
    "list": (several, [ANGLES[:, :1], ANGLES], {}),
    "subclass": (
        lambda: (Player(S), Player(1)),
        ANGLES,
        {"labels": ANGLES[:2], "noise_shape": (Z,)},
    ),
}


@pytest.mark.parametrize("name", NESTS)
def test_labels_of_every_kind(name, tmp_path):
    models, labels, options = NESTS[name]
    trainer = gan(models(), penalty=[R1(1.0), WassersteinPenalty(1.0)], critic_steps=2, **options)
    draw = lambda each: np.zeros((1, 1, 1), np.uint8)  # noqa: E731
    history = trainer.fit(DATA, 4, labels=labels, sample_every=2, draw=draw, logdir=tmp_path)
    assert np.isfinite(history["generator_loss"]).all()
    chosen = tf.nest.map_structure(lambda leaf: leaf[:7], labels)
    assert trainer.sample(7, labels=chosen).shape == (7, S)


def test_pictures_and_histograms_use_labels_of_real_examples(tmp_path):
    inputs = [keras.Input((Z,)), keras.Input((), dtype="int32")]
    pixels = layers.Dense(9)(inputs[0]) * 0 + layers.Reshape((1,))(inputs[1])
    generator = keras.Model(inputs, layers.Reshape((3, 3))(pixels + layers.Dense(9)(inputs[0])))
    given = [keras.Input((3, 3)), keras.Input((), dtype="int32")]
    hidden = layers.Concatenate()([layers.Flatten()(given[0]), layers.Reshape((1,))(given[1])])
    trainer = gan((generator, keras.Model(given, layers.Dense(1)(hidden))))
    images = np.random.default_rng(0).normal(size=(20, 3, 3))
    trainer.fit(images, 4, labels=LABELS, sample_every=2, logdir=tmp_path)
    events = EventAccumulator(str(tmp_path), {"tensors": 0, "images": 0}).Reload()
    assert [event.step for event in events.Images("samples")] == [0, 2, 4]
    assert [event.step for event in events.Tensors("discriminator/fake")] == [0, 2, 4]


def test_pictures_change_nothing_of_the_training(tmp_path):
    draw = lambda each: np.zeros((1, 1, 1), np.uint8)  # noqa: E731
    busy, plain = gan(conditional()), gan(conditional())
    busy.fit(DATA, 4, labels=LABELS, sample_every=4, draw=draw, logdir=tmp_path)
    plain.fit(DATA, 4, labels=LABELS)
    models = ("generator", "discriminator")
    assert all(equal(values(getattr(busy, m)), values(getattr(plain, m))) for m in models)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "Labels must be given if both players take them.*Received: no labels.*Pass labels="),
        (LABELS[:19], r"Labels must be int32\[N\], with 20 examples each. Received: int64\[19\]"),
        (LABELS[:, None], r"Labels must be int32\[N\].* Received: int64\[20, 1\]"),
        (LABELS.astype(float), r"Labels must be int32\[N\].* Received: float32\[20\]"),
        (LABELS.astype(str), r"Labels must be int32\[N\]"),
        ((LABELS, LABELS), r"Labels must be int32\[N\].* Received: "),
        ({"class": LABELS}, r"Labels must be int32\[N\].* Received: "),
        (3, "labels must be arrays whose first axis counts the examples"),
    ],
)
def test_labels_that_do_not_fit(labels, message, tmp_path):
    trainer = gan(conditional())
    before = unchanged(trainer)
    with pytest.raises(ValueError, match=message):
        trainer.fit(DATA, 2, labels=labels, logdir=tmp_path / "run")
    assert equal(before, unchanged(trainer)) and not (tmp_path / "run").exists()


def test_labels_that_are_not_finite():
    labels = ANGLES.copy()
    labels[7, 1] = np.nan
    trainer = gan(several())
    with pytest.raises(ValueError, match="Labels must be finite .* Received: nan in example 7"):
        trainer.fit(DATA, 1, labels=(ANGLES[:, :1], labels))


@pytest.mark.parametrize(
    "call",
    [
        lambda each: each.sample(3),
        lambda each: each.sample(3, labels=[1, 2]),
        lambda each: each.generate(np.zeros((2, Z)), labels=[1, 2, 3]),
        lambda each: each.step(DATA[:B]),
        lambda each: each.step(DATA[:B], LABELS[:3]),
    ],
)
def test_calls_without_their_labels(call):
    with pytest.raises(ValueError, match="Labels must be "):
        call(gan(conditional()))


def test_labels_for_players_that_take_none():
    with pytest.raises(ValueError, match="Received: labels for players that take none. Leave"):
        gan().fit(DATA, 1, labels=LABELS)


def test_players_of_which_one_takes_labels():
    for models in ((conditional()[0], plain()[1]), (plain()[0], conditional()[1])):
        with pytest.raises(ValueError, match="or both players must take labels.* Received: "):
            gan(models)


def plain():
    generator = keras.Sequential([keras.Input((Z,)), layers.Dense(S)])
    return generator, keras.Sequential([keras.Input((S,)), layers.Dense(1)])


def test_a_label_that_the_models_do_not_know_changes_nothing():
    """The error is TensorFlow's, because only the model knows its range."""
    trainer = gan(conditional(), critic_steps=2, ema=0.5)
    trainer.fit(DATA, 2, labels=LABELS)
    before = unchanged(trainer)
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
        trainer.fit(DATA, 2, labels=LABELS + CLASSES)
    assert equal(before, unchanged(trainer))
