"""A healthy environment, and parts that make it faulty in one way."""

import re
import warnings

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from vantage.envs import check_env

PATIENT = 10.0  # seconds a step may take: not what is tested here
DECLARED = spaces.Box(-1, 1, (2,), np.float32)


class Healthy(gym.Env):
    """Nothing is wrong with it; a fault replaces one of its parts."""

    observation_space, action_space = DECLARED, spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self.observe(), self.info()

    def step(self, action):
        self.now += 1
        observation = self.observe()
        return observation, self.reward(), self.terminated(), self.truncated(), self.info()

    def observe(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def reward(self):
        return float(self.np_random.normal())

    def terminated(self):
        return bool(self.np_random.random() < 0.1)

    def truncated(self):
        return self.now >= 8

    def info(self):
        return {}


def faulty(**parts):
    return type("Faulty", (Healthy,), parts)


def with_actions(space, **parts):
    return faulty(action_space=space, **parts)


def observing(space, observe=None, **parts):
    return faulty(observation_space=space, observe=observe or of_space, **parts)


def of_space(self):
    """A sample of the observation space, from the environment's own generator."""
    self.observation_space.seed(int(self.np_random.integers(2**31)))
    return self.observation_space.sample()


def at_step(step, value, otherwise=Healthy.observe):
    """A part that is `value` in one step of an episode."""
    return lambda self: value if self.now == step else otherwise(self)


def checked(env, steps=200, **options):
    """A report; nobody sees warnings of the checked environment."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return check_env(env, steps=steps, **{"slow_step": PATIENT, **options})


def assert_found(report, level, name, *said):
    """One finding of that name says all this, and there is no error of another name."""
    found = [finding for finding in getattr(report, level) if finding.name == name]
    assert found, str(report)
    assert any(all(text in f.message for text in said) for f in found), (said, str(report))
    expected = {name} if level == "errors" else set()
    others = {finding.name for finding in report.errors} - {"gymnasium"}  # it says it again
    assert others == expected, str(report)
    assert name not in report.passed
    assert report.ok == (not report.errors)
    for finding in (*report.errors, *report.warnings, *report.hints):
        assert re.fullmatch(r"\S.{8,} Received: \S.*[.\])] \S.{5,}[.)]", finding.message), finding


NEST = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "arm": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(3, start=-1)]),
        "flags": spaces.MultiBinary((2, 2)),
        "cards": spaces.MultiDiscrete([3, 4], start=[1, 0]),
        "angle": spaces.Box(-1, 1, (), np.float32),
    }
)


def box(low=-1.0, high=1.0, dtype=np.float32):
    return np.array([low, high], dtype)


class Counting(Healthy):
    """Its state outlives a reset."""

    total = 0

    def reward(self):
        self.total += 1
        return float(self.total)


def never(self):
    return False
