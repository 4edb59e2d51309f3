"""A2C: its loss twice over, episode ends, networks of one's own, and learning."""

from __future__ import annotations

import functools
import json
import math
import sys

import forks
import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from vantage.agents import A2C, A2CConfig
from vantage.agents.a2c import a2c_loss
from vantage.agents.acting.host import HostNetwork, Policy
from vantage.agents.acting.spaces import host_distribution
from vantage.agents.configs.presets import PRESETS
from vantage.agents.networks.distributions import policy_distribution
from vantage.agents.networks.mirrors import CompiledNetwork, acting_network
from vantage.envs import make_vec
from vantage.training import compile_step, differentiate, given, train
from vantage.training.experience.transitions import Transition, Transitions

OBSERVATIONS = spaces.Box(-1.0, 1.0, (4,))
ACTIONS = {
    "Discrete": spaces.Discrete(3, start=1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(4),
    "Box": spaces.Box(-2.0, 2.0, (2,)),
}


def batch(agent, size=12, seed=0):
    """Random observations, raw actions, advantages, returns and weights."""
    generator = np.random.default_rng(seed)
    observations = generator.normal(size=(size, 4)).astype(np.float32)
    raw = agent.policy.sample(observations)[1]
    vectors = generator.normal(size=(2, size)).astype(np.float32)
    return observations, (raw, *vectors, (generator.random(size) < 0.8).astype(np.float32))


def closed_form(kind, outputs, targets, config):
    """dL/dy and dL/dv of the A2C loss, derived by hand, in NumPy."""
    y, v = (np.asarray(output, float) for output in outputs)
    raw, advantages, returns, weights = (np.asarray(target, float) for target in targets)
    share = (weights / weights.sum())[:, None]
    advantages = advantages[:, None]
    if kind == "Discrete":
        p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        entropy = -(p * np.log(p)).sum(1, keepdims=True)
        score = np.eye(y.shape[1])[raw[:, 0].astype(int)] - p
        entropy_slope = -p * (np.log(p) + entropy)
    else:
        mean, log_std = np.split(y, 2, axis=1)
        z = (raw - mean) / np.exp(log_std)
        score = np.concatenate([z / np.exp(log_std), z**2 - 1], axis=1)
        entropy_slope = np.concatenate([np.zeros_like(mean), np.ones_like(mean)], axis=1)
    dy = share * (-advantages * score - config.ent_coef * entropy_slope)
    dv = share * config.vf_coef * 2 * (v - returns[:, None])
    return dy.astype(np.float32), dv.astype(np.float32)


@pytest.mark.parametrize("kind", ["Discrete", "Box"])
def test_a2c_twice(kind):
    """The TensorFlow loss, and its gradient by hand through `given`: equal weights after ten."""
    config = A2CConfig(ent_coef=0.05)
    one, two = (A2C(OBSERVATIONS, ACTIONS[kind], config, seed=3) for _ in range(2))
    observations, targets = batch(one)
    loss = a2c_loss(policy_distribution(one.action_space), config.vf_coef, config.ent_coef)
    specs = tf.nest.map_structure(lambda a: tf.TensorSpec(a.shape, a.dtype), targets)
    signature = tf.TensorSpec(observations.shape), specs
    by_loss = compile_step(
        one.network,
        differentiate(loss),
        one.network.trainable_variables,
        one.optimizer,
        signature,
    )
    outputs = two.network(observations)
    seeds = tuple(tf.TensorSpec(output.shape) for output in outputs)
    by_hand = compile_step(
        two.network,
        given,
        two.network.trainable_variables,
        two.optimizer,
        (signature[0], seeds),
    )
    before = [w.copy() for w in one.network.get_weights()]
    for _ in range(10):
        first = by_loss(observations, targets)
        second = by_hand(
            observations, closed_form(kind, two.network(observations), targets, config)
        )
        assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-4)
    pairs = zip(before, one.network.get_weights(), two.network.get_weights(), strict=True)
    for start, a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
        assert not np.array_equal(start, a)


def test_the_loss_is_a_mean_over_real_steps():
    agent = A2C(OBSERVATIONS, ACTIONS["Discrete"])
    observations, (raw, advantages, returns, weights) = batch(agent)
    loss = a2c_loss(policy_distribution(agent.action_space), 0.5, 0.01)
    outputs = agent.network(observations)
    garbage = np.where(weights > 0, 0.0, 1e6).astype(np.float32)
    real = weights > 0
    expected = loss(
        [output[real] for output in outputs],
        (raw[real], advantages[real], returns[real], weights[real]),
    )[0]
    masked = loss(outputs, (raw, advantages + garbage, returns + garbage, weights))[0]
    assert float(masked) == pytest.approx(float(expected), rel=1e-6)


class Constant(gym.Env):
    """Observation 1, reward 1, cut off after 8 steps: V = 1/(1 − γ), whatever one does."""

    observation_space = spaces.Box(0.0, 2.0, (1,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.ones(1, np.float32), 1.0, False, self.steps == 8, {}


def learned_value(mode, wrong=False):
    class Wrong(A2C):
        def observe(self, transition: Transition):
            return super().observe(transition._replace(terminated=transition.ended))

    envs = SyncVectorEnv([Constant] * 4, autoreset_mode=mode)
    config = A2CConfig(gamma=0.9, learning_rate=0.03, lr_schedule="linear")
    agent = (Wrong if wrong else A2C)(Constant.observation_space, Constant.action_space, config)
    train(agent, envs, 4_000)
    return float(agent.value(np.ones(1, np.float32)))


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_a_time_limit_is_not_the_end_of_the_world(mode):
    assert learned_value(mode) == pytest.approx(1 / (1 - 0.9), rel=0.03)


def test_taking_truncation_for_termination_learns_a_wrong_value():
    assert learned_value(AutoresetMode.NEXT_STEP, wrong=True) < 0.8 / (1 - 0.9)


@pytest.mark.thinned
@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("share_trunk", [False, True], ids=["separate", "shared"])
def test_every_action_space_acts_and_trains(kind, share_trunk):
    class Random(gym.Env):
        observation_space, action_space = OBSERVATIONS, ACTIONS[kind]

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            assert self.action_space.contains(action), action
            return self.observation_space.sample(), 1.0, self.np_random.random() < 0.1, False, {}

    envs = make_vec(Random, num_envs=3, seed=0)
    config = A2CConfig(share_trunk=share_trunk, ent_coef=0.01, normalize_advantage=True)
    agent = A2C(OBSERVATIONS, ACTIONS[kind], config)
    before = agent.network.get_weights()
    seen = []
    train(agent, envs, 300, log_every=15, callbacks=[lambda _, metrics: seen.append(metrics)])
    assert all(np.isfinite(list(metrics.values())).all() for metrics in seen)
    after = agent.network.get_weights()
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    observations = np.stack([OBSERVATIONS.sample() for _ in range(5)])
    assert all(ACTIONS[kind].contains(action) for action in agent.act(observations))
    assert ACTIONS[kind].contains(agent.act(observations[0], deterministic=True))
    assert agent.value(observations).shape == (5,) and agent.value(observations[0]).shape == ()


def mlp(outputs=2, value_shape=1, wrap=None):
    x = keras.Input((4,))
    h = keras.layers.Dense(16, "tanh")(x)
    h = h if wrap is None else wrap(h)
    value = keras.layers.Dense(1)(h)
    if value_shape == 0:
        value = keras.layers.Reshape(())(value)
    return keras.Model(x, [keras.layers.Dense(outputs)(h), value])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(16, "relu")
        self.policy, self.critic = keras.layers.Dense(2), keras.layers.Dense(1)

    def call(self, x):
        h = self.hidden(x)
        return self.policy(h), self.critic(h)


def built(model):
    model(np.zeros((1, 4), np.float32))
    return model


OWN = {
    "dense": lambda: mlp(),
    "values [B]": lambda: mlp(value_shape=0),
    "batch normalisation": lambda: mlp(wrap=keras.layers.BatchNormalization()),
    "dropout": lambda: mlp(wrap=keras.layers.Dropout(0.2, seed=0)),
    "layer normalisation": lambda: mlp(wrap=keras.layers.LayerNormalization()),
    "subclassed": lambda: built(Subclassed()),
}


@pytest.mark.parametrize("name", OWN)
def test_bring_your_own_network(name):
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    network = OWN[name]()
    agent = A2C(envs.single_observation_space, envs.single_action_space, network=network)
    assert agent.network is network
    before = network.get_weights()
    train(agent, envs, 200)
    changed = [not np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True)]
    assert all(changed)
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    _, values = network(observations, training=False)
    np.testing.assert_allclose(agent.value(observations), np.ravel(values), atol=1e-5)
    envs.close()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: mlp(outputs=3), r"policy parameters \[B, 2\].*\('B', 3\)"),
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), "two outputs"),
        (lambda: keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)]), "must accept"),
    ],
    ids=["policy head", "one output", "input"],
)
def test_a_network_that_does_not_fit_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        A2C(OBSERVATIONS, spaces.Discrete(2), network=network())


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_numpy_mirror_agrees_with_keras(kind):
    agent = A2C(OBSERVATIONS, ACTIONS[kind], A2CConfig(net_arch=(32, 16), activation="elu"))
    host, compiled = acting_network(agent.network), CompiledNetwork(agent.network)
    assert isinstance(host, HostNetwork)
    observations = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    for mirrored, reference in zip(host(observations), compiled(observations), strict=True):
        np.testing.assert_allclose(mirrored, reference, rtol=0, atol=1e-6)


def relu(x):
    """Of the name of Keras's, and another function."""
    return keras.ops.maximum(x, -1.0)


class Shifted(keras.Model):
    """A functional model that computes more than its layers."""

    def call(self, inputs, training=False):
        parameters, value = super().call(inputs, training=training)
        return parameters + 1.0, value + 10.0


ACTIVATIONS = {
    "name": "elu",
    "layer": keras.layers.LeakyReLU(negative_slope=0.1),
    "partial": functools.partial(keras.activations.relu, max_value=0.5),
    "namesake": relu,
    "lambda": lambda x: x * x,
}


@pytest.mark.thinned
@pytest.mark.parametrize("kind", [keras.Model, Shifted])
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_an_own_network_acts_as_it_is_trained(activation, kind):
    x = keras.Input((4,))
    hidden = keras.layers.Dense(16, activation)(x)
    hidden = keras.layers.Activation(activation)(hidden)
    network = kind(x, [keras.layers.Dense(3)(hidden), keras.layers.Dense(1)(hidden)])
    observations = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32) * 3
    parameters, value = network(observations)
    agent = A2C(OBSERVATIONS, ACTIONS["Discrete"], network=network)
    np.testing.assert_allclose(agent.value(observations), value[:, 0], rtol=0, atol=1e-5)
    actions = agent.act(observations, deterministic=True) - 1
    np.testing.assert_array_equal(actions, np.argmax(parameters, 1))
    mirrors = kind is keras.Model and activation == "elu"
    assert isinstance(agent._acting, HostNetwork) == mirrors


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_mirror_and_tensorflow_pick_the_same_actions(kind):
    agent = A2C(OBSERVATIONS, ACTIONS[kind], A2CConfig(net_arch=(32, 16)))
    mirror, compiled = acting_network(agent.network), CompiledNetwork(agent.network)
    assert isinstance(mirror, HostNetwork)
    networks = mirror, compiled
    policies = [Policy(host_distribution(ACTIONS[kind]), network, 3) for network in networks]
    generator = np.random.default_rng(1)
    for size in (64, 5, 64, 100, 1):  # the compiled call fills batches up
        observations = generator.normal(size=(size, 4)).astype(np.float32)
        sampled = [policy.sample(observations)[0] for policy in policies]
        likely = [
            policy.choose(network(observations)[0], deterministic=True)
            for policy, network in zip(policies, networks, strict=True)
        ]
        exact = not isinstance(ACTIONS[kind], spaces.Box)
        for one, other in (sampled, likely):
            np.testing.assert_allclose(one, other, rtol=0, atol=0 if exact else 1e-5)
    assert sorted(compiled._calls) == [64, 128]


def test_large_networks_act_through_tensorflow(recwarn):
    wide = A2C(OBSERVATIONS, spaces.Discrete(2), A2CConfig(net_arch=(512, 512)))
    assert isinstance(wide._acting, CompiledNetwork) and not recwarn.list
    narrow = A2C(OBSERVATIONS, spaces.Discrete(2), A2CConfig(net_arch=(128, 128)))
    assert isinstance(narrow._acting, HostNetwork)


def test_the_model_is_the_truth():
    """Whoever sets its weights is obeyed: by `act`, by `value`, and by the next update."""
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    agent, other = (
        A2C(envs.single_observation_space, envs.single_action_space, seed=seed) for seed in (0, 1)
    )
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    train(agent, envs, 50)
    assert not np.array_equal(agent.value(observations), other.value(observations))
    agent.network.set_weights(other.network.get_weights())
    np.testing.assert_array_equal(agent.value(observations), other.value(observations))
    np.testing.assert_array_equal(agent.act(observations, True), other.act(observations, True))
    agent.begin(2, 50)
    transitions = Transitions(envs)
    current, metrics = transitions.reset(), None
    while metrics is None:
        transition = transitions.step(agent.explore(current))
        metrics, current = agent.observe(transition), transition.observations
    moved = [
        np.abs(a - b).max()
        for a, b in zip(agent.network.get_weights(), other.network.get_weights(), strict=True)
    ]
    assert 0 < max(moved) < 0.1  # one small step from the weights that were set


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (np.zeros(3, np.float32), r"shape \[4\].*Received: float32 of shape \[3\]"),
        (np.zeros((2, 3), np.float32), r"Received: float32 of shape \[2, 3\]"),
        (np.zeros((2, 2, 4), np.float32), r"Received: float32 of shape \[2, 2, 4\]"),
        (np.array([["a"] * 4]), "Received: <U1"),
        (np.zeros((2, 4), complex), "Received: complex128"),
        (np.zeros((2, 4), int), "Received: int64"),
        ([object()] * 4, "Received: object"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_wrong_observations_are_refused(observations, message):
    agent = A2C(OBSERVATIONS, spaces.Discrete(2))
    for function in (agent.act, agent.value):
        with pytest.raises(ValueError, match=message):
            function(observations)


def test_unsupported_spaces_are_refused():
    with pytest.raises(
        ValueError, match=r"observation space must hold a Box.*TransformObservation"
    ):
        A2C(spaces.Text(3), spaces.Discrete(2))
    with pytest.raises(ValueError, match="action space must be Discrete"):
        A2C(OBSERVATIONS, spaces.Text(3))
    with pytest.raises(ValueError, match="action space must be Discrete"):
        A2C(OBSERVATIONS, spaces.Box(0, 5, (1,), np.int64))


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"gamma": 1.5},
        {"gae_lambda": -0.1},
        {"n_steps": 0},
        {"ent_coef": -1.0},
        {"max_grad_norm": 0.0},
        {"net_arch": (64, 0)},
        {"optimizer": "sgd"},
        {"lr_schedule": "cosine"},
        {"activation": "swish"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=rf"{name} must be .*Received: {name}="):
        A2CConfig(**settings)


def test_a_loss_that_is_not_finite_changes_nothing():
    class Bad(gym.Env):
        observation_space, action_space = OBSERVATIONS, spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(4, np.float32), {}

        def step(self, action):
            return np.zeros(4, np.float32), math.nan, False, False, {}

    agent = A2C(OBSERVATIONS, spaces.Discrete(2))
    before = agent.network.get_weights()
    with pytest.raises(FloatingPointError, match=r"reward must be finite. Received: nan.*loss=nan"):
        train(agent, make_vec(Bad, num_envs=2), 100)
    for a, b in zip(before, agent.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_learning_rate_falls_linearly():
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    config = A2CConfig(lr_schedule="linear", learning_rate=1e-3)
    agent = A2C(envs.single_observation_space, envs.single_action_space, config)
    points = []
    train(
        agent,
        envs,
        1_000,
        log_every=10,
        callbacks=[lambda step, metrics: points.append((step, metrics["train/learning_rate"]))],
    )
    steps, rates = np.array(points).T
    # A point holds the rate of the update that ended at its step, 10 steps of the 1,000 earlier.
    np.testing.assert_allclose(rates, 1e-3 * (1 - (steps - 10) / 1_000), rtol=0.05, atol=3e-5)
    assert rates[0] > 0.95e-3 and rates[-1] < 0.1e-3


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(1e-3),
        keras.optimizers.Lion(keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-2)),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_any_keras_optimizer_may_be_passed(optimizer):
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    agent = A2C(envs.single_observation_space, envs.single_action_space, optimizer=optimizer)
    before = agent.network.get_weights()
    train(agent, envs, 100)
    assert agent.optimizer is optimizer
    assert any(
        not np.array_equal(a, b) for a, b in zip(before, agent.network.get_weights(), strict=True)
    )


def test_the_update_is_traced_once():
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    network = mlp(wrap=Counting())
    agent = A2C(envs.single_observation_space, envs.single_action_space, network=network)
    agent.begin(2, 1_000)
    agent.act(np.zeros((2, 4), np.float32))
    compiled = len(traces)
    transitions = Transitions(envs)
    observations = transitions.reset()
    for _ in range(50):
        transition = transitions.step(agent.explore(observations))
        agent.observe(transition)
        observations = transition.observations
    assert agent.updates == 10
    assert len(traces) <= compiled + 1  # one more for acting on another batch size


def check_solved(seed, folder):
    """By the commands that made the published table: they also set TensorFlow's kernels."""
    command = [sys.executable, "-m", "vantage.scripts.main"]
    train_it = ["train", "a2c", "CartPole-v1", "--seed", str(seed), "--logdir", str(folder)]
    for arguments in (train_it, ["evaluate", str(folder)]):
        forks.run([*command, *arguments], check=True, capture_output=True)
    summary, evaluation = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("summary", "evaluation")
    )
    assert summary["solved_at_steps"] is not None and summary["solved_at_steps"] <= 500_000
    assert summary["mean_return_100"] >= 475
    assert evaluation["mean"] >= 475 and evaluation["episodes"] == 100


def test_the_shipped_setting_learns_cartpole():
    """Not to the end, which takes ten times as long; an untrained policy gets about 22."""
    preset = PRESETS["a2c", "CartPole-v1"]
    envs = make_vec("CartPole-v1", preset.num_envs, seed=0, vectorization=preset.vectorization)
    agent = A2C(envs.single_observation_space, envs.single_action_space, preset.config, seed=0)
    assert train(agent, envs, 20_000)["mean_return_100"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_the_shipped_setting_solves_cartpole_from_every_seed(seed, tmp_path):
    check_solved(seed, tmp_path / "run")
