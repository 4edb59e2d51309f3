"""SAC: its losses against NumPy, the squashed Gaussian, turns, resuming, and what it refuses."""

import math
from dataclasses import replace

import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from vantage.agents import SAC, SACConfig
from vantage.agents.acting.host import HostNetwork
from vantage.agents.acting.squashed import SquashedGaussian
from vantage.agents.base.critics import CriticTargets
from vantage.agents.base.off_policy import Examples
from vantage.agents.sac import actor_loss, critic_loss, squashed
from vantage.envs import make_vec
from vantage.training import evaluate, train
from vantage.training.core.lifts import differentiate
from vantage.training.experience.bad_numbers import BadNumbersError
from vantage.training.experience.transitions import Transition

OBSERVATIONS, ACTIONS = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 4.0, (2,))
SMALL = SACConfig(learning_starts=20, batch_size=16, buffer_size=300, net_arch=(16, 8))
SDE = replace(SMALL, use_sde=True, log_std_init=-0.5)
M = 5


class Aim(gym.Env):
    """One step an episode, the reward is −(a − s / 2)²: the best action is s / 2."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.seen, {}

    def step(self, action):
        return self.seen, -float((action[0] - self.seen[0] / 2) ** 2), True, False, {}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fed(agent, count, num_envs=1, reward=None):
    """Steps of random experience; the metrics of the updates."""
    generator, metrics = np.random.default_rng(3), []
    shape = agent.observation_space.shape
    for _ in range(count):
        agent.explore(generator.uniform(-1, 1, (num_envs, *shape)).astype(np.float32))
        zeros = np.zeros(num_envs, bool)
        rewards = generator.normal(size=num_envs).astype(np.float32)
        rewards = rewards if reward is None else np.full(num_envs, reward, np.float32)
        after = generator.uniform(-1, 1, (num_envs, *shape)).astype(np.float32)
        weights = np.ones(num_envs, np.float32)
        made = agent.observe(Transition(after, rewards, zeros, zeros, weights, None))
        if made is not None:
            made.pop("seconds")
            metrics.append(made)
    return metrics


def begun(config=SMALL, num_envs=1, seed=0, **options):
    agent = SAC(OBSERVATIONS, ACTIONS, config, seed=seed, **options)
    agent.begin(num_envs, 1_000)
    return agent


def values(agent):
    return [v.numpy().copy() for part in agent.parts.values() for v in part]


# The distribution.


@pytest.mark.parametrize("mean", [-3.0, 0.0, 0.7])
@pytest.mark.parametrize("std", [0.05, 0.5, 2.0])
def test_the_density_integrates_to_one_and_is_the_change_of_variables(mean, std):
    """∫ exp(log π(a)) da over (−1, 1) = 1, and log π = log N(u) − log da/du.

    By midpoints in u = artanh a, where tanh b − tanh a = sinh(b − a) / (cosh a·cosh b).
    """
    edges = np.linspace(mean - 8 * std, mean + 8 * std, 20_001)
    low, high = edges[:-1], edges[1:]
    widths = np.sinh(high - low) / (np.cosh(low) * np.cosh(high))
    noise = (((low + high) / 2 - mean) / std).astype(np.float32)
    parameters = np.full((len(noise), 2), [mean, math.log(std)], np.float32)
    actions, log_prob = squashed(tf.constant(parameters), tf.constant(noise[:, None]))
    assert np.sum(np.exp(log_prob, dtype=np.float64) * widths) == pytest.approx(1, abs=1e-4)
    u64 = mean + std * noise.astype(np.float64)
    gaussian = np.exp(-0.5 * ((u64 - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    expected = np.log(gaussian) - np.log(1 / np.cosh(u64) ** 2)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(actions[:, 0], np.tanh(u64), atol=1e-6)


def test_the_log_probability_is_exact_where_the_tanh_rounds_to_one():
    """At u = 30: log(1 − tanh²) = 2·log 2 − 2u up to e^−60; its gradient is finite too."""
    parameters = tf.constant([[30.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        action, log_prob = squashed(parameters, tf.zeros((1, 1)))
    assert float(action[0, 0]) == 1.0
    expected = -0.5 * math.log(2 * math.pi) - (2 * math.log(2) - 60)
    assert float(log_prob[0]) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(tape.gradient(log_prob, parameters), [[2.0, -1.0]], rtol=1e-6)


@pytest.mark.parametrize("features", [0, 4])
def test_host_and_tensorflow_sides_agree(features):
    """The same noise gives the same actions, clipped parameters included."""
    host = SquashedGaussian(ACTIONS, features)
    parameters = np.concatenate([3 * draw(50, 2), 10 * draw(50, 2, seed=1)], axis=1)
    parameters = np.concatenate([parameters, draw(50, features)], axis=1)
    noise = np.random.default_rng(9).standard_normal((50, 2), np.float32)
    sampled = host.sample(parameters, np.random.default_rng(9))
    actions, _ = squashed(tf.constant(parameters), tf.constant(noise), host.most_mean)
    np.testing.assert_allclose(sampled, actions, atol=1e-6)
    modes, _ = squashed(tf.constant(parameters), tf.zeros((50, 2)), host.most_mean)
    np.testing.assert_allclose(host.mode(parameters), modes, atol=1e-6)
    assert (parameters[:, 2:] > 2).any() and (parameters[:, :2] > 2).any()
    if features:
        assert np.abs(host.mode(parameters)).max() <= np.float32(np.tanh(2))


def test_actions_are_mapped_to_the_bounds():
    host = SquashedGaussian(spaces.Box(np.array([-2.0, 0.0]), np.array([4.0, 10.0]), dtype=float))
    executed = host.execute(np.array([[-1, -1], [1, 1], [0, 0.5]], np.float32))
    np.testing.assert_allclose(executed, [[-2, 0], [4, 10], [1, 7.5]])
    assert executed.dtype == np.float64
    widest = np.finfo(np.float32).max
    wide = SquashedGaussian(spaces.Box(-widest, widest, (1,)))
    np.testing.assert_allclose(wide.execute(np.array([[1], [0]], np.float32)), [[widest], [0]])


# The losses.


def test_the_critics_loss_against_numpy():
    q, y = draw(2, M), draw(M, seed=1)
    loss, gradient, metrics = differentiate(critic_loss)(tf.constant(q), CriticTargets(y))
    expected = sum(0.5 * (q[i, m] - y[m]) ** 2 / M for i in range(2) for m in range(M))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, (q - y) / M, rtol=1e-4, atol=1e-6)
    assert float(metrics["q"]) == pytest.approx(q.mean(), rel=1e-4)


def test_the_critics_targets_against_numpy(fresh):
    """r + discount·(min Q' − α·log π), of the agent's networks; no gradient goes through it."""
    agent = fresh
    agent.log_alpha.assign(-0.3)
    fed(agent, 30)
    batch, _ = tf.nest.map_structure(tf.constant, agent._minibatches(1))
    with tf.GradientTape() as tape:
        _, y = agent.turns["critic"].forward(batch)
    assert tape.gradient(y, agent.network[0].trainable_variables[0]) is None
    parameters = agent.network[0](batch.next_observations)
    actions, log_prob = squashed(parameters, batch.noise[:, :2])
    for m in range(len(y)):
        pair = [batch.next_observations[m : m + 1], actions[m : m + 1]]
        soft = min(float(target(pair)[0, 0]) for target in agent.targets)
        soft -= math.exp(float(agent.log_alpha.numpy())) * float(log_prob[m])
        expected = float(batch.rewards[m] + batch.discounts[m] * soft)
        assert float(y[m]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_actors_loss_against_numpy():
    q, log_prob, log_alpha, target = draw(2, M), draw(M, seed=1), -0.7, -2.0
    outputs = [tf.constant(each) for each in (q, log_prob, np.float32(log_alpha))]
    loss, (by_q, by_log_prob, by_alpha), metrics = differentiate(actor_loss(target))(outputs, ())
    policy = np.mean([math.exp(log_alpha) * log_prob[m] - min(q[:, m]) for m in range(M)])
    temperature = -log_alpha * np.mean(log_prob + target)
    assert float(metrics["policy_loss"]) == pytest.approx(policy, rel=1e-5)
    assert float(loss) == pytest.approx(policy + temperature, rel=1e-5)
    assert float(metrics["entropy"]) == pytest.approx(-log_prob.mean(), rel=1e-5)
    np.testing.assert_allclose(by_q, -1.0 * (q == q.min(axis=0)) / M, rtol=1e-6)
    np.testing.assert_allclose(by_log_prob, np.full(M, math.exp(log_alpha) / M), rtol=1e-6)
    assert float(by_alpha) == pytest.approx(-np.mean(log_prob + target), rel=1e-5)
    fixed, _, metrics = differentiate(actor_loss(None))(outputs, ())
    assert float(fixed) == pytest.approx(policy, rel=1e-5)
    assert "ent_coef_loss" not in metrics


@pytest.mark.parametrize(("target", "sign"), [(50.0, 1), (-50.0, -1)])
def test_the_temperature_rises_below_the_target_entropy_and_falls_above(target, sign):
    agent = begun(replace(SMALL, target_entropy=target, ent_coef_init=0.5))
    metrics = fed(agent, 60)
    steps = np.diff([m["ent_coef"] for m in metrics])
    assert len(steps) > 30 and (sign * steps > 0).all()
    assert all((target - m["entropy"]) * sign > 0 for m in metrics)


def test_a_fixed_temperature_stays():
    for ent_coef in (0.0, 0.2):
        agent = begun(replace(SMALL, ent_coef=ent_coef))
        metrics = fed(agent, 25)
        assert metrics[-1]["ent_coef"] == pytest.approx(ent_coef, abs=1e-7)
        assert "ent_coef_loss" not in metrics[-1]
        assert np.isfinite(metrics[-1]["actor_loss"])


# The agent.


def test_one_gradient_step_against_naive_keras():
    """Critics, then actor, temperature and targets, each by a tape of its own."""
    config = replace(SMALL, learning_starts=0, tau=0.1)
    agent, twin = begun(config), SAC(OBSERVATIONS, ACTIONS, config, seed=0)
    seen = []
    step = agent._step

    class Spy:
        weights = property(lambda _: step.weights)

        def __call__(self, *arguments):
            seen.append(tf.nest.map_structure(tf.constant, arguments))
            return step(*arguments)

    agent._step = Spy()
    fed(agent, 3)
    first, second, *targets = [*twin.network[1:], *twin.targets]
    actor, log_alpha = twin.network[0], twin.log_alpha
    of_actor, of_critics = (keras.optimizers.Adam(config.learning_rate, epsilon=1e-8) for _ in "ab")
    for (s, a, rewards, discounts, after, _, noise), _ in seen:
        alpha = math.exp(float(log_alpha))
        next_actions, next_log_prob = squashed(actor(after), noise[:, :2])
        least = tf.minimum(*[tf.squeeze(t([after, next_actions]), 1) for t in targets])
        y = rewards + discounts * (least - alpha * next_log_prob)
        with tf.GradientTape() as tape:
            errors = [tf.squeeze(c([s, a]), 1) - y for c in (first, second)]
            loss = sum(0.5 * tf.reduce_mean(error**2) for error in errors)
        weights = [*first.trainable_variables, *second.trainable_variables]
        of_critics.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        with tf.GradientTape() as tape:
            actions, log_prob = squashed(actor(s), noise[:, 2:])
            least = tf.minimum(*[tf.squeeze(c([s, actions]), 1) for c in (first, second)])
            loss = tf.reduce_mean(alpha * log_prob - least)
        gradients = tape.gradient(loss, [w.value for w in actor.trainable_variables])
        by_alpha = -tf.reduce_mean(log_prob + -2.0)
        of_actor.apply([*gradients, by_alpha], [*actor.trainable_variables, log_alpha])
        for target, critic in zip(targets, (first, second), strict=True):
            for follower, leader in zip(target.weights, critic.weights, strict=True):
                follower.assign(0.1 * leader.value + 0.9 * follower.value)
    assert len(seen) == 2
    ours, naive = agent.parts["network"], twin.parts["network"]
    for received, expected in zip(ours, naive, strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


def test_several_gradient_steps_in_one_call_equal_single_ones():
    """K steps on the same minibatches and noise, up to what XLA rounds."""
    many, single = (
        begun(replace(SMALL, gradient_steps=4, net_arch=(8,))),
        begun(replace(SMALL, net_arch=(8,))),
    )
    generator = np.random.default_rng(3)
    arrays = {
        "s": generator.normal(size=(64, 3)),
        "a": generator.uniform(-1, 1, (64, 2)),
        "after": generator.normal(size=(64, 3)),
        "noise": generator.normal(size=(64, 4)),
    }
    s, a, after, noise = (each.astype(np.float32) for each in arrays.values())
    rewards, discounts = generator.normal(size=64).astype(np.float32), np.full(64, 0.99, np.float32)
    pair = Examples(s, a, rewards, discounts, after, noise=noise), ()
    together = many._step(*pair, many._rows)
    apart = []
    for k in range(4):
        rows = slice(16 * k, 16 * k + 16)
        part = tf.nest.map_structure(lambda x, rows=rows: x[rows], pair)
        apart.append(single._step(*part))
    for name, received in together.items():
        expected = [each[name] for each in apart]
        np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4)
    for received, expected in zip(values(many), values(single), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4)


def test_critics_are_not_trained_by_the_actors_turn():
    """With a learning rate of 0 for the critics only actor and temperature change."""
    optimizers = keras.optimizers.Adam(1e-2), keras.optimizers.SGD(0.0)
    agent = begun(optimizer=optimizers)
    before = [[w.numpy().copy() for w in model.weights] for model in agent.network]
    fed(agent, 30)
    changed = [
        any(not np.array_equal(a, b.numpy()) for a, b in zip(old, model.weights, strict=True))
        for old, model in zip(before, agent.network, strict=True)
    ]
    assert changed == [True, False, False]
    assert float(agent.log_alpha) != 0.0


def test_actions_before_and_after_learning_starts():
    agent = begun(replace(SMALL, learning_starts=500, buffer_size=4_000), num_envs=2_000)
    actions = agent.explore(draw(2_000, 3))
    (raw,) = agent.training_state()["replay"]["newest"]["actions"]
    assert raw.shape == (2_000, 2)
    assert raw.min() >= -1 and raw.max() <= 1 and abs(raw.mean()) < 0.05
    assert raw.std() == pytest.approx(math.sqrt(1 / 3), rel=0.05)
    assert all(map(ACTIONS.contains, actions))
    assert isinstance(agent._acting, HostNetwork)
    seen = draw(7, 3)
    (parameters,) = agent._acting(seen)
    np.testing.assert_allclose(parameters, agent.network[0](seen), rtol=1e-4, atol=1e-5)
    best = agent.act(seen, deterministic=True)
    np.testing.assert_allclose(best, -2 + 3 * (np.tanh(parameters[:, :2]) + 1), rtol=1e-5)
    assert not np.allclose(agent.act(seen), best)
    assert agent.act(seen[0], deterministic=True).shape == (2,)
    least = np.minimum(
        *(np.ravel(c([seen, np.tanh(parameters[:, :2])])) for c in agent.network[1:])
    )
    np.testing.assert_allclose(agent.value(seen), least, rtol=1e-4, atol=1e-5)
    assert agent.value(seen[0]).shape == ()


def test_it_learns_to_aim():
    """The best return is 0; actions at random give −1.4 on average, a = 0 gives −0.083."""
    config = SACConfig(learning_rate=5e-3, learning_starts=100, batch_size=64, net_arch=(32, 32))
    envs = make_vec(Aim, 4, seed=0)
    agent = SAC(envs.single_observation_space, envs.single_action_space, config, seed=0)
    train(agent, envs, 1_500)
    assert evaluate(agent, make_vec(Aim, 10, seed=1), episodes=200, seed=1).mean > -0.01
    aims = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    np.testing.assert_allclose(agent.act(aims, deterministic=True), aims / 2, atol=0.15)


@pytest.mark.parametrize("config", [SMALL, replace(SDE, train_freq=4, sde_sample_freq=3)])
def test_a_resumed_agent_goes_on_to_the_same_bits(config):
    """Replay buffer, noise and a half-waited interval between updates included."""
    agent = begun(config, num_envs=2)
    fed(agent, 31, num_envs=2)
    state = agent.get_state()
    again = begun(config, num_envs=2, seed=7)
    again.set_state(state)
    for each in (agent, again):
        fed(each, 14, num_envs=2)
    assert agent.updates == again.updates > 4
    for ours, theirs in zip(values(agent), values(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(agent.act(draw(3, 3)), again.act(draw(3, 3)))


@pytest.mark.parametrize("config", [SMALL, SDE])
def test_saved_and_loaded(config, fresh, tmp_path):
    agent = fresh if config is SMALL else begun(config)
    fed(agent, 30)
    agent.save(tmp_path / "agent")
    loaded = SAC.load(tmp_path / "agent")
    for ours, theirs in zip(values(agent), values(loaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(agent.act(draw(3, 3)), loaded.act(draw(3, 3)))
    names = [v.name for v in agent.parts["network"]]
    assert "log_alpha" in names and len(names) > 20


def test_state_dependent_noise_is_smooth_and_trained():
    """Between two draws the same state gets the same action; updates reach its weights."""
    agent = begun(replace(SDE, learning_starts=0, train_freq=4, sde_sample_freq=-1))
    weights = agent.network[0].get_layer("log_std").log_std
    before, seen = weights.numpy().copy(), draw(1, 3)
    zeros, actions = np.zeros(1, bool), []
    for _ in range(9):
        actions.append(agent.explore(seen)[0])
        weight = np.ones(1, np.float32)
        agent.observe(Transition(seen, np.ones(1, np.float32), zeros, zeros, weight, None))
        if agent.updates == 0:
            np.testing.assert_array_equal(actions[-1], actions[0])
    assert agent.updates == 2 and not np.array_equal(actions[4], actions[3])
    assert not np.array_equal(before, weights.numpy())


def test_images_are_stored_as_bytes_and_learnt_from():
    images = spaces.Box(0, 255, (8, 8, 1), np.uint8)
    agent = SAC(images, ACTIONS, replace(SMALL, batch_size=4, learning_starts=2), seed=0)
    agent.begin(1, 100)
    assert agent.training_state()["replay"]["newest"]["observations"].dtype == np.uint8
    generator = np.random.default_rng(0)
    zeros, ones = np.zeros(1, bool), np.ones(1, np.float32)
    for _ in range(4):
        agent.explore(generator.integers(0, 255, (1, 8, 8, 1), np.uint8))
        after = generator.integers(0, 255, (1, 8, 8, 1), np.uint8)
        metrics = agent.observe(Transition(after, ones, zeros, zeros, ones, None))
    assert metrics is not None and np.isfinite(metrics["critic_loss"])


# One's own networks and optimizers.


def own_networks(width=4):
    keras.utils.set_random_seed(0)
    dense, inputs = keras.layers.Dense, keras.Input
    actor = keras.Sequential([inputs((3,)), dense(8, "tanh"), dense(width)], name="actor")

    def critic(flat):
        s, a = inputs((3,)), inputs((2,))
        x = keras.layers.BatchNormalization()(dense(8, "tanh")(keras.layers.Concatenate()([s, a])))
        q = dense(1)(x)
        return keras.Model([s, a], keras.layers.Reshape(())(q) if flat else q)

    return actor, critic(False), critic(True)


def test_networks_and_optimizers_of_ones_own(tmp_path):
    """Targets follow, moving statistics included; what is one's own is passed again to load."""
    optimizers = keras.optimizers.Adam(1e-3), keras.optimizers.RMSprop(1e-3)
    agent = begun(network=own_networks(), optimizer=optimizers)
    metrics = fed(agent, 40)
    assert np.isfinite(metrics[-1]["critic_loss"])
    critic, target = agent.network[1], agent.targets[0]
    for ours, theirs in zip(
        critic.non_trainable_weights, target.layers[-2].weights[2:], strict=True
    ):
        assert ours.numpy().any()
        np.testing.assert_array_equal(ours, theirs)
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match="must be loaded with it"):
        SAC.load(tmp_path / "agent")
    again = keras.optimizers.Adam(1e-3), keras.optimizers.RMSprop(1e-3)
    loaded = SAC.load(tmp_path / "agent", network=own_networks(), optimizer=again)
    np.testing.assert_array_equal(agent.act(draw(3, 3)), loaded.act(draw(3, 3)))


def test_bad_networks_and_optimizers():
    actor, first, second = own_networks()
    with pytest.raises(ValueError, match=r"tuple of three Keras models.* Received: <Seq"):
        begun(network=actor)
    with pytest.raises(ValueError, match=r"observations must return \[B, 4\].* Received: 'actor'"):
        begun(network=(own_networks(3)[0], first, second))
    with pytest.raises(ValueError, match=r"must accept \[observations, actions\].* which fails"):
        begun(network=(actor, first, actor.__class__([keras.Input((3,)), keras.layers.Dense(1)])))
    with pytest.raises(ValueError, match="must not share variables"):
        begun(network=(actor, first, first))
    with pytest.raises(ValueError, match="two different Keras optimizers"):
        begun(optimizer=keras.optimizers.Adam())
    same = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="two different Keras optimizers"):
        begun(optimizer=(same, same))
    with pytest.raises(ValueError, match=r"use_sde explores with .*network of your own"):
        begun(SDE, network=own_networks())
    with pytest.raises(ValueError, match=r"needs a hidden layer.* Received: net_arch=\(\)"):
        begun(replace(SDE, net_arch=()))


def test_bad_spaces_and_masks(fresh):
    with pytest.raises(ValueError, match="Box of floats with bounds on both sides"):
        SAC(OBSERVATIONS, spaces.Box(-np.inf, 1.0, (2,)))
    with pytest.raises(ValueError, match="Box of floats with bounds on both sides"):
        SAC(OBSERVATIONS, spaces.Discrete(2))
    for deterministic in (True, False):
        with pytest.raises(ValueError, match=r"masks .*Received: masks of shape \[1, 4\]"):
            fresh.act(draw(1, 3), deterministic, np.ones((1, 4), bool))
    for each in (fresh, begun(replace(SDE, learning_starts=0))):
        with pytest.raises(ValueError, match="masks"):
            each.explore(draw(1, 3), np.ones((1, 4), bool))


def test_a_bad_reward_is_named_and_never_learnt_from(fresh):
    agent = fresh
    fed(agent, 25)
    before = values(agent)
    with pytest.raises(BadNumbersError, match="reward.*nan"):
        fed(agent, 1, reward=np.nan)
    for ours, theirs in zip(values(agent), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all(np.isfinite(m["critic_loss"]) for m in fed(agent, 60))


def test_a_bad_loss_is_named_and_changes_nothing(fresh):
    agent = fresh
    fed(agent, 25)
    agent.network[1].weights[-1].assign([np.nan])
    before = values(agent)
    with pytest.raises(BadNumbersError, match="critic_loss=nan"):
        fed(agent, 1)
    for ours, theirs in zip(values(agent), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
