"""Running moments, and agents that see and learn through them."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from scripted import MODES, ScriptedVector

from vantage.agents import A2C, A2CConfig
from vantage.envs import make_vec
from vantage.training import evaluate, train
from vantage.training.experience.normalize import Moments, Normalizer
from vantage.training.experience.transitions import Transition, Transitions

BOX, TWO = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(0, 2**32))
def test_moments_are_those_of_everything_at_once(sizes, seed):
    generator = np.random.default_rng(seed)
    parts = [generator.normal(1e3, generator.uniform(0.1, 9), (size, 2)) for size in sizes]
    moments, everything = Moments((2,)), np.concatenate(parts)
    for part in parts:
        moments.update(part)
    assert moments.count == len(everything)
    if len(everything):
        np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-9, atol=1e-12)


def test_moments_are_float64():
    """In float32 a mean of 10⁶ would swallow a standard deviation of 10⁻²."""
    moments, generator = Moments(), np.random.default_rng(0)
    for _ in range(100):
        moments.update(1e6 + generator.normal(0, 1e-2, 50))
    assert np.sqrt(moments.variance) == pytest.approx(1e-2, rel=0.05)


def transition(rewards, weights, ended=None):
    rewards, weights = np.float32(rewards), np.float32(weights)
    ended = np.zeros(len(rewards), bool) if ended is None else np.array(ended)
    return Transition(np.zeros((len(rewards), 2)), rewards, ended & False, ended, weights, None)


def test_dummy_steps_count_nowhere():
    normalizer = Normalizer(np.ones(2, bool), True, 0.9)
    normalizer.explore(np.float32([[1, 2], [1e6, 1e6], [3, 6]]))
    normalizer.observe(transition([1, 1e6, 3], [1, 0, 1]))
    np.testing.assert_array_equal(normalizer.observed.mean, [2, 4])
    np.testing.assert_array_equal(normalizer.observed.variance, [1, 4])
    assert (normalizer.returned.count, normalizer.returned.mean) == (2, 2)


def test_rewards_are_divided_by_the_deviation_of_discounted_returns():
    """R by hand, over two environments of which one ends and one has a dummy step."""
    normalizer, gamma = Normalizer(None, True, 0.5), 0.5
    steps = [
        ([1, 2], [1, 1], [0, 1]),
        ([3, 0], [1, 0], [0, 0]),
        ([5, 4], [1, 1], [0, 0]),
    ]
    expected = [[1.0, 2.0], [3 + gamma * 1], [5 + gamma * 3.5, 4.0]]
    seen = []
    for (rewards, weights, ended), returns in zip(steps, expected, strict=True):
        seen += returns
        normalizer.explore(np.zeros((2, 2)))
        scaled = normalizer.observe(transition(rewards, weights, np.bool_(ended))).rewards
        assert normalizer.returned.variance == pytest.approx(np.var(seen))
        clipped = np.clip(rewards / np.sqrt(np.var(seen) + 1e-8), -10, 10)
        np.testing.assert_allclose(scaled, clipped, rtol=1e-6)
        assert scaled.dtype == np.float32


def test_values_are_clipped_at_ten_and_other_entries_left_alone():
    normalizer = Normalizer(np.array([True, False]), False, 0.9)
    assert normalizer(np.float32([[50, 50]])).tolist() == [[10, 50]]
    assert normalizer(np.float32([[-50, 0]])).tolist() == [[-10, 0]]


def test_nothing_to_normalise_is_refused():
    config = A2CConfig(normalize_observations=True)
    for space in (spaces.Discrete(3), spaces.Box(0, 255, (9, 9, 3), np.uint8)):
        with pytest.raises(ValueError, match="Box entries that are no images. Received: none"):
            A2C(space, TWO, config)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_moments_are_of_the_real_steps_in_every_mode(mode):
    """The states acted upon: neither dummies nor final observations."""
    scripts = [[(3, "terminated"), (1, "truncated"), (2, "both")], [(4, "truncated")]]
    agent = A2C(
        spaces.Box(0, 1e6, (3,), np.float32),
        TWO,
        A2CConfig(normalize_observations=True, normalize_rewards=True, n_steps=4),
    )
    transitions = Transitions(ScriptedVector(scripts, mode))
    observations = transitions.reset()
    agent.begin(2, 100)
    acted_upon, rewards = [], []
    for _ in range(12):
        actions = agent.explore(observations, None)
        agent.value(np.full((5, 3), 9.0, np.float32))  # whoever looks meanwhile is not learnt from
        step = transitions.step(actions)
        acted_upon.append(np.asarray(observations)[step.weights > 0])
        rewards.append(step.rewards[step.weights > 0])
        agent.observe(step)
        observations = step.observations
    everything = np.concatenate(acted_upon).astype(float)
    assert agent.normalizer.observed.count == transitions.env_steps == len(everything)
    np.testing.assert_allclose(agent.normalizer.observed.mean, everything.mean(0), rtol=1e-9)
    assert agent.normalizer.returned.count == len(np.concatenate(rewards))


def normalizing_agent(total_steps=4_000):
    envs = make_vec("Pendulum-v1", 4, seed=0, vectorization="native")
    config = A2CConfig(normalize_observations=True, normalize_rewards=True)
    agent = A2C(envs.single_observation_space, envs.single_action_space, config, seed=0)
    summary = train(agent, envs, total_steps)
    return agent, summary


def test_returns_are_reported_as_they_are_and_the_moments_stand_still_in_evaluation():
    agent, summary = normalizing_agent()
    assert summary["mean_return_100"] < -200  # raw returns are reported, not normalised ones
    assert agent.normalizer.observed.count == agent.normalizer.returned.count == 4_000
    before = agent.normalizer.arrays()
    evaluate(agent, make_vec("Pendulum-v1", 2, vectorization="native"), 2, seed=0)
    for name, array in agent.normalizer.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)
    raw = np.float32([[1, 0, 3]])
    seen = np.clip(
        (raw - before["normalizer/observed/mean"])
        / np.sqrt(before["normalizer/observed/variance"] + 1e-8),
        -10,
        10,
    )
    values = agent.network(seen.astype(np.float32))[1]
    np.testing.assert_allclose(agent.value(raw), np.ravel(values), rtol=1e-4, atol=1e-6)


def test_it_is_saved_and_loaded_with_the_agent(tmp_path):
    agent, _ = normalizing_agent(500)
    agent.save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent")
    for name, array in loaded.normalizer.arrays().items():
        np.testing.assert_array_equal(array, agent.normalizer.arrays()[name], name)
        assert array.dtype == agent.normalizer.arrays()[name].dtype
    observations = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded.value(observations), agent.value(observations))


def test_an_agent_of_other_settings_is_refused_and_nothing_is_changed(tmp_path):
    agent, _ = normalizing_agent(500)
    agent.save(tmp_path / "agent")
    other = A2C(agent.observation_space, agent.action_space, A2CConfig())
    before = [v.numpy() for v in other.network.variables]
    with pytest.raises(ValueError, match="must normalise what this one does.*: nothing. Received"):
        other.restore(tmp_path / "agent", only_network=True)
    for variable, value in zip(other.network.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
