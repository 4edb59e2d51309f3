"""GAN: killed and resumed to the same bits, saved and loaded."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from vantage.training import GAN
from vantage.training.tensorboard.summaries import scatter

RING = np.random.default_rng(0).normal(size=(70, 2)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, 70)


def players():
    keras.utils.set_random_seed(0)
    generator = keras.Sequential([keras.Input((4,)), layers.Dense(16, "relu"), layers.Dense(2)])
    discriminator = keras.Sequential(
        [keras.Input((2,)), layers.Dense(16), layers.LeakyReLU(0.2), layers.Dropout(0.2, seed=1)]
    )
    discriminator.add(layers.Dense(1))
    return generator, discriminator


def conditional():
    keras.utils.set_random_seed(0)
    models = []
    for size, outputs in ((4, 2), (2, 1)):
        inputs, labels = keras.Input((size,)), keras.Input((), dtype="int32")
        hidden = layers.concatenate([inputs, layers.Embedding(3, 2)(labels)])
        models.append(keras.Model([inputs, labels], layers.Dense(outputs)(hidden)))
    return models


def adam():
    return keras.optimizers.Adam(0.01, beta_1=0.5)


def gan(make=players, **options):
    return GAN(*make(), adam(), adam(), batch_size=8, seed=3, **options)


def dataset():
    return tf.data.Dataset.from_tensor_slices(RING).shuffle(70, seed=5).batch(16)


class Killed(Exception):
    pass


def killing(step, metrics):
    if step >= 12:
        raise Killed


CASES = {
    "plain": ({}, lambda: {"examples": RING}),
    "an average": ({"ema": 0.9}, lambda: {"examples": RING}),
    "critic steps": ({"critic_steps": 2, "gradient_penalty": 1.0}, lambda: {"examples": RING}),
    "a Dataset": ({}, lambda: {"examples": dataset()}),
    "labels": ({"make": conditional}, lambda: {"examples": RING, "labels": LABELS}),
}


def weights(trainer):
    models = trainer.generator, trainer.discriminator, trainer.average
    return [array for model in models if model is not None for array in model.get_weights()]


@pytest.mark.parametrize("case", CASES)
def test_a_killed_fit_is_resumed_to_the_same_bits(case, tmp_path):
    """Weights, slots, averages, noise, the order of the examples, history, samples."""
    options, data = CASES[case]
    whole, killed, again = gan(**options), gan(**options), gan(**options)
    every = {"report_every": 4}
    if case == "plain":  # pictures draw from the GAN, too
        every |= {"sample_every": 4, "draw": lambda gan: scatter(RING, gan.sample(20))}
    wanted = whole.fit(**data(), steps=24, logdir=tmp_path / "whole", **every)
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        killed.fit(
            **data(), steps=24, logdir=folder, checkpoint_every=1, callbacks=[killing], **every
        )
    found = again.fit(
        **data(), steps=24, logdir=folder, resume=True, callbacks=[lambda *_: None], **every
    )
    for one, other in zip(weights(again), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    assert again.steps == whole.steps == 24
    labels = {"labels": LABELS[:5]} if case == "labels" else {}
    np.testing.assert_array_equal(again.sample(5, **labels), whole.sample(5, **labels))


def test_it_is_saved_and_loaded(tmp_path):
    one, other = gan(ema=0.9), gan(ema=0.9)
    one.fit(RING, 12)
    one.save(tmp_path / "saved")
    other.load(tmp_path / "saved")
    for each in (one, other):
        each.fit(RING, 7)
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="must hold the variables of the players"):
        gan().load(tmp_path / "saved")  # without an average
    with pytest.raises(ValueError, match="checkpoint|manifest|readable"):
        gan().load(tmp_path / "nothing")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_callbacks_of_keras():
    rate = keras.callbacks.LearningRateScheduler(lambda step, _: 0.01 / (step + 1))
    stopping = keras.callbacks.EarlyStopping(
        "generator_loss", mode="min", patience=1, min_delta=9.0
    )
    trainer = gan()
    history = trainer.fit(RING, 40, report_every=8, callbacks=[rate, stopping])
    assert trainer.steps == 16 and len(history["learning_rate"]) == 2
