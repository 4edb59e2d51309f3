"""Evaluation: a quota of episodes per environment, a mean and its interval."""

import functools
import itertools
import json
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from scripted import KINDS, MODES, Scripted, ScriptedVector, slots, sync

from vantage.envs import make_vec
from vantage.training.experience.evaluation import evaluate, play, t_quantile
from vantage.training.experience.transitions import Transitions
from vantage.training.monitoring.video import play_episode, record_episode

EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
T_975 = {  # the tables' 97.5 % quantiles of Student's t
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 9: 2.262, 11: 2.201, 19: 2.093,
    29: 2.045, 99: 1.984, 999: 1.962,
}  # fmt: skip


class Idle:
    """Always the first action; remembers how it was asked."""

    def __init__(self):
        self.asked = set()

    def act(self, observations, deterministic=False):
        self.asked.add(deterministic)
        return np.zeros(len(observations), np.int64)


class Leaning:
    """CartPole: towards where the pole leans; at random one time in four, if not deterministic."""

    def __init__(self, seed=0):
        self.generator = np.random.default_rng(seed)

    def act(self, observations, deterministic=False):
        actions = (observations[:, 2] > 0).astype(np.int64)
        if deterministic:
            return actions
        return np.where(self.generator.random(len(actions)) < 0.25, 1 - actions, actions)


def cartpole(mode=MODES[0], num_envs=3):
    return SyncVectorEnv([lambda: gym.make("CartPole-v1")] * num_envs, autoreset_mode=mode)


def episodes_of(index, script, mode):
    """(return, length) of a script's episodes."""
    played, running = [], []
    for slot in slots(index, script, mode, 200):
        running += [] if slot.is_dummy else [slot.reward]
        if slot.ended:
            played.append((sum(running), len(running)))
            running = []
    return played


@EVERY_MODE
@pytest.mark.parametrize("make", [sync, ScriptedVector])
@pytest.mark.parametrize("episodes", [1, 2, 3, 4, 7, 12])
def test_every_environment_plays_its_quota(make, mode, episodes):
    """⌊episodes/N⌋ or one more, its first ones; fewer episodes than environments, too."""
    scripts = [
        [(9, kind) for kind in KINDS] + [(4, "terminated")],
        [(1, kind) for kind in KINDS * 3],
        [(2, "truncated"), (5, "both"), (3, "terminated"), (2, "truncated")],
    ]
    result = evaluate(Idle(), make(scripts, mode), episodes)
    played = []
    for n, script in enumerate(scripts):
        quota = episodes // 3 + (n < episodes % 3)
        played += episodes_of(n, script, mode)[:quota]
    returns, lengths = np.array(played).T
    assert result.episodes == episodes == len(returns)
    assert result.mean == pytest.approx(returns.mean())
    assert result.mean_length == pytest.approx(lengths.mean())
    std = returns.std(ddof=1) if episodes > 1 else 0.0
    assert result.std == pytest.approx(std)
    margin = T_975[episodes - 1] * std / math.sqrt(episodes) if episodes > 1 else 0.0
    low, high = result.ci95
    assert (low + high) / 2 == pytest.approx(result.mean)
    assert (high - low) / 2 == pytest.approx(margin, rel=0.01)


def first_finished(envs, episodes):
    """The mean return of whatever ends first: what a careless evaluation reports."""
    transitions = Transitions(envs)
    transitions.reset()
    while transitions.episodes < episodes:
        transitions.step(np.zeros(envs.num_envs, np.int64))
    return np.mean(list(transitions.recent_returns)[:episodes])


@EVERY_MODE
def test_the_first_to_finish_are_biased(mode):
    """One environment's episodes last 1 step, the other's 19; reward 1; half of each are due."""
    scripts = [[(1, "terminated")] * 400, [(19, "truncated")] * 40]

    def envs():
        makers = [functools.partial(Scripted, n, s, 1.0) for n, s in enumerate(scripts)]
        return SyncVectorEnv(makers, autoreset_mode=mode)

    assert evaluate(Idle(), envs(), 20).mean == 10.0
    assert first_finished(envs(), 20) < 3


def test_all_modes_agree():
    results = [evaluate(Leaning(), cartpole(mode), 8, seed=4) for mode in MODES]
    assert results[0] == results[1] == results[2]
    assert results[0].std > 0


def test_the_seed_decides():
    def result(seed, deterministic=True, agent_seed=0):
        envs = cartpole()
        return evaluate(Leaning(agent_seed), envs, 6, deterministic=deterministic, seed=seed)

    assert result(1) == result(1)
    assert result(1).mean != result(2).mean
    assert result(1, deterministic=False) == result(1, deterministic=False)
    assert result(1, deterministic=False).mean != result(1).mean
    assert result(1, False, 5).mean != result(1, False).mean
    envs = cartpole()  # the environments' past does not matter
    evaluate(Leaning(), envs, 5)
    assert evaluate(Leaning(), envs, 6, seed=1) == result(1)


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_agent_is_told_whether_to_sample(deterministic):
    agent, envs = Idle(), ScriptedVector([[(2, "terminated")]], MODES[0])
    result = evaluate(agent, envs, 1, deterministic=deterministic, seed=3)
    assert agent.asked == {deterministic}
    assert (result.deterministic, result.seed) == (deterministic, 3)


def test_deterministic_is_the_default():
    agent, envs = Idle(), ScriptedVector([[(2, "terminated")]], MODES[0])
    assert evaluate(agent, envs, 1).deterministic
    assert agent.asked == {True}


def test_one_episode_has_no_spread():
    result = evaluate(Idle(), ScriptedVector([[(3, "both")]], MODES[0]), 1)
    assert result.std == 0.0
    assert result.ci95 == (result.mean, result.mean)


def test_json():
    envs = ScriptedVector([[(3, "both"), (5, "truncated")]], MODES[0])
    result = evaluate(Idle(), envs, 2)
    data = json.loads(json.dumps(result.to_json()))
    assert set(data) >= {"mean", "std", "ci95", "episodes", "seed"}
    assert (data["mean"], data["std"], tuple(data["ci95"])) == (
        result.mean,
        result.std,
        result.ci95,
    )
    assert data["seed"] is None


# ---------------------------------------------------------------- Student's t


@pytest.mark.parametrize("freedom", T_975)
def test_quantiles_against_the_tables(freedom):
    assert t_quantile(freedom) == pytest.approx(T_975[freedom], rel=0.01)


def test_quantiles_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    freedoms = np.arange(1, 2000)
    ours = [t_quantile(int(freedom)) for freedom in freedoms]
    np.testing.assert_allclose(ours, stats.t.ppf(0.975, freedoms), rtol=0.01)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    """95 % of the intervals of five normal numbers, within four standard errors of 2,000."""
    random, n = np.random.default_rng(0), 5
    samples = random.normal(size=(2000, n))
    margins = t_quantile(n - 1) * samples.std(1, ddof=1) / math.sqrt(n)
    share = (np.abs(samples.mean(1)) < margins).mean()
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("episodes", [0, -3])
def test_at_least_one_episode(episodes):
    with pytest.raises(ValueError, match=f"at least 1. Received: {episodes}"):
        evaluate(Idle(), cartpole(), episodes)


class Wall(gym.Env):
    """Ends only where one goes right five times in turn; steps are counted over all instances."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    steps = 0

    def __init__(self, most=25_000):
        self.most = most

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.here = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.here += 1
        Wall.steps += 1
        return np.zeros(1, np.float32), -1.0, self.here >= self.most, False, {}


class Left:
    """Always goes left."""

    def act(self, observations, deterministic=False):
        return np.zeros(len(observations), np.int64)


def test_an_episode_without_an_end_is_warned_of_once():
    envs = make_vec(Wall, 2)
    with pytest.warns(UserWarning, match="5,000 steps.*max_episode_steps") as caught:
        evaluate(Left(), envs, 2)
    assert len(caught) == 1


def test_one_environment_without_an_end_is_enough():
    lengths = itertools.chain([5], itertools.repeat(12_000))
    envs = make_vec(lambda: Wall(next(lengths)), 2)
    with pytest.warns(UserWarning, match="max_episode_steps"):
        evaluate(Left(), envs, 2)


def test_long_episodes_that_end_are_no_fault():
    evaluate(Left(), make_vec(Wall, 2, max_episode_steps=4_500), 4)


def test_a_signal_ends_an_evaluation_that_does_not_end():
    envs = make_vec(lambda: Wall(10**9), 2)
    with pytest.warns(UserWarning, match="max_episode_steps"):
        assert play(Left(), envs, 2, True, None, give_up=lambda: True) is None
    assert play(Left(), make_vec(lambda: Wall(10), 2), 2, True, None, lambda: True).mean == -10


def test_a_film_of_an_endless_episode_is_cut():
    class Picture(Wall):
        metadata = {"render_modes": ["rgb_array"]}
        render_mode = "rgb_array"

        def render(self):
            return np.zeros((1, 1, 3), np.uint8)

    frames, _ = record_episode(Left(), Picture(10**9), max_steps=50)
    assert len(frames) == 51
    with pytest.warns(UserWarning, match="max_episode_steps"):
        play_episode(Left(), Picture(10_001))
