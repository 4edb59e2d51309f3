"""Plays random actions in an environment and examines everything that it returns."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..vector.fitting import LARGEST
from .actions import Maskable, allowed, check_action_space, checked_mask
from .findings import Findings, described
from .observed import MATHS, SEEN, as_array, check_part, is_same, leaves_of, paired

if TYPE_CHECKING:
    from ..common.types import Info, Space
    from .observed import Parts

REPLAYED = 200  # resets and steps that are repeated


OBSERVED = (
    "The observation space must hold a Box, Discrete, MultiDiscrete or MultiBinary, alone or in "
    "Dicts and Tuples"
)


class Moment(NamedTuple):
    """A reset or a step, and what it returned."""

    where: str
    action: Any  # None: a reset
    seen: Parts  # copies; "reward", "terminated" and "truncated" as well


class Tour:
    """Plays random actions, examines the results and stores the first ones."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        self.name = ""
        self.spaces: dict[str, Space] = {}
        self.seconds: list[float] = []  # the time of every step
        self.moments: list[Moment] = []
        self.ranges: dict[str, tuple[float, float]] = {}  # lowest and highest value in each Box
        self.spans: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # the same for each entry
        self.largest_reward = 0.0
        self.terminated, self.truncated, self.masks, self.states, self.resets = 0, 0, 0, 0, 0
        self._last: tuple[Any, Parts] | None = None  # the last observation, and a copy
        self._reused: dict[str, str] = {}  # path -> the first reset or step
        self._mutated: dict[str, str] = {}  # the same

    def look_at_spaces(self, env: gym.Env) -> None:
        """Reports spaces that agents cannot use."""
        found = self.found
        for kind in ("observation", "action"):
            space = getattr(env, f"{kind}_space", None)
            if not isinstance(space, spaces.Space):
                rule = f"{kind}_space must be a gymnasium.spaces.Space"
                found.stop("spaces", rule, repr(space), "Set it in the class or in __init__.")
            self.spaces[kind] = space
        leaves = dict(leaves_of(self.spaces["observation"]))
        for path, space in leaves.items():
            if not isinstance(space, SEEN):
                rule = f"{path} is left out of the observation: its space does not hold numbers"
                instead = "If it matters, encode it with gymnasium.wrappers.TransformObservation."
                found.warn("spaces", rule, space, instead)
        if not any(isinstance(space, SEEN) for space in leaves.values()):
            instead = "Wrap the environment with gymnasium.wrappers.TransformObservation."
            found.error("spaces", OBSERVED, self.spaces["observation"], instead)
        check_action_space(found, self.spaces["action"])
        found.examined.append("spaces")

    def play(self, env: gym.Env, steps: int, seed: int) -> None:
        """Plays `steps` actions from one seed, with a reset after every end."""
        space = copy.deepcopy(self.spaces["action"])  # with its own generator
        space.seed(seed)
        generator = np.random.default_rng(seed)
        info = self._reset(env, seed)
        for _ in range(steps):
            mask = self._mask(info)
            if mask is None or not isinstance(space, Maskable):
                action = space.sample()
            else:
                action = allowed(space, mask, generator)
            info, ended = self._step(env, action)
            if ended:
                info = self._reset(env, None)
        if 0 < self.masks < self.states:
            received = f"{self.masks} masks for {self.states} states with an action"
            instead = 'Put info["action_mask"] into what reset and step return.'
            self.found.warn("mask", "Every state should come with a mask", received, instead)
        self._report_reuse()

    def _reset(self, env: gym.Env, seed: int | None) -> Info:
        self.resets += 1
        self.where = f"reset {self.resets}"
        result = reset_of(self.found, env, seed, self.where)
        if not (isinstance(result, tuple) and len(result) == 2):
            rule = "reset must return the tuple (observation, info)"
            self.found.stop("reset", rule, described(result), "Return observation, {}.")
        return self._look(result[0], result[1], None, {})

    def _step(self, env: gym.Env, action: object) -> tuple[Info, bool]:
        self.where = f"step {len(self.seconds) + 1}"
        given = copy.deepcopy(action)
        where, instead = f"at {self.where}", "Correct it: the action is in the action space."
        with self.found.running("step", where, instead):
            began = time.perf_counter()
            result = env.step(action)
            self.seconds.append(time.perf_counter() - began)
        if not (isinstance(result, tuple) and len(result) == 5):
            rule = "step must return (observation, reward, terminated, truncated, info)"
            instead = (
                "Return five values; done of the old API is terminated, or truncated at a time "
                "limit."
            )
            self.found.stop("step", rule, described(result), instead)
        if not is_same(action, given):
            rule, received = "step must not change the action it is given", f"{given} -> {action}"
            instead = "Write np.clip(action, low, high), without out=, or copy it first."
            self.found.error("action", rule, f"{received} at {self.where}", instead)
        observation, reward, terminated, truncated, info = result
        self._check_reward(reward)
        flags = {"terminated": terminated, "truncated": truncated}
        over = [self._check_flag(name, flag) for name, flag in flags.items()]
        self.terminated += over[0]
        self.truncated += over[1] and not over[0]
        outcome = {"reward": copy.deepcopy(reward), **flags}
        return self._look(observation, info, given, outcome), any(over)

    def _look(self, observation: object, info: object, action: object, outcome: Parts) -> Info:
        """Examines an observation and an info; returns the info."""
        at = f"at {self.where}"
        for path, space, part in paired(self.found, self.spaces["observation"], observation, at):
            value = check_part(self.found, path, space, part, at)
            if isinstance(space, spaces.Box) and value is not None and value.size:
                low, high = self.ranges.get(path, (np.inf, -np.inf))
                self.ranges[path] = (min(low, value.min()), max(high, value.max()))
                self._widen(path, space, part)
        seen = copy.deepcopy(dict(leaves_of(observation)))
        self._check_reuse(observation)
        self._last = observation, seen
        if len(self.moments) < REPLAYED:
            self.moments.append(Moment(self.where, action, {**seen, **outcome}))
        if isinstance(info, dict):
            return info
        self.found.error("info", "info must be a dict", f"{described(info)} {at}", "Return {}.")
        return {}

    def _widen(self, path: str, space: spaces.Box, part: object) -> None:
        """Extends the spans of the entries by an observation."""
        entries = as_array(part)
        if entries.shape == space.shape and entries.dtype.kind in "biuf":
            entries = entries.astype(np.float64)
            low, high = self.spans.get(path, (entries, entries))
            self.spans[path] = np.fmin(low, entries), np.fmax(high, entries)

    def _check_reuse(self, observation: object) -> None:
        """Checks whether the last observation has changed, or shares memory with this one."""
        if self._last is None:
            return
        before, now = dict(leaves_of(self._last[0])), dict(leaves_of(observation))
        for path, copied in self._last[1].items():
            if path not in before or not is_same(before[path], copied):
                self._mutated.setdefault(path, self.where)
            elif isinstance(before[path], np.ndarray) and isinstance(now.get(path), np.ndarray):
                if np.shares_memory(before[path], now[path]):
                    self._reused.setdefault(path, self.where)

    def _report_reuse(self) -> None:
        instead = "Return a new array every time, or a .copy()."
        for path, where in self._mutated.items():
            rule = f"{path} must not change once it has been returned"
            received = f"{where}, which overwrote what was returned before"
            why = "Code that stores observations without copying them stores wrong data."
            self.found.error("reuse", rule, received, f"{instead} {why}")
        for path, where in self._reused.items():
            if path not in self._mutated:
                rule = f"{path} should be a new array every time"
                received = f"memory at {where} that had been returned before"
                self.found.warn("reuse", rule, received, instead)

    def _check_reward(self, reward: object) -> None:
        """Checks that a reward is an int, a float or a NumPy scalar that float64 can hold."""
        number = as_array(reward)
        received, instead = f"{described(reward)} at {self.where}", "Return float(reward)."
        if type(reward) is int and number.dtype.kind == "O":  # too large for NumPy's types
            if abs(reward) > LARGEST:
                rule = "reward must be a number that a float holds"
                self.found.error("reward", rule, received, "Divide rewards by a constant.")
                return
            number = np.asarray(reward, np.float64)
        if number.shape != () or number.dtype.kind not in "iufb":
            self.found.error("reward", "reward must be one number", received, instead)
            return
        if isinstance(reward, np.ndarray) or number.dtype.kind == "b":
            self.found.warn("reward", "reward should be a float", received, instead)
        if not np.isfinite(number):
            self.found.error("finite", "reward must be finite", f"{number} at {self.where}", MATHS)
            return
        self.largest_reward = max(self.largest_reward, abs(float(number)))

    def _check_flag(self, name: str, flag: object) -> bool:
        if isinstance(flag, bool | np.bool_):
            return bool(flag)
        value = as_array(flag)
        is_like = value.shape == () and value.dtype.kind in "biu" and value in (0, 1)
        add = self.found.warn if is_like else self.found.error
        rule = f"{name} {'should' if is_like else 'must'} be True or False"
        add("flags", rule, f"{described(flag)} at {self.where}", f"Return bool({name}).")
        return value.dtype.kind in "biuf" and bool(value.any())

    def _mask(self, info: Info) -> np.ndarray | None:
        """The mask of the present state as flat bools; None if there is no usable one."""
        self.states += 1
        if info.get("action_mask") is None:
            return None
        self.masks += 1
        return checked_mask(self.found, info["action_mask"], self.spaces["action"], self.where)


def reset_of(found: Findings, env: gym.Env, seed: int | None, where: str) -> Any:
    """Resets the environment and returns the result."""
    instead = "Begin with `def reset(self, *, seed=None, options=None): super().reset(seed=seed)`."
    with found.running("reset", f"at {where}, seed={seed}", instead):
        return env.reset(seed=seed, options=None)  # as vector environments do
