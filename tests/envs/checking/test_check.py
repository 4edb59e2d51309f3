"""`check_env`: what it is called with, healthy environments, faults that end it, its report."""

import re

import gymnasium as gym
import numpy as np
import pytest
from checked_envs import (
    DECLARED,
    NEST,
    PATIENT,
    Counting,
    Healthy,
    assert_found,
    at_step,
    box,
    checked,
    faulty,
    never,
    observing,
    with_actions,
)
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import SyncVectorEnv

from vantage.envs import Report, check_env

# ---------------------------------------------------------------- nothing is wrong


def test_a_healthy_environment():
    report = checked(Healthy, steps=1_000)
    assert isinstance(report, Report)
    assert report.errors == report.warnings == report.hints == ()
    assert report.ok
    rules = "init spaces reset step shape dtype finite bounds reuse reward flags info action ends "
    assert report.passed == tuple(
        f"{rules}speed close seeding determinism gymnasium warnings".split()
    )
    assert (report.env, report.steps, report.masks) == ("Healthy", 1_000, 0)
    assert report.terminated > 20 and report.truncated > 20
    assert report.episodes == report.terminated + report.truncated
    assert (report.observation_space, report.action_space) == (DECLARED, spaces.Discrete(2))
    assert 0 < report.median_seconds <= report.slowest_seconds


def test_counts_are_those_of_the_random_actions():
    """Not of the replays, nor of Gymnasium's checker."""
    ends = [(False, True), (True, False), (True, True)]  # terminated wins

    class Counted(Healthy):
        episode = -1

        def reset(self, **keywords):
            self.episode += 1
            return super().reset(**keywords)

        def terminated(self):
            return self.now == 4 and ends[self.episode % 3][0]

        def truncated(self):
            return self.now == 4 and ends[self.episode % 3][1]

    report = checked(Counted, steps=24)
    assert (report.steps, report.terminated, report.truncated) == (24, 4, 2)


@pytest.mark.parametrize(
    "env",
    [
        observing(NEST),
        observing(NEST["camera"]),
        observing(spaces.Discrete(4)),
        with_actions(spaces.MultiDiscrete([2, 3], start=[1, 1])),
        with_actions(spaces.MultiBinary(3)),
        with_actions(spaces.Box(-1, 1, (2,))),
        faulty(truncated=lambda self: np.bool_(self.now >= 8), reward=lambda self: np.float32(1)),
        faulty(reward=lambda self: 3),
    ],
    ids="nest image discrete multi-discrete multi-binary box numpy-scalars whole-rewards".split(),
)
def test_other_healthy_ones(env):
    report = checked(env)
    assert report.errors == report.warnings == report.hints == (), str(report)


REGISTERED = [
    f"{name}-v1" for name in ("CartPole", "Acrobot", "Pendulum", "Blackjack", "CliffWalking")
]
REGISTERED += ["MountainCar-v0", "MountainCarContinuous-v0", "FrozenLake-v1", "FrozenLake8x8-v1"]
REGISTERED += ["Taxi-v4", "CliffWalkingSlippery-v1"]


@pytest.mark.parametrize("env_id", REGISTERED)
def test_gymnasiums_own_have_no_error(env_id):
    report = check_env(env_id, slow_step=PATIENT)
    assert report.ok, str(report)
    # Beside the ends that random actions do not get to, only a world without chance is remarked on.
    warned = {finding.name for finding in report.warnings} - {"ends"}
    assert warned == ({"seeding"} if env_id == "CliffWalking-v1" else set()), str(report)


@pytest.mark.parametrize(
    ("parts", "name", "said"),
    [
        ({"reset": lambda self, **_: np.zeros(2)}, "reset", ["(observation, info)", "an array"]),
        ({"reset": lambda self, **_: (1, 2, 3)}, "reset", ["a tuple of 3"]),
        ({"reset": lambda self: (1, {})}, "reset", ["TypeError", "'seed'", "seed=None, options="]),
        (
            {"reset": lambda self, seed=None: (np.zeros(2, np.float32), {})},
            "reset",
            ["TypeError", "'options'"],  # vector environments pass it
        ),
        ({"step": lambda self, _: (1, 0.0, False, {})}, "step", ["a tuple of 4", "old API"]),
        ({"step": lambda self, _: None}, "step", ["None (NoneType)"]),
        (
            {"observe": lambda self: [] + 1},
            "reset",
            ["TypeError", "line", "of test_check.py", "at r"],
        ),
        ({"reward": lambda self: 1 / (self.now - 3)}, "step", ["ZeroDivisionError", "at step 3"]),
        ({"close": lambda self: self.window.quit()}, "close", ["AttributeError", "first time"]),
        ({"__init__": lambda self: open("no such file")}, "init", ["FileNotFoundError"]),
        ({"observation_space": None}, "spaces", ["observation_space must be a gym", "None"]),
        ({"action_space": 4}, "spaces", ["action_space must be", "Received: 4"]),
    ],
)
def test_faults_that_end_the_check(parts, name, said):
    report = checked(faulty(**parts))
    assert_found(report, "errors", name, *said)
    assert [finding.name for finding in report.errors] == [name]  # said once
    assert "nan" not in str(report).split("error")[0]  # a report that can be read all the same


def test_a_close_that_may_be_called_once_only():
    class Once(Healthy):
        closed = False

        def close(self):
            if self.closed:
                raise RuntimeError("there is no window")
            self.closed = True

    assert_found(checked(Once), "errors", "close", "there is no window", "already closed")


def test_what_a_callable_must_return():
    report = checked(lambda: SyncVectorEnv([Healthy]))
    assert_found(report, "errors", "init", "must return a gymnasium.Env", "SyncVectorEnv")
    assert_found(checked(lambda: None), "errors", "init", "NoneType")


def test_an_episode_of_one_step_is_no_error():
    """Gymnasium's checker would say that something has gone very wrong."""
    report = checked(Healthy, max_episode_steps=1)
    assert report.errors == report.warnings == ()
    assert report.episodes == 200


# ---------------------------------------------------------------- what may be passed


class Closing(Healthy):
    """Counts how often one was made, and which ones were closed."""

    made, closed = 0, set()

    def __init__(self):
        type(self).made += 1
        self.number = self.made

    def close(self):
        self.closed.add(self.number)


def test_what_is_made_is_closed_and_what_is_passed_is_not():
    assert checked(Closing).ok
    assert Closing.made > 1
    assert Closing.closed == set(range(1, Closing.made + 1))
    Closing.closed.clear()
    ready = Closing()
    assert "close" not in checked(ready).passed
    assert Closing.closed == set()


def test_what_is_made_is_closed_after_an_error_too():
    made = []

    class Broken(Closing):
        closed = set()

        def step(self, action):
            made.append(self.number)
            raise OSError("no connection")

    assert not checked(Broken).ok
    assert Broken.closed == set(made) != set()


def test_a_ready_environment_is_replayed_itself():
    report = checked(Counting())
    assert_found(report, "errors", "determinism", "then 201.0 at step 1", "when reset and played")
    report = checked(CartPoleEnv(), max_episode_steps=30)
    assert report.errors == report.warnings == ()
    assert report.env == "CartPoleEnv"
    assert report.truncated


def test_arguments_reach_the_environment():
    class Sized(Healthy):
        def __init__(self, size):
            self.size = size

        def reward(self):
            return float(self.size)

    wrappers = [
        lambda env: gym.wrappers.TransformReward(env, lambda reward: 2 * reward),
        lambda env: gym.wrappers.TransformReward(env, lambda reward: reward + 1e6),
    ]
    report = checked(Sized, env_kwargs={"size": 1e6}, wrappers=wrappers)
    assert "up to 3e+06" in report.hints[0].message
    assert report.env == "Sized"
    assert_found(checked(Sized), "errors", "init", "TypeError", "'size'", "env_kwargs")


@pytest.mark.parametrize(
    ("env", "options", "said"),
    [
        ("CartPole-v9", {}, "registered Gymnasium id. Received: 'CartPole-v9'"),
        (3, {}, "Received: 3"),
        (SyncVectorEnv([CartPoleEnv]), {}, r"single environment.*VectorEnv.*envs\.envs\[0\]"),
        (CartPoleEnv(), {"env_kwargs": {"a": 1}}, "env_kwargs must be left out"),
        (CartPoleEnv, {"steps": 0}, "steps must be at least 1. Received: 0"),
        (CartPoleEnv, {"seed": -1}, "seed must be at least 0. Received: -1"),
        (CartPoleEnv, {"max_episode_steps": 0}, "max_episode_steps must be at least 1"),
        (CartPoleEnv, {"slow_step": 0.0}, "slow_step must be a positive number"),
        (CartPoleEnv, {"slow_step": np.nan}, "slow_step must be a positive number"),
    ],
)
def test_what_is_refused(env, options, said):
    with pytest.raises(ValueError, match=said):
        checked(env, **options)


def test_the_seed_is_that_of_the_first_reset_and_of_the_actions():
    seen = []

    class Recorded(Healthy):
        def step(self, action):
            seen.append((self.np_random_seed, int(action)))
            return super().step(action)

    first = []
    for seed in (5, 5, 6):
        seen.clear()
        checked(Recorded, seed=seed)
        first.append(seen[:50])
    assert first[0] == first[1] != first[2]
    assert first[0][0][0] == 5


def test_the_report_in_full():
    """Rows of at most 100 columns, a finding once with its count, what passed in one row."""
    text = str(checked(faulty(observe=at_step(3, box(-1.5)), truncated=never), steps=100))
    head, errors, warned, passed = text.split("\n\n")
    assert head.startswith(
        "Faulty: 1 error, 1 warning, no hints\n  observation  Box(-1.0, 1.0, (2,)"
    )
    assert errors.startswith("errors: training goes wrong\n  bounds       observation must not be")
    assert re.search(r"\[\d+\s+times\]", errors)
    assert warned.startswith("warnings: training may go wrong\n  ends         Long episodes")
    assert passed.startswith(
        "  passed       init, spaces, reset, step, shape, dtype, finite, reuse"
    )
    assert max(map(len, text.splitlines())) <= 100
