"""What a policy remembers travels through acting, rollouts, evaluation, videos and resuming."""

import contextlib
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from vantage.agents import A2C, DQN, PPO, A2CConfig, DQNConfig, PPOConfig
from vantage.agents.acting.host import HostNetwork
from vantage.envs import make_vec
from vantage.training import evaluate, train
from vantage.training.experience.policy_state import joined
from vantage.training.experience.rollout import Rollout
from vantage.training.experience.transitions import Transition, Transitions
from vantage.training.monitoring.video import play_episode


class Counting(HostNetwork):
    """A network that counts the steps of each episode, and adds to the value what it counted."""

    def initial_state(self, count):
        return {"steps": np.zeros((count, 1), np.float32)}

    def step(self, observations, state):
        self.seen.append(state["steps"][:, 0].copy())
        parameters, values = self(observations)
        counted = state["steps"] + 1
        return (parameters, values + 100 * counted[:, 0]), {"steps": counted}


def with_memory(algorithm):
    class WithMemory(algorithm):
        """The same algorithm; its policy counts."""

        def _make_acting(self):
            acting = super()._make_acting()
            assert type(acting) is HostNetwork
            acting.__class__, acting.seen = Counting, []
            return acting

    return WithMemory


def agent_of(algorithm, envs, config):
    spaces = envs.single_observation_space, envs.single_action_space
    return algorithm(*spaces, config, seed=0)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_state_is_the_initial_one_at_every_beginning(mode):
    """With autoreset in the next step also after the dummy step, which the policy sees."""
    envs = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3, autoreset_mode=mode)
    agent = agent_of(with_memory(A2C), envs, A2CConfig(n_steps=8))
    lengths, seen, ends = np.zeros(3), agent._acting.seen, 0
    agent.begin(3, 600)
    transitions = Transitions(envs)
    observations = transitions.reset()
    for _ in range(150):
        seen.clear()
        actions = agent.explore(observations, None)
        np.testing.assert_array_equal(seen[0], lengths)
        transition = transitions.step(actions)
        agent.observe(transition)
        begins = transition.ended | (transition.weights == 0)
        lengths = np.where(begins, 0, lengths + 1)
        ends += transition.ended.sum()
        observations = transition.observations
    assert ends > 3


def test_a_rollout_bootstraps_with_the_state_of_the_place():
    """Final observations with the state before the restart, the next ones with that after it."""
    rollout = Rollout(2, 2, (1,), (1,), initial_state=(np.zeros((2, 1)),))
    zeros, ones = np.zeros(2, bool), np.ones(2, np.float32)
    ended = np.array([True, False])
    for t, end in enumerate((zeros, ended)):
        state = (rollout.state[0] + 1,)
        rollout.act(np.zeros((2, 1)), np.zeros((2, 1)), np.zeros(2), (), state)
        rollout.observe(Transition(np.zeros((2, 1)), ones, zeros, end, ones, np.full((2, 1), 7.0)))
        assert rollout.states[t][0].tolist() == [[t], [t]]
    asked = []

    def value(observations, state):
        asked.append((observations.ravel().tolist(), state[0].ravel().tolist()))
        return np.zeros(len(observations), np.float32)

    rollout.finish(np.full((2, 1), 3.0), value, 0.9, 1.0)
    assert asked == [([3.0, 3.0], [0.0, 2.0]), ([7.0], [2.0])]


def remembered(agent):
    """The state before the next step."""
    rollout = agent.training_state()["episodes"]["rollout"]
    return rollout["remembered"][len(rollout["rows"]["rewards"])]


@pytest.mark.usefixtures("compiler")
def test_a_run_is_resumed_with_what_the_policy_remembered(tmp_path):
    def run(steps, resume=False, logdir=None):
        envs = make_vec("CartPole-v1", num_envs=2, seed=0)
        agent = agent_of(with_memory(PPO), envs, PPOConfig(n_steps=32, batch_size=16))
        train(agent, envs, steps, logdir=logdir, resume=resume)
        return agent

    run(100, logdir=tmp_path / "run")  # in the middle of a rollout and of episodes
    resumed, whole = run(300, True, tmp_path / "run"), run(300)
    for one, other in zip(resumed.network.get_weights(), whole.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(remembered(resumed)["steps"], remembered(whole)["steps"])


def test_a_refused_transition_restarts_the_state_as_well():
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    agent = agent_of(with_memory(A2C), envs, A2CConfig(n_steps=64, normalize_rewards=True))
    agent.begin(2, 200)
    zeros, ones = np.zeros(2, bool), np.ones(2, np.float32)
    for ended, rewards in ((zeros, ones), (np.array([True, False]), [1.0, np.nan])):
        agent.explore(np.zeros((2, 4), np.float32))
        step = (np.asarray(rewards, np.float32), ended, ended, ones, np.zeros((2, 4), np.float32))
        transition = Transition(np.zeros((2, 4), np.float32), *step)
        with contextlib.suppress(FloatingPointError):
            agent.observe(transition)
    assert remembered(agent)["steps"].ravel().tolist() == [0.0, 2.0]


def test_a_policy_with_memory_does_not_resume_one_without(tmp_path):
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    train(agent_of(A2C, envs, A2CConfig()), envs, 20, logdir=tmp_path / "run")
    agent = agent_of(with_memory(A2C), make_vec("CartPole-v1", num_envs=2, seed=0), A2CConfig())
    with pytest.raises(ValueError, match="saved without a state for a policy that has one"):
        train(agent, envs, 60, logdir=tmp_path / "run", resume=True)


def test_named_tuples_are_states():
    class Memory(NamedTuple):
        h: np.ndarray
        c: np.ndarray

    both = joined([Memory(np.zeros((2, 1)), np.ones((2, 3)))] * 2)
    assert isinstance(both, Memory) and both.c.shape == (4, 3)


def test_evaluation_and_videos_carry_the_state():
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    agent = agent_of(with_memory(A2C), envs, A2CConfig())
    seen = agent._present.seen
    evaluate(agent, envs, episodes=4, seed=1)
    assert max(map(max, seen)) > 5 and sum(0 in row for row in seen) >= 2
    seen.clear()
    play_episode(agent, gym.make("CartPole-v1"), seed=0)
    assert np.concatenate(seen).tolist() == list(range(len(seen)))


def test_acting_returns_the_next_state():
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    agent = agent_of(with_memory(A2C), envs, A2CConfig())
    state, x = agent.initial_state(2), np.zeros((2, 4), np.float32)
    first, state = agent.act(x, True, state=state)
    assert state["steps"].tolist() == [[1.0], [1.0]]
    np.testing.assert_array_equal(agent.act(x, True), first)


@pytest.mark.parametrize(("algorithm", "config"), [(PPO, PPOConfig()), (DQN, DQNConfig())])
def test_todays_policies_remember_nothing(algorithm, config):
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    agent = agent_of(algorithm, envs, config)
    actions, state = agent.act(np.zeros((2, 4)), True, state=agent.initial_state(2))
    assert state == () and actions.shape == (2,)


class Forgetful:
    """An agent that says it remembers, and returns no state, or one of another size."""

    def __init__(self, rows):
        self.rows = rows

    def initial_state(self, count):
        return (np.zeros((self.rows, 1)),)

    def act(self, observations, deterministic, state):
        return np.zeros(len(observations), int)


def test_states_have_a_row_for_each_environment_and_come_back():
    envs = make_vec("CartPole-v1", num_envs=2, seed=0)
    with pytest.raises(ValueError, match="a row for each environment"):
        evaluate(Forgetful(3), envs, 2)
    with pytest.raises(ValueError, match=r"must return \(actions, state\). Received: ndarray"):
        evaluate(Forgetful(2), envs, 2)
