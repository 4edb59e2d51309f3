"""Several trainings of one agent, and trainings whose steps no update learns from."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

from vantage.agents import (
    A2C,
    DQN,
    PPO,
    SAC,
    TD3,
    A2CConfig,
    DQNConfig,
    PPOConfig,
    SACConfig,
    TD3Config,
)
from vantage.envs import make_vec
from vantage.training import train

BUFFERED = {"net_arch": (8,), "learning_starts": 20, "batch_size": 8, "buffer_size": 1_000}
AGENTS = {
    "a2c": (A2C, A2CConfig(net_arch=(8,), lr_schedule="linear"), "CartPole-v1"),
    "ppo": (PPO, PPOConfig(net_arch=(8,), n_steps=8, batch_size=16), "CartPole-v1"),
    "dqn": (DQN, DQNConfig(**BUFFERED, lr_schedule="linear"), "CartPole-v1"),
    "priorities": (DQN, DQNConfig(**BUFFERED, prioritized=True, n_steps=3), "CartPole-v1"),
    "sac": (SAC, SACConfig(**BUFFERED), "Pendulum-v1"),
    "td3": (TD3, TD3Config(**BUFFERED), "Pendulum-v1"),
}
REPLAY = ("dqn", "priorities", "sac", "td3")


def agent_of(name, num_envs=2, **changes):
    kind, config, env_id = AGENTS[name]
    envs = make_vec(env_id, num_envs, seed=0)
    spaces = envs.single_observation_space, envs.single_action_space
    return kind(*spaces, replace(config, **changes), seed=0), envs


# A second call.


SLOW = ("sac", "td3")  # which store what they saw, and count their steps, as DQN does


def marked(names):
    return [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in names]


@pytest.mark.parametrize("name", marked(REPLAY))
def test_a_second_training_goes_on_with_the_replay_buffer(name):
    agent, envs = agent_of(name)
    train(agent, envs, 100)
    replay, priorities = agent._replay, getattr(agent, "_priorities", None)
    held, updates = len(replay), agent.updates
    train(agent, envs, 100)
    assert agent._replay is replay and getattr(agent, "_priorities", None) is priorities
    assert held >= 90 and len(replay) >= 2 * held  # the two last transitions join
    # The buffer has enough from the first step on.
    assert agent.updates - updates > updates


def test_what_is_drawn_never_reaches_over_the_reset_between_two_trainings():
    agent, envs = agent_of("priorities")
    train(agent, envs, 100)
    at = agent._replay.stop % len(agent._replay.rewards)
    train(agent, envs, 100)
    replay = agent._replay
    assert not replay.real[at].any()  # what followed is another episode
    slots = np.flatnonzero(replay.real)
    slots = slots[slots // 2 < replay.stop]
    batch = replay.gather(slots, 3, 0.99)
    assert not np.isin(batch.drawn // 2, [at]).any()
    stored = replay.observations.reshape(-1, 4)
    inside = batch.following >= 0
    same = stored[batch.following[inside]] == batch.next_observations[inside]
    assert same.all()
    first = replay.observations[at + 1]  # of the second training
    into = np.isin(batch.following // 2, [at + 1]) & (batch.drawn // 2 < at)
    assert not into.any() and np.abs(first).max() <= 0.05


@pytest.mark.parametrize("name", ["a2c", "dqn"])
def test_schedules_count_the_steps_of_all_trainings(name):
    agent, envs = agent_of(name)
    rates = []
    note = {"log_every": 10, "callbacks": [lambda _, m: rates.append(m.get("train/learning_rate"))]}
    train(agent, envs, 200, **note)
    first = [rate for rate in rates if rate is not None]
    rates.clear()
    train(agent, envs, 200, **note)
    second = [rate for rate in rates if rate is not None]
    rate = agent.config.learning_rate
    assert first[0] > 0.8 * rate and first[-1] < 0.1 * rate
    assert second[0] == pytest.approx(rate / 2, rel=0.1)  # (200 + t) / (200 + 200)
    assert second[-1] < 0.1 * rate
    if name == "dqn":
        assert agent.exploration_rate == agent.config.exploration_final_eps


def test_dqn_does_not_explore_from_the_beginning_again():
    agent, envs = agent_of("dqn", exploration_fraction=0.5)
    train(agent, envs, 200)
    agent.begin(2, 200)
    assert agent.exploration_rate == agent.config.exploration_final_eps


def test_another_number_of_environments_empties_the_buffer_and_says_so():
    agent, envs = agent_of("dqn")
    train(agent, envs, 100)
    with pytest.warns(UserWarning, match=r"replay buffer .* Received: 3 environments after 2"):
        train(agent, make_vec("CartPole-v1", 3, seed=0), 100)
    assert agent._replay.rewards.shape[1] == 3 and len(agent._replay) < 100


def test_a_loaded_agent_fills_a_buffer_before_it_learns(tmp_path):
    agent, envs = agent_of("dqn")
    train(agent, envs, 100)
    agent.save(tmp_path / "agent")
    again = DQN.load(tmp_path / "agent")
    updates = again.updates
    again.begin(2, 100)
    for _ in range(10):
        observations, _ = envs.reset()
        again.explore(observations)
        again._replay.observed += 1
    state = again.get_state()
    assert state["done_steps"] == state["replay"]["buffer_from"] and again.updates == updates
    with pytest.warns(UserWarning, match="learning_starts"):
        train(DQN.load(tmp_path / "agent"), envs, 20)


@pytest.mark.parametrize("name", marked(["a2c", "dqn", "sac"]))
def test_a_second_training_is_resumed_to_the_bit(name, tmp_path):
    changes = {"lr_schedule": "linear"}
    whole, envs = agent_of(name, **changes)
    train(whole, envs, 100)
    other, others = agent_of(name, **changes)
    train(other, others, 100)
    train(whole, envs, 120)
    stop = {"log_every": 1, "callbacks": [lambda steps, _: steps < 60]}
    train(other, others, 120, logdir=tmp_path / "run", **stop)
    fresh, new = agent_of(name, **changes)
    train(fresh, new, 120, logdir=tmp_path / "run", resume=True)
    earlier = [agent.get_state()["earlier_steps"] for agent in (fresh, other)]
    assert earlier[0] == earlier[1] >= 90  # a last rollout is not counted
    assert fresh._total_steps == other._total_steps
    for a, b in zip(whole.parts["network"], fresh.parts["network"], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_documentation_speaks_of_a_second_call():
    assert "second call" in train.__doc__


# Steps without an update.


@pytest.mark.parametrize(
    ("name", "changes", "steps"),
    [
        ("a2c", {"n_steps": 100}, 80),
        ("ppo", {"n_steps": 1024, "batch_size": 64}, 1_000),
        ("dqn", {"train_freq": 200}, 300),
        ("sac", {"learning_starts": 100}, 100),
        ("td3", {"train_freq": 60}, 100),
    ],
)
def test_a_run_without_an_update_is_warned_of_and_says_so_at_the_end(name, changes, steps, capsys):
    agent, envs = agent_of(name, **changes)
    setting = next(iter(changes))
    with pytest.warns(UserWarning, match=rf"makes? no update.*Received: .*{steps:,}") as caught:
        summary = train(agent, envs, steps, verbose=True)
    assert summary["updates"] == 0 and setting in str(caught[0].message)
    said = capsys.readouterr().out
    assert "no update was made: the agent has learned nothing" in said and setting in said


@pytest.mark.parametrize("name", marked(AGENTS))
def test_the_total_that_the_warning_names_learns(name):
    agent, envs = agent_of(name, **({"n_steps": 50} if name in ("a2c", "ppo") else {}))
    if name == "ppo":
        agent, envs = agent_of(name, n_steps=48)
    period = agent.config.n_steps if agent.drops_rest else 20 + agent.config.train_freq
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(agent, envs, 2 * period)["updates"] >= 1


def test_a_large_rest_is_warned_of_and_any_rest_is_said_at_the_end(capsys):
    agent, envs = agent_of("a2c", n_steps=500)
    with pytest.warns(UserWarning, match=r"the last 800 steps .* total_steps=1_000 or 2_000"):
        train(agent, envs, 1_800, verbose=True)
    assert re.search(r"the last \d+ steps fill no rollout", capsys.readouterr().out)
    agent, envs = agent_of("a2c", n_steps=5)
    train(agent, envs, 208, verbose=True)  # 4 %: no warning, which would be an error here
    assert "steps fill no rollout" in capsys.readouterr().out


def test_a_run_that_fits_says_nothing(capsys):
    envs = make_vec("Pendulum-v1", 2, seed=0)  # no episode ends, so that there is no dummy step
    spaces = envs.single_observation_space, envs.single_action_space
    train(PPO(*spaces, AGENTS["ppo"][1]), envs, 160, verbose=True)
    assert "rollout" not in capsys.readouterr().out
