"""State-dependent exploration: the noise, the Gaussian it makes, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from specimens import Walk

from vantage.agents import A2C, PPO, A2CConfig, PPOConfig
from vantage.agents.acting.exploration import StateNoise
from vantage.agents.acting.host import SDE_EPSILON, HostNetwork
from vantage.agents.networks.distributions import distribution
from vantage.agents.networks.models import StateLogStd
from vantage.envs import make_vec
from vantage.training import train

OBSERVATIONS, ACTIONS = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 2.0, (2,))
SDE = A2CConfig(use_sde=True, log_std_init=-0.5, net_arch=(16, 8), sde_sample_freq=3)


def agent_of(config=SDE, kind=A2C):
    agent = kind(OBSERVATIONS, ACTIONS, config, seed=0)
    weights = agent.network.get_layer("log_std").log_std
    generator = np.random.default_rng(5)
    weights.assign(generator.normal(-0.5, 0.3, weights.shape))
    agent.refresh()
    return agent


def seen(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def test_both_sides_compute_the_same_parameters():
    agent = agent_of()
    assert isinstance(agent._acting, HostNetwork)
    y, v = agent._acting(seen(7))
    expected_y, expected_v = agent.network(seen(7))
    assert y.shape == (7, 2 * 2 + 8)
    np.testing.assert_allclose(y, expected_y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(v, np.ravel(expected_v), rtol=1e-4, atol=1e-5)


def test_the_standard_deviation_is_that_of_the_paper():
    """Eq. 8, one number after the other."""
    agent = agent_of()
    y = agent.network(seen(4))[0].numpy()
    matrix = agent.network.get_layer("log_std").log_std.numpy()
    for i in range(4):
        features = y[i, 4:]
        for k in range(2):
            variance = sum(features[j] ** 2 * np.exp(matrix[j, k]) ** 2 for j in range(8))
            assert np.exp(y[i, 2 + k]) == pytest.approx(np.sqrt(variance + SDE_EPSILON), rel=1e-4)


def test_the_noise_has_the_distribution_that_is_scored():
    """Many draws for one state: mean μ(s), standard deviation σ(s); log-probs are a Gaussian's."""
    agent = agent_of()
    state = np.repeat(seen(1), 40_000, 0)
    y = agent.network(state)[0].numpy()
    noise = StateNoise(agent.network.get_layer("log_std").log_std.numpy, 1, -1)
    drawn = noise.sample(y, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(0), y[0, :2], atol=0.02)
    np.testing.assert_allclose(drawn.std(0), np.exp(y[0, 2:4]), rtol=0.02)
    own = distribution(agent._actions)(tf.constant(y[:50]), tf.constant(drawn[:50]))[0]
    z = (drawn[:50] - y[:50, :2]) / np.exp(y[:50, 2:4])
    expected = (-0.5 * z**2 - y[:50, 2:4] - 0.5 * np.log(2 * np.pi)).sum(1)
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


def test_when_the_noise_is_drawn_anew():
    """At each rollout of 7 steps and every 3 steps of it: the same state, the same noise else."""
    agent = agent_of()
    y = agent.network(seen(5))[0].numpy()
    noise = StateNoise(agent.network.get_layer("log_std").log_std.numpy, 7, 3)
    generator = np.random.default_rng(0)
    drawn = [noise.sample(y, generator) for _ in range(15)]
    changed = [t for t in range(1, 15) if not np.array_equal(drawn[t], drawn[t - 1])]
    assert changed == [3, 6, 7, 10, 13, 14]
    assert len({tuple(row) for row in drawn[0].round(5)}) == 5  # each environment its own


def test_no_gradient_reaches_the_features_through_the_noise():
    layer = StateLogStd(-0.5)
    features, mean = tf.Variable(seen(4)), tf.Variable(seen(4)[:, :2])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(mean, features)[:, 2:4])
    gradients = tape.gradient(total, [features, layer.log_std.value])
    assert gradients[0] is None and np.abs(gradients[1]).min() > 0


def test_a_state_goes_on():
    agent = agent_of()
    y = agent.network(seen(5))[0].numpy()
    read = agent.network.get_layer("log_std").log_std.numpy
    noise, generator = StateNoise(read, 7, 3), np.random.default_rng(0)
    for _ in range(5):
        noise.sample(y, generator)
    other = StateNoise(read, 7, 3)
    other.set_state(noise.get_state())
    state = generator.bit_generator.state
    first = [noise.sample(y, generator) for _ in range(6)]
    generator.bit_generator.state = state
    for a in first:
        np.testing.assert_array_equal(a, other.sample(y, generator))
    with pytest.raises(ValueError, match="must have the shape .* Resume with the network"):
        other.set_state({"matrices": np.zeros((5, 9, 2)), "steps": 1})


class Target(Walk):
    """One step an episode: the action should be half of what is seen; at best 0."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (2,))

    def _seen(self):
        return self.place

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._seen(), {}

    def step(self, action):
        return self._seen(), -float(np.square(action - self.place / 2).sum()), True, False, {}


@pytest.mark.parametrize("kind", [A2C, pytest.param(PPO, marks=pytest.mark.slow)])
def test_learns_a_function(kind):
    """Mean squared error of the most likely action: 1/6 of doing nothing, well below after."""
    shared = {"use_sde": True, "log_std_init": -1.0, "learning_rate": 3e-3, "gamma": 0.9}
    config = A2CConfig(n_steps=8, **shared)
    if kind is PPO:
        config = PPOConfig(n_steps=32, batch_size=64, n_epochs=5, **shared)
    envs = make_vec(Target, 16, seed=0)
    agent = kind(Target.observation_space, Target.action_space, config, seed=0)
    train(agent, envs, 20_000)
    states = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    error = np.square(agent.act(states, deterministic=True) - states / 2).sum(1).mean()
    assert error < 0.03, error


@pytest.mark.parametrize(
    ("actions", "config", "network", "message"),
    [
        (spaces.Discrete(2), SDE, None, "use_sde needs actions of a Box"),
        (ACTIONS, A2CConfig(use_sde=True, net_arch=()), None, "use_sde needs a hidden layer"),
        (ACTIONS, SDE, "own", "the default network. Received: a network of your own"),
    ],
)
def test_what_it_cannot_do_is_refused(actions, config, network, message):
    if network == "own":
        x = keras.Input((3,))
        network = keras.Model(x, [keras.layers.Dense(4)(x), keras.layers.Dense(1)(x)])
    with pytest.raises(ValueError, match=message):
        A2C(OBSERVATIONS, actions, config, network=network)


def test_masks_are_refused():
    agent = agent_of()
    agent.begin(2, 100)
    with pytest.raises(ValueError, match="masks are for discrete actions"):
        agent.explore(seen(2), np.ones((2, 2), bool))
