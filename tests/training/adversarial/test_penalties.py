"""Penalties on a discriminator's slopes, and clipped weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from adversaries import DATA, B, S, Z, equal, gan, players, unchanged, values
from keras import layers

from vantage.training import R1, R2, Penalty, WassersteinPenalty, wasserstein_critic_loss


def slopes_by_hand(model, points):
    """∂D/∂x by central differences, in float64."""
    weights = [w.astype(np.float64) for w in model.get_weights()]
    judge = lambda x: (np.tanh(x @ weights[0] + weights[1]) @ weights[2] + weights[3])[:, 0]  # noqa: E731
    moved = np.eye(S) * 1e-6
    return np.stack([(judge(points + m) - judge(points - m)) / 2e-6 for m in moved], 1)


def drawn(seed=0):
    """The noise of the first step, and its ε."""
    *_, noise, mixing = np.random.default_rng(seed).spawn(4)
    return noise.standard_normal((B, 2, Z), np.float32), mixing.random((B, 1), np.float32)


def naive(penalty, trainer, real):
    noise, share = drawn()
    fake = trainer.generator(noise[:, 0]).numpy()
    points = {"real": real, "fake": fake, "between": share * real + (1 - share) * fake}
    norms = np.linalg.norm(slopes_by_hand(trainer.discriminator, points[penalty.at]), axis=1)
    if isinstance(penalty, WassersteinPenalty):
        return penalty.weight * ((norms - 1) ** 2).mean()
    return penalty.gamma / 2 * (norms**2).mean()


@pytest.mark.parametrize("penalty", [R1(2.0), R2(3.0), WassersteinPenalty(), [R1(1.0), R2(1.0)]])
def test_a_penalty_is_the_equation_at_its_points(penalty):
    trainer = gan(penalty=penalty, discriminator_loss=wasserstein_critic_loss)
    listed = penalty if isinstance(penalty, list) else [penalty]
    expected = sum(naive(each, trainer, DATA[:B]) for each in listed)
    noise, _ = drawn()
    fake = trainer.discriminator(trainer.generator(noise[:, 0]))
    loss = wasserstein_critic_loss(trainer.discriminator(DATA[:B]), fake)
    metrics = trainer.step(DATA[:B])
    np.testing.assert_allclose(metrics["discriminator_gradient_penalty"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["discriminator_loss"], loss + expected, rtol=1e-4)


@pytest.mark.parametrize("penalty", [R2(3.0), WassersteinPenalty(5.0)])
def test_the_update_follows_the_slope_of_loss_and_penalty(penalty):
    """An eager loop with nested tapes gives the same weights of the discriminator."""
    trainer = gan(penalty=penalty)
    (generator, discriminator), (noise, share) = players(), drawn()
    fake = generator(noise[:, 0])
    point = fake if penalty.at == "fake" else share * DATA[:B] + (1 - share) * fake
    with tf.GradientTape() as tape:
        with tf.GradientTape() as inner:
            inner.watch(point)
            judged = discriminator(point)
        squares = tf.reduce_sum(inner.gradient(judged, point) ** 2, 1)
        loss = tf.reduce_mean(tf.nn.softplus(-discriminator(DATA[:B])))
        loss += tf.reduce_mean(tf.nn.softplus(discriminator(fake)))
        if penalty.at == "fake":
            loss += penalty.gamma / 2 * tf.reduce_mean(squares)
        else:
            loss += penalty.weight * tf.reduce_mean((tf.sqrt(squares) - 1) ** 2)
    gradients = tape.gradient(loss, discriminator.trainable_weights)
    keras.optimizers.SGD(0.1).apply(gradients, discriminator.trainable_variables)
    trainer.step(DATA[:B])
    for a, b in zip(values(trainer.discriminator), values(discriminator), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_gradient_penalty_is_r1():
    one, other = gan(gradient_penalty=2.0), gan(penalty=R1(2.0))
    one.fit(DATA, 5)
    history = other.fit(DATA, 5)
    assert equal(values(one.discriminator), values(other.discriminator))
    assert history["discriminator_gradient_penalty"].shape == (5,)


def test_slopes_of_zero_have_a_finite_gradient():
    judge = keras.Sequential([keras.Input((S,)), layers.Dense(1, kernel_initializer="zeros")])
    trainer = gan((players()[0], judge), penalty=WassersteinPenalty(10.0))
    assert trainer.step(DATA[:B])["discriminator_gradient_penalty"] == pytest.approx(10.0, rel=1e-4)


def test_a_penalty_of_ones_own():
    class Largest(Penalty):
        at = "fake"

        def __call__(self, slopes):
            return tf.reduce_max(tf.abs(slopes))

    trainer = gan(penalty=Largest())
    expected = np.abs(
        slopes_by_hand(trainer.discriminator, trainer.generator(drawn()[0][:, 0]).numpy())
    ).max()
    value = trainer.step(DATA[:B])["discriminator_gradient_penalty"]
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 10.0}, "penalty must be an R1.* Received: 10.0. Pass an object"),
        ({"penalty": "r1"}, "penalty must be an R1.* Received: 'r1'"),
        ({"penalty": [R1(1.0), None]}, "penalty must be an R1.* Received: None"),
        ({"penalty": R1}, "penalty must be an R1.* Received: <class"),
        ({"penalty": R1(1.0), "gradient_penalty": 1.0}, "one R1 penalty at most.*Received: "),
        ({"clip_weights": 0}, "clip_weights must be a finite number above 0. Received: .*=0"),
        ({"clip_weights": np.inf}, "clip_weights must .* Received: clip_weights=inf"),
        ({"clip_weights": "0.01"}, "clip_weights must .* Received: clip_weights='0.01'"),
    ],
)
def test_what_is_no_penalty(options, message):
    with pytest.raises(ValueError, match=message):
        gan(**options)


@pytest.mark.parametrize("make", [R1, R2, WassersteinPenalty])
@pytest.mark.parametrize("weight", [-1.0, np.nan, "1"])
def test_weights_of_penalties(make, weight):
    with pytest.raises(ValueError, match="weight of a penalty must be finite and >= 0. Received: "):
        make(weight)


def test_weights_are_clipped_after_each_step_and_models_keep_their_own_constraints():
    trainer = gan(clip_weights=0.05, discriminator_loss=wasserstein_critic_loss)
    for _ in range(3):
        trainer.step(DATA[:B])
        weights = trainer.discriminator.get_weights()
        assert max(np.abs(w).max() for w in weights) == np.float32(0.05)
    assert all(v.constraint is None for v in trainer.discriminator.variables)
    assert max(np.abs(w).max() for w in trainer.generator.get_weights()) > 0.05


def test_a_constraint_of_a_layer_holds_as_well():
    own = layers.Dense(6, kernel_constraint="non_neg")
    judge = keras.Sequential([keras.Input((S,)), own, layers.Dense(1)])
    trainer = gan((players()[0], judge), clip_weights=0.05)
    trainer.step(DATA[:B])
    assert own.kernel.numpy().min() >= 0 and own.kernel.numpy().max() <= np.float32(0.05)
    assert isinstance(own.kernel.constraint, keras.constraints.NonNeg)


def test_a_refused_step_clips_nothing():
    trainer = gan(clip_weights=0.05)
    before = unchanged(trainer)
    with pytest.raises(FloatingPointError, match="must be finite"):
        trainer.step(np.full((B, S), np.nan, np.float32))
    assert equal(before[:-1], unchanged(trainer)[: len(before) - 1])
