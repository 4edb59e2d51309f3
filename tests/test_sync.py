"""The lean synchronous vector environment against Gymnasium's own."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from vantage.envs.sync import LeanSyncVectorEnv


class Talkative(gym.Env):
    """Observations of a space, infos of several kinds, ends and time limits at random."""

    def __init__(self, observation_space, action_space):
        self.observation_space = copy.deepcopy(observation_space)  # it has a generator
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), {"start": 1.5, "name": "a"}

    def step(self, action):
        assert self.action_space.contains(action), action
        draw = self.np_random.random()
        info = {"draw": draw, "array": np.ones(2)} if draw < 0.5 else {}
        return self.observation_space.sample(), draw, draw < 0.1, 0.05 < draw < 0.2, info


BOX, DISCRETE = spaces.Box(-1, 1, (2, 3)), spaces.Discrete(3, start=1)
ENVS = {
    "CartPole": lambda: gym.make("CartPole-v1", max_episode_steps=15),
    "Pendulum": lambda: gym.make("Pendulum-v1", max_episode_steps=15),
    "infos": lambda: Talkative(BOX, DISCRETE),
    "uint8": lambda: Talkative(spaces.Box(0, 255, (3, 3, 1), np.uint8), spaces.Box(-1, 1, (2,))),
    "dict": lambda: Talkative(spaces.Dict(a=BOX, b=spaces.Discrete(2)), DISCRETE),
    "multi": lambda: Talkative(BOX, spaces.MultiDiscrete([2, 3])),
}


def assert_same(received, expected):
    if isinstance(expected, dict):
        assert list(received) == list(expected)
        for key in expected:
            assert_same(received[key], expected[key])
    else:
        assert np.asarray(received).dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_equal_to_gymnasium(make):
    lean, reference = LeanSyncVectorEnv([make] * 3), SyncVectorEnv([make] * 3)
    for a, b in zip(lean.reset(seed=0), reference.reset(seed=0), strict=True):
        assert_same(a, b)
    reference.action_space.seed(0)
    kept, ends = [], 0
    for _ in range(60):
        actions = reference.action_space.sample()
        received, expected = lean.step(actions), reference.step(actions)
        for a, b in zip(received, expected, strict=True):
            assert_same(a, b)
        kept.append((received[0], expected[0]))
        ends += int((expected[2] | expected[3]).sum())
    assert ends > 3
    for a, b in kept:  # every step returned arrays of its own
        assert_same(a, b)
