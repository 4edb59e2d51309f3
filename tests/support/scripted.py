"""Scripted environments, in which everything is known beforehand, and the scalar references.

A script lists the episodes of one environment as `(length, kind)`, kind being "terminated",
"truncated" or "both". Whoever plays on after the last one finds an episode that never ends. An
observation is (environment, episode, step), so that `value` tells every state from every other.
"""

import itertools
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

OBSERVATIONS = gym.spaces.Box(0, 1e6, (3,), np.float32)
ACTIONS = gym.spaces.Discrete(2)
MODES = list(AutoresetMode)
KINDS = ("terminated", "truncated", "both")
ENDLESS = 10**6

Script = list[tuple[int, str]]


def reward_of(environment, episode, step):
    """The reward of the step that leads to `step`; exact in float32."""
    return (7 * environment + 13 * episode + 29 * step) % 17 / 4 - 1


def value(observations):
    """v [M] of observations [M, 3]: a different number for every state."""
    code = np.asarray(observations, np.int64) @ np.array([10_000, 100, 1])
    return (code * 7919 % 1_000_003 / 1e5).astype(np.float32)


class Scripted(gym.Env):
    """Plays a script, whatever the actions; a seeded reset starts it over."""

    observation_space, action_space = OBSERVATIONS, ACTIONS

    def __init__(self, index: int, script: Script, reward: float | None = None):
        self.index, self.script, self.reward = index, script, reward
        self.episode, self.now = -1, 0

    def _observation(self):
        return np.array([self.index, self.episode, self.now], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.now = 0 if seed is not None else self.episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        self.now += 1
        length, kind = (*self.script, (ENDLESS, ""))[min(self.episode, len(self.script))]
        reward = reward_of(self.index, self.episode, self.now)
        reward = reward if self.reward is None else self.reward
        over = self.now == length
        terminated, truncated = kind in ("terminated", "both"), kind in ("truncated", "both")
        return self._observation(), reward, over and terminated, over and truncated, {}


def sync(scripts: list[Script], mode: AutoresetMode, **options) -> SyncVectorEnv:
    """One scripted environment per script, in Gymnasium's own vector environment."""
    makers = [lambda i=i, s=s: Scripted(i, s) for i, s in enumerate(scripts)]
    return SyncVectorEnv(makers, autoreset_mode=mode, **options)


class ScriptedVector(VectorEnv):
    """A vector environment of a user's own: all scripts at once, in NumPy, in any mode.

    `rude` makes its dummy steps report a reward and an end.
    """

    def __init__(self, scripts: list[Script], mode: AutoresetMode, rude: bool = False):
        self.metadata, self.rude = {"autoreset_mode": mode}, rude
        self.mode, self.num_envs, self.rows = mode, len(scripts), np.arange(len(scripts))
        self.single_observation_space, self.single_action_space = OBSERVATIONS, ACTIONS
        self.observation_space = batch_space(OBSERVATIONS, self.num_envs)
        self.action_space = batch_space(ACTIONS, self.num_envs)
        shape = (self.num_envs, max(map(len, scripts)) + 1)
        self.lengths = np.full(shape, ENDLESS)
        self.kinds = np.zeros((2, *shape), bool)
        for row, script in enumerate(scripts):
            for episode, (length, kind) in enumerate(script):
                self.lengths[row, episode] = length
                self.kinds[:, row, episode] = kind != "truncated", kind != "terminated"
        self.masks = []

    def _observations(self):
        return np.stack([self.rows, self.episodes, self.now], 1).astype(np.float32)

    def _begin(self, which):
        self.episodes[which] += 1
        self.now[which] = 0

    def reset(self, *, seed=None, options=None):
        if options is not None and "reset_mask" in options:
            self.masks.append(options.pop("reset_mask"))
            self._begin(self.masks[-1])
        else:
            self.episodes, self.now = np.zeros((2, self.num_envs), int)
            self.resetting = np.zeros(self.num_envs, bool)
        return self._observations(), {}

    def step(self, actions):
        live = ~self.resetting
        self._begin(self.resetting)
        self.now[live] += 1
        rewards = np.where(live, reward_of(self.rows, self.episodes, self.now), 0.0)
        over = live & (self.now == self.lengths[self.rows, self.episodes])
        terminated, truncated = over & self.kinds[:, self.rows, self.episodes]
        observations, infos = self._observations(), {}
        if self.rude:
            rewards, terminated = np.where(live, rewards, 1e3), terminated | ~live
        if self.mode is AutoresetMode.NEXT_STEP:
            self.resetting = over
        elif self.mode is AutoresetMode.SAME_STEP and over.any():
            final = np.full(self.num_envs, None)
            for row in np.flatnonzero(over):
                final[row] = observations[row]
            infos = {"final_obs": final, "_final_obs": over}
            self._begin(over)
            observations = self._observations()
        return observations, rewards, terminated, truncated, infos


class Slot(NamedTuple):
    """One step of one environment, as it should be recorded."""

    observation: tuple[int, int, int]
    successor: tuple[int, int, int]
    reward: float = 0.0
    terminated: bool = False
    ended: bool = False
    is_dummy: bool = False


def slots(index: int, script: Script, mode: AutoresetMode, count: int) -> list[Slot]:
    """The first `count` steps of a script."""
    recorded: list[Slot] = []
    for episode, (length, kind) in enumerate([*script, (ENDLESS, "")]):
        for step in range(min(length, count)):
            here, there = (index, episode, step), (index, episode, step + 1)
            ended = step + 1 == length
            terminated = ended and kind != "truncated"
            reward = reward_of(index, episode, step + 1)
            recorded.append(Slot(here, there, reward, terminated, ended))
        if mode is AutoresetMode.NEXT_STEP and length < ENDLESS:
            recorded.append(Slot(there, (index, episode + 1, 0), is_dummy=True))
    return recorded[:count]


def lambda_return(rewards, next_values, terminates, gamma, lambda_, t, n=None):
    """The λ-return of step t of one episode, or of the part of it in a fragment: forward view.

        G(t:t+n) = Σ_{k<n} γᵏ·r_{t+k} + γⁿ·v(s_{t+n})            Sutton & Barto 2018, eq. 12.1
        G(λ) = (1 − λ)·Σ_{n<H} λⁿ⁻¹·G(t:t+n) + λᴴ⁻¹·G(t:t+H)     eq. 12.3, H steps are left

    With n it is G(t:t+n). Nothing follows the last step of an episode that terminates.
    """
    end = len(rewards)

    def n_step(n):
        last = min(t + n, end)
        total = sum(gamma ** (k - t) * rewards[k] for k in range(t, last))
        if last == end and terminates:
            return total
        return total + gamma ** (last - t) * next_values[last - 1]

    if n is not None:
        return n_step(n)
    mixed = sum(lambda_ ** (n - 1) * n_step(n) for n in range(1, end - t))
    return (1 - lambda_) * mixed + lambda_ ** (end - t - 1) * n_step(end - t)


def pieces(ended) -> list[slice]:
    """The episodes in a fragment `[T]`; the last may be unfinished."""
    cuts = [0, *(t + 1 for t in range(len(ended)) if ended[t])]
    if cuts[-1] < len(ended):
        cuts.append(len(ended))
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def reference(rewards, next_values, terminated, ended, gamma, lambda_, n=None):
    """λ-returns, or n-step returns, of one environment's fragment `[T]`, episode by episode."""
    returns = np.zeros(len(rewards))
    for piece in pieces(ended):
        r, v, terminates = rewards[piece], next_values[piece], terminated[piece][-1]
        for t in range(len(r)):
            returns[piece.start + t] = lambda_return(r, v, terminates, gamma, lambda_, t, n)
    return returns
