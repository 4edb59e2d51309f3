"""The order, the shapes and the metrics of an auxiliary loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from loss_cases import pinball

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import (
    differentiate,
    train,
)


def a2c(loss):
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    keras.utils.set_random_seed(0)
    return A2C(*spaces, A2CConfig(n_steps=4), auxiliary_loss=loss), envs


def test_the_order_of_an_auxiliary_loss():
    losses = (
        lambda outputs, targets: tf.reduce_mean(outputs[1][:, 0] * targets.returns),
        lambda y_true, y_pred: tf.reduce_mean(y_pred[1][:, 0] * y_true.returns),
    )
    weights = []
    for loss in losses:
        agent, envs = a2c(loss)
        train(agent, envs, 16)
        weights.append(agent.network.get_weights())
    assert all(map(np.array_equal, *weights))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("mse", "must be a TensorFlow function of the outputs"),
        (keras.losses.MeanSquaredError(), "must be a TensorFlow function of the outputs"),
        (differentiate(pinball), "not lifted yet"),
        (lambda outputs: 0.0, "two arguments"),
    ],
)
def test_what_is_no_auxiliary_loss(loss, message):
    with pytest.raises(ValueError, match=message):
        a2c(loss)


def test_an_auxiliary_loss_that_broadcasts_values_and_returns():
    """Values `[B, 1]` minus returns `[B]` are `[B, B]`."""
    agent, envs = a2c(lambda y, targets: tf.reduce_mean((y[1] - targets.returns) ** 2))
    with pytest.raises(ValueError, match=r"broadcast to all pairs.*\(8, 1\) and \(8,\)"):
        train(agent, envs, 16)


@pytest.mark.parametrize("name", ["value_loss", "auxiliary_loss", "learning_rate", "seconds"])
def test_metrics_of_an_auxiliary_loss_are_not_named_like_the_agents(name):
    agent, envs = a2c(lambda y, targets: (tf.reduce_mean(y[0]), {name: 1.0}))
    with pytest.raises(ValueError, match=f"the agent does not use itself. Received: {name}. Ren"):
        train(agent, envs, 16)


def test_an_auxiliary_loss_must_be_passed_again(tmp_path):
    def quiet(outputs, targets):
        return 0.0 * tf.reduce_sum(outputs[0]), {"its_own": tf.reduce_mean(targets.returns)}

    def run(auxiliary_loss, steps, **options):
        agent, envs = a2c(auxiliary_loss)
        points = []
        options |= {"log_every": 1, "callbacks": [lambda _, m: points.append(m)]}
        train(agent, envs, steps, logdir=tmp_path / "run", **options)
        return points

    points = run(quiet, 40)
    assert points[0]["train/auxiliary_loss"] == 0.0 and "train/its_own" in points[0]
    with pytest.raises(ValueError, match="without an auxiliary loss.*saved with it"):
        run(None, 80, resume=True)
    run(quiet, 80, resume=True)
