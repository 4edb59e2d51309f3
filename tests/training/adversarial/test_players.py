"""Losses of a GAN's players, named in either order."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from loss_cases import pinball, sgd

from vantage.training import (
    GAN,
)


def gan(**losses):
    generator = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    discriminator = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    return GAN(generator, discriminator, sgd(), sgd(), batch_size=4, **losses)


def test_a_player_named_the_other_way_round():
    """θ after one step is the same for (real, fake) and (fake, real), traced or not."""

    def swapped(fake_logits, real_logits):
        return tf.reduce_mean(fake_logits) - tf.reduce_mean(real_logits)

    traced = tf.function(swapped).get_concrete_function(*[tf.TensorSpec((4, 1))] * 2)
    weights = []
    for loss in (lambda real, fake: swapped(fake, real), swapped, traced):
        keras.utils.set_random_seed(0)
        players = gan(discriminator_loss=loss)
        players.step(np.ones((4, 1), np.float32))
        weights.append(players.discriminator.get_weights())
    np.testing.assert_array_equal(weights[0][0], weights[1][0])
    np.testing.assert_array_equal(weights[0][0], weights[2][0])


@pytest.mark.thinned
@pytest.mark.parametrize("player", ["generator_loss", "discriminator_loss"])
@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.BinaryCrossentropy(from_logits=True),
        "mse",
        keras.losses.hinge,
        pinball,
        lambda: 0.0,
        None,
    ],
)
def test_players_take_functions_of_logits_alone(player, loss):
    with pytest.raises(ValueError, match="loss must be a function of .*logits"):
        gan(**{player: loss})
