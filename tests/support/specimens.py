"""Environments that say who they are, and that break when told to."""

from __future__ import annotations

import copy
import functools
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from vantage.envs.common.episodes import episode_seed

if TYPE_CHECKING:
    from pathlib import Path

BOX, DISCRETE = spaces.Box(-1, 1, (2, 3)), spaces.Discrete(3, start=1)


class Talkative(gym.Env):
    """Observations of a space, infos of several kinds, ends and time limits at random."""

    def __init__(self, observation_space, action_space):
        self.observation_space = copy.deepcopy(observation_space)  # it has a generator
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample(), {"start": 1.5, "name": "a", "options": str(options)}

    def step(self, action):
        assert self.action_space.contains(action), action
        draw = self.np_random.random()
        info = {"draw": draw, "array": np.ones(2), "deep": {"er": 1}} if draw < 0.5 else {}
        return self.observation_space.sample(), draw, draw < 0.1, 0.05 < draw < 0.2, info


class Own(spaces.Space):
    """A space that Gymnasium knows nothing of."""

    def __init__(self):
        super().__init__()

    def sample(self, mask=None, probability=None):
        return {"own": float(self.np_random.random())}

    def contains(self, x):
        return "own" in x

    def __eq__(self, other):
        return isinstance(other, Own)


def talkative(observation_space=BOX, action_space=DISCRETE):
    return lambda: Talkative(observation_space, action_space)


KINDS = {
    "CartPole": lambda: gym.make("CartPole-v1", max_episode_steps=15),
    "Pendulum": lambda: gym.make("Pendulum-v1", max_episode_steps=15),
    "infos": talkative(),
    "uint8": talkative(spaces.Box(0, 255, (3, 3, 1), np.uint8), spaces.Box(-1, 1, (2,))),
    "scalar": talkative(spaces.Box(-1, 1, ())),
    "discrete": talkative(spaces.Discrete(5, start=-2)),
    "dict": talkative(spaces.Dict(a=BOX, b=spaces.Dict(c=spaces.Discrete(2)))),
    "tuple": talkative(spaces.Tuple([BOX, spaces.MultiBinary(3)])),
    "text": talkative(spaces.Text(5)),
    "sequence": talkative(spaces.Dict(s=spaces.Sequence(spaces.Discrete(3)), b=BOX)),
    "graph": talkative(spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(3))),
    "own": talkative(Own()),
    "multi": talkative(BOX, spaces.MultiDiscrete([2, 3])),
    "nested actions": talkative(BOX, spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-1, 1, (1,)))),
}


def assert_same(received, expected):
    """Equal, of the same types and shapes, however nested."""
    if isinstance(expected, dict):
        assert list(received) == list(expected)
        for key in expected:
            assert_same(received[key], expected[key])
    elif isinstance(expected, tuple):
        assert type(received) is type(expected)
        for one, other in zip(received, expected, strict=True):
            assert_same(one, other)
    else:
        assert np.asarray(received).dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(received, expected)


class Boom(Exception):
    """What a specimen raises."""


def fault(how):
    if how == "raise":
        raise Boom("it went\nboom")
    if how == "sys.exit":
        sys.exit(3)
    if how == "os._exit":
        os._exit(7)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sleep":
        time.sleep(3600)
    if how == "fork":  # a child that keeps the worker's pipe
        if os.fork() == 0:
            time.sleep(3600)
        os.kill(os.getpid(), signal.SIGKILL)


class Specimen(gym.Env):
    """Observes (seed, step, action); its episodes have 3 + seed % 5 steps.

    It breaks in the method `where`, the `at`th time that is called or with a `chance` each time;
    with a `marker`, a file that it writes, only if that does not exist yet.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Discrete(1_000)
    render_mode = "rgb_array"

    def __init__(
        self,
        where: str = "",
        how: str = "raise",
        at: int = 1,
        chance: float = 0.0,
        marker: Path | None = None,
    ):
        self.where, self.how, self.at, self.chance, self.marker = where, how, at, chance, marker
        self.calls = dict.fromkeys(("__init__", "reset", "step", "close"), 0)
        self._count("__init__")

    def _count(self, method):
        self.calls[method] += 1
        if method == "reset":
            chance = False  # the seed would be the same at every attempt
        else:
            chance = self.chance > 0 and self.np_random.random() < self.chance
        if method == self.where and (chance or (not self.chance and self.calls[method] == self.at)):
            if self.marker is None or not self.marker.exists():
                if self.marker is not None:
                    self.marker.touch()
                fault(self.how)

    def _observation(self, action):
        return np.array([self.seed, self.now, action], np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._count("reset")
        self.seed, self.now = seed, 0
        return self._observation(-1), {}

    def step(self, action):
        self._count("step")
        self.now += 1
        terminated = self.now == 3 + self.seed % 5
        return self._observation(action), float(self.now), terminated, False, {"pid": os.getpid()}

    def close(self):
        self._count("close")

    def render(self):
        return np.full((2, 2, 3), self.calls["step"], np.uint8)

    def pid(self):
        return os.getpid()

    def look(self, expression):
        """The value of an expression, in the process of the environment."""
        return eval(expression, {"os": os, "sys": sys, "np": np})


def faulty(where, how="raise", **options):
    return functools.partial(Specimen, where, how, **options)


def expected_rows(run_seed, index, breaks, steps):
    """(observation, reward, terminated, restarted) of a specimen that breaks in some steps."""
    episode, now, rows = 0, 0, []
    begins = False
    for number in range(steps):
        seed = episode_seed(run_seed, index, episode)
        if number in breaks or begins:
            episode, now = episode + 1, 0
            row = (episode_seed(run_seed, index, episode), 0, -1), 0.0, False, number in breaks
            begins = False
        else:
            now += 1
            begins = now == 3 + seed % 5
            row = (seed, now, number), float(now), begins, False
        rows.append(row)
    return rows


class Walk(gym.Env):
    """A random walk of an environment's own, whose state nobody can ask for."""

    observation_space = gym.spaces.Dict(
        {"place": gym.spaces.Box(-9, 9, (2,)), "side": gym.spaces.Discrete(2)}
    )
    action_space = gym.spaces.Box(-1, 1, (2,))

    def __init__(self, length=11, forgets=True):
        self.length, self.lives = length, 0
        self.forgets = forgets

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.lives += 1
        self.place, self.now = self.np_random.normal(size=2), 0
        if not self.forgets:
            self.place = self.place + self.lives
        return self._seen(), {}

    def step(self, action):
        self.now += 1
        self.place = self.place + 0.1 * action + self.np_random.normal(size=2) / 10
        over = self.now == self.length
        return self._seen(), -float(self.place @ self.place), over, False, {}

    def _seen(self):
        return {"side": int(self.place[0] > 0), "place": self.place.astype(np.float32)}
