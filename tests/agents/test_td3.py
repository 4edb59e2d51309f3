"""TD3: its losses against NumPy, smoothing, the delayed actor, resuming, and what it refuses."""

from dataclasses import replace

import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from vantage.agents import TD3, TD3Config
from vantage.agents.acting.squashed import Bounded
from vantage.agents.base.critics import CriticTargets, NextValues, least_value
from vantage.agents.base.off_policy import Examples
from vantage.agents.td3 import actor_loss, critic_loss, smoothed
from vantage.envs import make_vec
from vantage.training import evaluate, train
from vantage.training.core.lifts import differentiate
from vantage.training.experience.bad_numbers import BadNumbersError
from vantage.training.experience.transitions import Transition

OBSERVATIONS, ACTIONS = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 4.0, (2,))
SMALL = TD3Config(learning_starts=20, batch_size=16, buffer_size=300, net_arch=(16, 8))
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


def fed(agent, count, reward=None, seed=3):
    """Steps of random experience in one environment; the metrics of the updates."""
    generator, metrics = np.random.default_rng(seed), []
    zeros, ones = np.zeros(1, bool), np.ones(1, np.float32)
    for _ in range(count):
        agent.explore(generator.uniform(-1, 1, (1, 3)).astype(np.float32))
        rewards = np.float32([generator.normal() if reward is None else reward])
        after = generator.uniform(-1, 1, (1, 3)).astype(np.float32)
        made = agent.observe(Transition(after, rewards, zeros, zeros, ones, None))
        if made is not None:
            made.pop("seconds")
            metrics.append(made)
    return metrics


def begun(config=SMALL, seed=0, **options):
    agent = TD3(OBSERVATIONS, ACTIONS, config, seed=seed, **options)
    agent.begin(1, 1_000)
    return agent


def test_a_run_that_ends_before_anything_is_learnt_is_warned_of():
    agent = TD3(OBSERVATIONS, ACTIONS, replace(SMALL, learning_starts=1_000), seed=0)
    with pytest.warns(UserWarning, match=r"learning_starts must be below .* 1,000 of 1,000"):
        agent.begin(1, 1_000)
    agent.begin(1, 1_001)


def values(agent):
    return [v.numpy().copy() for part in agent.parts.values() for v in part]


# The losses.


def test_the_critics_loss_against_numpy():
    q, next_q, rewards = draw(2, M), draw(2, M, seed=1), draw(M, seed=2)
    discounts = np.array([0.9, 0, 0.9, 0.9, 0], np.float32)
    y = least_value(NextValues(next_q, 0.0), Examples(None, None, rewards, discounts, None))
    expected = [rewards[m] + discounts[m] * min(next_q[0, m], next_q[1, m]) for m in range(M)]
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    loss, gradient, metrics = differentiate(critic_loss)(tf.constant(q), CriticTargets(y))
    y = y.numpy()
    total = sum((q[i, m] - y[m]) ** 2 / M for i in range(2) for m in range(M))
    assert float(loss) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(gradient, 2 * (q - y) / M, rtol=1e-4, atol=1e-6)
    assert float(metrics["q"]) == pytest.approx(q.mean(), rel=1e-4)


def test_the_actors_loss_against_numpy():
    q = draw(1, M)
    loss, gradient, _ = differentiate(actor_loss)(tf.constant(q), ())
    assert float(loss) == pytest.approx(-q.mean(), rel=1e-5)
    np.testing.assert_allclose(gradient, np.full((1, M), -1 / M), rtol=1e-6)


def test_the_smoothing_noise_is_clipped_and_so_are_the_actions():
    actions, noise = np.tanh(draw(500, 2)), 3 * draw(500, 2, seed=1)
    received = smoothed(tf.constant(actions), tf.constant(noise), 0.2, 0.5).numpy()
    expected = np.clip(actions + np.clip(0.2 * noise, -0.5, 0.5), -1, 1)
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(received - actions).max() == pytest.approx(0.5)
    assert (np.abs(0.2 * noise) > 0.5).any() and np.abs(received).max() == 1.0


# The agent.


def test_gradient_steps_against_naive_keras():
    """Two steps of the critics, the second also of the actor and of all three targets."""
    config = replace(SMALL, learning_starts=0, tau=0.1, learning_rate=1e-2)
    agent, twin = begun(config), TD3(OBSERVATIONS, ACTIONS, config, seed=0)
    seen, draws = [], agent._minibatches

    def spy(count):
        seen.append(draws(count))
        return seen[-1]

    agent._minibatches = spy
    fed(agent, 3)
    actor, first, second = twin.network
    next_actor, *targets = twin.targets
    of_actor, of_critics = (keras.optimizers.Adam(1e-2, epsilon=1e-8) for _ in range(2))
    assert len(seen) == agent.updates == 2
    for index, pair in enumerate(seen):
        examples, _ = tf.nest.map_structure(tf.constant, pair)
        s, a, rewards, discounts, after, _, noise = examples
        next_actions = tf.clip_by_value(
            next_actor(after) + tf.clip_by_value(0.2 * noise, -0.5, 0.5), -1, 1
        )
        least = tf.minimum(*[tf.squeeze(t([after, next_actions]), 1) for t in targets])
        y = rewards + discounts * least
        with tf.GradientTape() as tape:
            loss = sum(tf.reduce_mean((tf.squeeze(c([s, a]), 1) - y) ** 2) for c in (first, second))
        weights = [*first.trainable_variables, *second.trainable_variables]
        of_critics.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        if index == 0:
            continue
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(first([s, actor(s)]))
        weights = actor.trainable_variables
        of_actor.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        for target, network in zip(twin.targets, twin.network, strict=True):
            for follower, leader in zip(target.weights, network.weights, strict=True):
                follower.assign(0.1 * leader.value + 0.9 * follower.value)
    for received, expected in zip(agent.parts["network"], twin.parts["network"], strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("delay", "steps"), [(3, 1), (2, 3)])
def test_actor_and_targets_move_every_so_many_gradient_steps(delay, steps):
    agent = begun(replace(SMALL, policy_delay=delay, gradient_steps=steps))
    fed(agent, 20)
    moved = []
    for _ in range(6):
        before = values(agent)[: len(agent.network[0].variables)]
        targets = [w.numpy().copy() for t in agent.targets for w in t.weights]
        made = agent.updates
        (metrics,) = fed(agent, 1)
        is_due = (made + steps) // delay > made // delay
        after = [w.numpy() for t in agent.targets for w in t.weights]
        for old, new in ((before, values(agent)), (targets, after)):
            changed = any(not np.array_equal(a, b) for a, b in zip(old, new, strict=False))
            assert changed == is_due
        assert ("actor_loss" in metrics) == is_due
        moved.append(is_due)
    assert agent.updates == 6 * steps and moved.count(True) == (2 if delay == 3 else 6)
    np.testing.assert_array_equal(agent._acting.weights[0], agent.network[0].weights[0].numpy())


def test_several_gradient_steps_equal_single_ones(fresh):
    """The same minibatches and noise, one call after the other: exactly."""
    many, single = begun(replace(SMALL, gradient_steps=4)), fresh
    for agent in (many, single):
        fed(agent, 20)
        agent.generator = np.random.default_rng(5)
    many._learn()
    for _ in range(4):
        single._learn()
        single.updates += 1
    for ours, theirs in zip(values(many), values(single), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_exploration_noise_has_its_standard_deviation_and_is_clipped(fresh):
    host = Bounded(ACTIONS, 0.1)
    outputs = np.tile(np.float32([0.0, 0.95]), (20_000, 1))
    raw = host.sample(outputs, np.random.default_rng(0))
    assert raw.dtype == np.float32 and raw.max() == 1.0
    assert raw[:, 0].std() == pytest.approx(0.1, rel=0.03)
    assert (raw[:, 1] == 1.0).mean() == pytest.approx(0.3085, abs=0.02)  # P(noise > 0.05)
    np.testing.assert_array_equal(host.mode(outputs), outputs)
    agent, seen = fresh, draw(7, 3)
    best = agent.act(seen, deterministic=True)
    np.testing.assert_allclose(best, -2 + 3 * (agent.network[0](seen) + 1), rtol=1e-4, atol=1e-4)
    assert 0 < np.abs(agent.act(seen) - best).max() < 3
    q = np.minimum(
        *(np.ravel(c([seen, agent.network[0](seen).numpy()])) for c in agent.network[1:])
    )
    np.testing.assert_allclose(agent.value(seen), q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "least"), [(1_000, -0.04), pytest.param(2_000, -0.01, marks=pytest.mark.slow)]
)
def test_it_learns_to_aim(steps, least):
    """The best return is 0; a = 0 gives −0.083."""
    config = TD3Config(learning_rate=3e-3, learning_starts=200, batch_size=64, net_arch=(32, 32))
    envs = make_vec(Aim, 4, seed=0)
    agent = TD3(envs.single_observation_space, envs.single_action_space, config, seed=0)
    train(agent, envs, steps)
    assert evaluate(agent, make_vec(Aim, 10, seed=1), episodes=200, seed=1).mean > least


def test_a_resumed_agent_goes_on_to_the_same_bits():
    """Also in the middle of a delay, which is counted in the updates."""
    agent = begun(replace(SMALL, policy_delay=3, train_freq=2))
    fed(agent, 28)
    assert agent.updates == 4
    again = begun(agent.config, seed=7)
    again.set_state(agent.get_state())
    for each in (agent, again):
        fed(each, 15)
    assert agent.updates == again.updates > 5
    for ours, theirs in zip(values(agent), values(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(agent.act(draw(3, 3)), again.act(draw(3, 3)))


def test_saved_and_loaded(fresh, tmp_path):
    agent = fresh
    fed(agent, 30)
    agent.save(tmp_path / "agent")
    loaded = TD3.load(tmp_path / "agent")
    for ours, theirs in zip(values(agent), values(loaded), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(agent.act(draw(3, 3)), loaded.act(draw(3, 3)))


def test_bad_input(fresh):
    with pytest.raises(ValueError, match="Box of floats with bounds on both sides"):
        TD3(OBSERVATIONS, spaces.Box(-1.0, np.inf, (2,)))
    agent = fresh
    actor = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)], name="mine")
    with pytest.raises(ValueError, match=r"must return \[B, 2\]. Received: 'mine' .*\['B', 4\]"):
        TD3(OBSERVATIONS, ACTIONS, network=(actor, *agent.network[1:]))
    with pytest.raises(ValueError, match=r"masks .*Received: masks of shape \[1, 4\]"):
        agent.explore(draw(1, 3), np.ones((1, 4), bool))
    with pytest.raises(ValueError, match=r"masks .*Received: masks of shape \[1, 4\]"):
        agent.act(draw(1, 3), action_masks=np.ones((1, 4), bool))


def test_a_bad_reward_is_named_and_never_learnt_from(fresh):
    agent = fresh
    fed(agent, 25)
    before = values(agent)
    with pytest.raises(BadNumbersError, match="reward.*inf"):
        fed(agent, 1, reward=np.inf)
    for ours, theirs in zip(values(agent), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all(np.isfinite(m["critic_loss"]) for m in fed(agent, 60))
