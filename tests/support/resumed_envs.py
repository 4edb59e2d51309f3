"""Environments with every kind of state, and how they are saved, made anew and compared."""

from __future__ import annotations

import contextlib
import functools
import io
import json

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from specimens import KINDS, assert_same

from vantage.envs import make_vec
from vantage.envs.common.storable import is_same

CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]


class Wanderer(gym.Env):
    """A random walk that ends at random, with memories from before the episode; no `get_state`."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.normal(size=2), 0
        self.spread = np.float32((options or {}).get("spread", 0.1))
        self.legs = (1, [2.5, np.int16(3)])
        return self._observation(), {}

    def _observation(self):
        return self.position.astype(np.float32)

    def step(self, action):
        self.steps += 1
        self.position += action * self.spread + 0.1 * self.np_random.normal(size=2)
        action[...] = 9  # it is its own
        ended = self.np_random.random() < 0.1
        return self._observation(), float(self.position[0]), ended, self.steps == 15, {}


class Telling(Wanderer):
    """One that tells its state."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed, options=options)

    def _observation(self):
        return np.array([self.position[0], self.resets], np.float32)

    def get_state(self):
        names = ("position", "steps", "spread", "legs", "resets")
        return {name: getattr(self, name) for name in names}

    def set_state(self, state):
        assert type(state["spread"]) is np.float32 and type(state["legs"]) is tuple
        vars(self).update(state)


class Masked(Telling):
    def action_masks(self):
        return [self.steps % 2, 1]


class Shifting(gym.Wrapper):
    """A user's own wrapper, which has a state."""

    def reset(self, **keywords):
        observation, info = self.env.reset(**keywords)
        self.total = observation.copy()
        return self.total.copy(), info

    def step(self, action):
        observation, *others = self.env.step(action)
        self.total += observation
        return self.total.copy(), *others


def classic(name, **options):
    return make_vec(name, 3, max_episode_steps=15, **options)


CASES = {
    **{name: ("state", functools.partial(classic, name)) for name in CLASSIC},
    "native": ("state", functools.partial(classic, "Acrobot-v1", vectorization="native")),
    "Gymnasium's": ("state", lambda: make_vec(CartPoleVectorEnv(3, max_episode_steps=15))),
    "telling": ("state", lambda: make_vec(Telling, 3)),
    "clipped": ("state", lambda: make_vec(Telling, 3, wrappers=[gym.wrappers.ClipAction])),
    "limited": ("state", lambda: make_vec(Telling, 3, max_episode_steps=7)),
    "masked": ("state", lambda: make_vec(Masked, 3)),
    "wandering": ("replay", lambda: make_vec(Wanderer, 3)),
    "limited wandering": ("replay", lambda: make_vec(Wanderer, 3, max_episode_steps=7)),
    "wrapped": ("replay", lambda: make_vec("CartPole-v1", 3, wrappers=[Shifting])),
    **{
        kind: ("replay", functools.partial(make_vec, KINDS[kind], 3))
        for kind in ("uint8", "scalar", "discrete", "dict", "tuple", "text", "own", "multi")
    },
    "sequence": ("replay", functools.partial(make_vec, KINDS["sequence"], 3)),
}


def through_a_file(state):
    """Arrays as such, everything else as strict JSON, which makes tuples lists."""
    arrays = {}

    def put(value):
        if isinstance(value, np.ndarray):
            arrays[str(len(arrays))] = value
            return {"array": str(len(arrays) - 1)}
        if isinstance(value, dict):
            return {key: put(one) for key, one in value.items()}
        return list(map(put, value)) if isinstance(value, list | tuple) else value

    text, file = json.dumps(put(state), allow_nan=False), io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    found = np.load(file, allow_pickle=False)
    return json.loads(text, object_hook=lambda d: found[d["array"]] if list(d) == ["array"] else d)


def actions_of(envs, steps, seed=0):
    envs.action_space.seed(seed)
    return [envs.action_space.sample() for _ in range(steps)]


def played(envs, actions):
    """What is seen; neither the actions nor what was returned stay as they were."""
    seen, buffer = [], np.empty_like(actions[0]) if actions else None
    for action in actions:
        np.copyto(buffer, action)
        step = envs.step(buffer)[:4]
        seen.append(tuple(one.copy() if isinstance(one, np.ndarray) else one for one in step))
        if isinstance(step[0], np.ndarray) and step[0].flags.writeable:
            step[0][...] = 0
    return seen


def until_an_end(envs, actions):
    """Plays on until an episode has ended that the next step would follow with another."""
    for count, action in enumerate(actions, start=1):
        _, _, terminated, truncated, _ = envs.step(action.copy())
        if (terminated | truncated).any():
            return count
    raise AssertionError


def goes_on(make, envs, exactness, actions):
    """What is saved of `envs`, set in new ones, leads to the same steps, starts and states."""
    state = envs.get_state()
    kept = through_a_file(state)
    assert state["exactness"] == exactness
    expected = played(envs, actions)
    assert is_same(through_a_file(state), kept)  # it is nobody else's
    with contextlib.closing(make()) as other:
        assert other.set_state(kept) == ""
        for one, another in zip(played(other, actions), expected, strict=True):
            assert_same(one, another)
        one, another = envs.get_state(), other.get_state()
        assert is_same(one, another)
        assert_same(other.reset()[0], envs.reset()[0])


def saved(make, steps=5, **reset):
    envs = make()
    envs.reset(seed=5, **reset)
    played(envs, actions_of(envs, steps))
    return envs, through_a_file(envs.get_state())
