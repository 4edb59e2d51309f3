"""Losses of a GAN's players: equations, gradients, smoothing, and what they reduce to."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from vantage.training import (
    GAN,
    R1,
    estimated,
    external,
    given,
    hinge_loss,
    least_squares_discriminator_loss,
    least_squares_loss,
    log_sigmoid_loss,
    wasserstein_critic_loss,
    wasserstein_loss,
)
from vantage.training.adversarial.losses import name_of

smoothed = functools.partial(log_sigmoid_loss, smoothing=0.1)


def log_sigmoid(x):
    return np.log(1 / (1 + np.exp(-x)))


def smoothed_by_hand(real, fake):
    of_real = 0.9 * log_sigmoid(real) + 0.1 * log_sigmoid(-real)
    return -of_real.mean() - log_sigmoid(-fake).mean()


NAIVE = {
    "wasserstein_critic": (wasserstein_critic_loss, lambda r, f: f.mean() - r.mean()),
    "wasserstein": (wasserstein_loss, lambda f: -f.mean()),
    "hinge": (
        hinge_loss,
        lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
    ),
    "least_squares_discriminator": (
        least_squares_discriminator_loss,
        lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
    ),
    "least_squares": (least_squares_loss, lambda f: ((f - 1) ** 2).mean() / 2),
    "smoothed": (smoothed, smoothed_by_hand),
}


@pytest.mark.parametrize("name", NAIVE)
def test_values_and_slopes_are_those_of_the_equation(name):
    loss, naive = NAIVE[name]
    count = 1 if name in ("wasserstein", "least_squares") else 2
    logits = [np.random.default_rng(k).normal(0, 2, (7, 1)) for k in range(count)]
    tensors = [tf.constant(each) for each in logits]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = loss(*tensors)
    np.testing.assert_allclose(value, naive(*logits), rtol=1e-9)
    for k, gradient in enumerate(tape.gradient(value, tensors)):
        for row in range(7):
            low, high = ([each.copy() for each in logits] for _ in range(2))
            low[k][row] -= 1e-6
            high[k][row] += 1e-6
            slope = (naive(*high) - naive(*low)) / 2e-6
            np.testing.assert_allclose(gradient[row, 0], slope, rtol=1e-6, atol=1e-8)


def test_smoothing_has_its_optimum_at_the_label():
    """With one half of each, D = log((1 − α) / (1 + α)) is the smoothed optimum, not 0."""
    best = np.log(0.9 / 1.1)
    at = [float(smoothed(tf.constant([x]), tf.constant([x]))) for x in (best - 0.1, best, 0.0)]
    assert at[1] < at[0] and at[1] < at[2]


@pytest.mark.parametrize("smoothing", [-0.1, 0.6, np.nan, "0.1", True])
def test_smoothing_that_is_none(smoothing):
    with pytest.raises(ValueError, match="smoothing must be a number from 0 to 0.5.*Received: "):
        log_sigmoid_loss(tf.zeros(3), tf.zeros(3), smoothing=smoothing)


def gan(**options):
    keras.utils.set_random_seed(0)
    generator = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    discriminator = keras.Sequential([keras.Input((2,)), layers.Dense(4, "tanh"), layers.Dense(1)])
    return GAN(
        generator, discriminator, keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1), **options
    )


@pytest.mark.parametrize(
    ("of_generator", "of_discriminator"),
    [
        (wasserstein_loss, wasserstein_critic_loss),
        (wasserstein_loss, hinge_loss),
        (least_squares_loss, least_squares_discriminator_loss),
        (wasserstein_loss, smoothed),
    ],
)
def test_a_step_reports_the_loss_of_its_logits(of_generator, of_discriminator):
    trainer = gan(generator_loss=of_generator, discriminator_loss=of_discriminator, batch_size=4)
    before = trainer.discriminator.get_weights()
    real = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)
    noise = np.random.default_rng(0).spawn(3)[2].standard_normal((4, 2, 2), np.float32)
    fake = trainer.generator(noise[:, 0])
    expected = of_discriminator(trainer.discriminator(real), trainer.discriminator(fake))
    np.testing.assert_allclose(trainer.step(real)["discriminator_loss"], expected, rtol=1e-5)
    assert not np.array_equal(before[0], trainer.discriminator.get_weights()[0])


def test_the_name_of_a_bound_loss_has_its_arguments():
    assert name_of(smoothed) == "log_sigmoid_loss(smoothing=0.1)"
    assert name_of(wasserstein_loss) == "wasserstein_loss"


def squared_judge(outputs, _):
    """½·mean (D(x) − 1)² + ½·mean D(G(z))², and its gradients."""
    real, fake = outputs
    value = 0.5 * np.mean((real - 1) ** 2) + 0.5 * np.mean(fake**2)
    return value, ((real - 1) / real.size, fake / fake.size)


def squared_player(fake, _):
    """½·mean (D(G(z)) − 1)², and its gradient."""
    return 0.5 * np.mean((fake - 1) ** 2), (fake - 1) / fake.size


def least_squares(lifts, **options):
    """A GAN with the losses of LSGAN, some of them lifted."""
    keras.utils.set_random_seed(0)
    generator = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    discriminator = keras.Sequential([keras.Input((2,)), layers.Dense(4, "tanh"), layers.Dense(1)])
    losses = {
        "discriminator_loss": least_squares_discriminator_loss,
        "generator_loss": least_squares_loss,
    }
    optimizers = keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.01)
    return GAN(generator, discriminator, *optimizers, batch_size=8, **losses | lifts, **options)


LIFTED = {
    "discriminator": {"discriminator_loss": external(squared_judge)},
    "generator": {"generator_loss": external(squared_player)},
    "both": {
        "discriminator_loss": external(squared_judge),
        "generator_loss": external(squared_player),
    },
}


@pytest.mark.parametrize("case", LIFTED)
@pytest.mark.parametrize("options", [{}, {"critic_steps": 2, "penalty": R1(0.5)}], ids=["1", "2"])
def test_losses_in_numpy_train_as_those_in_tensorflow(case, options):
    examples = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    plain, other = least_squares({}, **options), least_squares(LIFTED[case], **options)
    wanted, found = (each.fit(examples, 12, report_every=4) for each in (plain, other))
    for name in ("generator_loss", "discriminator_loss", "discriminator_real"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5)
    for one, two in zip(plain.generator.weights, other.generator.weights, strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=1e-4, atol=1e-5)


def test_a_score_trains_a_generator():
    """A measurement of each example's logit, without a gradient."""
    examples = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    score = estimated(lambda fake, _: np.square(fake - 1)[:, 0])
    gan = least_squares({"generator_loss": score})
    before = gan.generator.get_weights()
    gan.fit(examples, 8)
    assert any((a != b).any() for a, b in zip(before, gan.generator.get_weights(), strict=True))


def test_a_gradient_is_not_given_to_a_player():
    with pytest.raises(ValueError, match="generator_loss must be a function of logits, or lifted"):
        least_squares({"generator_loss": given})
