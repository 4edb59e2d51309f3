"""Steps of a GAN: several of the critic in one call, noise of any law, the average of weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from adversaries import DATA, B, S, Z, equal, gan, optimizers, players, received, unchanged, values
from keras import layers

from vantage.training import R1, R2, WassersteinPenalty, log_sigmoid_loss, non_saturating_loss
from vantage.training.adversarial.gan import METRICS


def by_hand(real, steps, critic_steps, seed=0):
    """Eager steps; returns both models and the losses of the critic's steps."""
    (generator, discriminator), (own, other) = players(), optimizers()
    own.build(generator.trainable_variables)
    *_, random = np.random.default_rng(seed).spawn(3)
    losses = []
    for step in range(steps):
        noise = random.standard_normal((B, critic_steps + 1, Z), np.float32)
        for k in range(critic_steps):
            batch = real[step, k]
            with tf.GradientTape() as tape:
                fake = discriminator(generator(noise[:, k]))
                loss = log_sigmoid_loss(discriminator(batch), fake)
            gradients = tape.gradient(loss, discriminator.trainable_weights)
            other.apply(gradients, discriminator.trainable_variables)
            losses.append(float(loss))
        with tf.GradientTape() as tape:
            loss = non_saturating_loss(discriminator(generator(noise[:, critic_steps])))
        gradients = tape.gradient(loss, generator.trainable_weights)
        own.apply(gradients, generator.trainable_variables)
    return generator, discriminator, losses


@pytest.mark.parametrize("critic_steps", [1, 2, 3])
def test_critic_steps_equal_an_eager_loop(critic_steps):
    trainer = gan(critic_steps=critic_steps)
    real = np.random.default_rng(2).normal(size=(2, critic_steps, B, S)).astype(np.float32)
    metrics = [trainer.step(each.reshape(-1, S)) for each in real]
    generator, discriminator, losses = by_hand(real, 2, critic_steps)
    for ours, theirs in ((trainer.generator, generator), (trainer.discriminator, discriminator)):
        for a, b in zip(values(ours), values(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    means = np.reshape(losses, (2, -1)).mean(1)
    np.testing.assert_allclose([m["discriminator_loss"] for m in metrics], means, rtol=1e-5)
    assert tuple(metrics[0]) == METRICS and trainer.steps == 2


def test_each_critic_step_has_its_own_batch_of_the_epoch():
    """Five batches of four are the whole epoch of 20 examples."""
    trainer = gan(critic_steps=5)
    seen = received(trainer)
    trainer.fit(DATA, 2, report_every=1)
    for batch in seen:
        assert batch.real.shape == (B, 5, S) and batch.noise.shape == (B, 6, Z)
        assert {*map(tuple, batch.real.reshape(-1, S))} == {*map(tuple, DATA)}
    assert not np.array_equal(seen[0].noise, seen[1].noise)


def stateful():
    return [layers.BatchNormalization(momentum=0.5), layers.Dropout(0.3)]


def uniform(generator, shape):
    return generator.uniform(-1, 1, shape)


def mixture(generator, shape):
    """Draws in two calls, so that the size of a draw changes the numbers of the next."""
    centres = generator.integers(0, 3, shape[0])
    return centres[:, None] + generator.normal(0, 0.1, shape)


OPTIONS = {"critic_steps": 2, "noise": mixture, "ema": 0.9, "penalty": WassersteinPenalty()}


def test_steps_per_call_do_not_change_what_is_trained():
    whole, other = (gan(players(extra=stateful), **OPTIONS) for _ in range(2))
    whole.fit(DATA, 12, report_every=12)
    for steps, every in [(5, 1), (4, 2), (3, 1)]:
        other.fit(DATA, steps, report_every=every)
    for name in ("generator", "discriminator", "average"):
        assert equal(values(getattr(whole, name)), values(getattr(other, name))), name
    np.testing.assert_array_equal(whole.sample(5), other.sample(5))


def test_critic_steps_that_are_not_finite_are_named_and_stop_the_step():
    trainer = gan(critic_steps=3, ema=0.5)
    trainer.step(DATA[: 3 * B])  # from here on the average differs from the generator
    real = np.tile(DATA[:B], (3, 1))
    real[B:] = np.nan  # of the second step
    before, average = values(trainer.generator), values(trainer.average)
    with pytest.raises(FloatingPointError, match="ended after turn 'discriminator_1', which had"):
        trainer.step(real)
    assert equal(before, values(trainer.generator)) and equal(average, values(trainer.average))
    assert all(np.isfinite(each).all() for each in values(trainer.discriminator))
    assert trainer.steps == 1


@pytest.mark.parametrize("steps", [0, -1, 1.5, None])
def test_critic_steps_are_whole_numbers(steps):
    with pytest.raises(ValueError, match="critic_steps must be .*at least 1. Received: "):
        gan(critic_steps=steps)


def test_a_step_takes_a_batch_for_each_critic_step():
    trainer = gan(critic_steps=2)
    before = unchanged(trainer)
    with pytest.raises(ValueError, match=r"critic_steps · batch_size .*\[8, 2\]. Received: \[4, 2"):
        trainer.step(DATA[:B])
    assert equal(before, unchanged(trainer))


# --------------------------------------------------------------------------------------- noise


def codes(generator, shape):
    return np.eye(Z)[generator.integers(0, Z, shape[0])]


def test_noise_of_any_law_is_what_the_players_receive():
    trainer = gan(noise=codes)
    seen = received(trainer)
    trainer.fit(DATA, 4, report_every=2)
    noise = np.concatenate([batch.noise for batch in seen])
    assert noise.shape == (4 * B, 2, Z) and noise.dtype == np.float32
    assert (noise.sum(2) == 1).all() and set(noise.ravel()) == {0, 1}
    *_, random = np.random.default_rng(0).spawn(3)
    np.testing.assert_array_equal(noise[:B], codes(random, (2 * B, Z)).reshape(B, 2, Z))
    assert {tuple(row) for row in trainer.generator(np.eye(Z)).numpy().round(4)} >= {
        tuple(row) for row in trainer.sample(30).round(4)
    }


def test_equal_seeds_draw_equal_noise():
    one, other, third = (gan(noise=uniform, seed=seed) for seed in (1, 1, 2))
    for each in (one, other, third):
        each.fit(DATA, 4)
    assert equal(values(one.generator), values(other.generator))
    assert not equal(values(one.generator), values(third.generator))


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda generator, shape: np.zeros(shape[1:]), r"shape that it receives.*float64\[3\]"),
        (lambda generator, shape: np.full(shape, np.nan), r"float64\[2, 3\] that is not finite"),
        (lambda generator, shape: np.full(shape, 1e300), r"float64\[2, 3\] that is not finite"),
        (lambda generator, shape: None, r"noise must return finite numbers.*Received: object\[\]"),
        (lambda generator, shape: np.zeros(shape, complex), r"Received: complex128\[2, 3\]"),
        (lambda generator, shape: 1 / 0, "Received: one that raised ZeroDivisionError"),
        (lambda shape: np.zeros(shape), r"noise must be a function .* \(generator, shape\)"),
        ("uniform", "noise must be a function. Received: 'uniform'"),
    ],
)
def test_noise_that_is_none_is_refused_at_once(law, message):
    with pytest.raises(ValueError, match=message):
        gan(noise=law)


def test_a_law_that_breaks_later_changes_nothing():
    calls = []

    def law(generator, shape):
        calls.append(shape)
        return np.full(shape, np.nan) if len(calls) > 4 else generator.normal(size=shape)

    trainer = gan(noise=law, ema=0.9)
    trainer.step(DATA[:B])  # the third call, after a test and the fixed noise
    trainer.step(DATA[:B])
    before = unchanged(trainer)
    with pytest.raises(ValueError, match="that is not finite"):
        trainer.step(DATA[:B])
    assert equal(before, unchanged(trainer))


# ----------------------------------------------------------------------------------------- ema


def test_the_average_follows_all_weights_after_each_step():
    trainer = gan(players(extra=stateful), ema=0.8)
    expected = trainer.generator.get_weights()
    assert equal(expected, trainer.average.get_weights())
    for _ in range(3):
        trainer.step(DATA[:B])
        now = trainer.generator.get_weights()
        expected = [0.8 * old + 0.2 * new for old, new in zip(expected, now, strict=True)]
        for ours, theirs in zip(trainer.average.get_weights(), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_samples_are_those_of_the_average_and_training_is_not_affected():
    with_average, plain = gan(ema=0.9), gan()
    for each in (with_average, plain):
        each.fit(DATA, 10)
    assert equal(values(with_average.generator), values(plain.generator))
    noise = np.random.default_rng(0).normal(size=(6, Z)).astype(np.float32)
    expected = with_average.average(noise, training=False)
    np.testing.assert_allclose(with_average.generate(noise), expected, rtol=1e-6)
    assert not np.allclose(with_average.generate(noise), plain.generate(noise))
    assert plain.average is None


def test_the_average_of_a_subclass():
    @keras.saving.register_keras_serializable("adversaries")
    class Generator(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.dense = layers.Dense(S)

        def call(self, noise):
            return self.dense(noise)

    trainer = gan((Generator(), players()[1]), noise_shape=(Z,), ema=0.5)
    trainer.fit(DATA, 2)
    assert trainer.average is not trainer.generator and trainer.sample(3).shape == (3, S)


def test_a_generator_that_cannot_be_created_again():
    class Generator(keras.Model):
        def __init__(self, dense):
            super().__init__()
            self.dense = dense

        def call(self, noise):
            return self.dense(noise)

    with pytest.raises(ValueError, match="With ema= a generator must .* Received: Generator.*Give"):
        gan((Generator(layers.Dense(S)), players()[1]), noise_shape=(Z,), ema=0.5)


@pytest.mark.parametrize("ema", [1, 1.0, -0.1, np.nan, "0.9", np.inf, False])
def test_an_average_outside_its_range(ema):
    with pytest.raises(ValueError, match="ema must be a number from 0 to below 1. Received: ema="):
        gan(ema=ema)


def test_players_in_half_precision_with_every_penalty():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        models = players()
    finally:
        keras.config.set_dtype_policy("float32")
    penalties = [R1(1.0), R2(1.0), WassersteinPenalty(1.0)]
    history = gan(models, critic_steps=2, penalty=penalties, ema=0.9).fit(DATA, 2)
    assert np.isfinite(history["discriminator_gradient_penalty"]).all()


def test_a_layer_that_assigns_its_kernel_in_every_critic_step():
    normal = layers.SpectralNormalization(layers.Dense(6, "tanh"))
    judge = keras.Sequential([keras.Input((S,)), normal, layers.Dense(1)])
    trainer = gan((players()[0], judge), critic_steps=3)
    before = values(judge)
    trainer.fit(DATA, 4)
    assert not any(np.array_equal(a, b) for a, b in zip(before, values(judge), strict=True))
    kernel = normal.layer.kernel.numpy()
    assert np.linalg.svd(kernel, compute_uv=False)[0] < 1.5  # 1 once the power iteration is exact
