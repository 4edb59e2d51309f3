"""Steps environments one after another in this process."""

from __future__ import annotations

import contextlib
import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import iterate

from .broken import BrokenEnvironmentError, NotAnEnvironmentError, raised
from .fitting import BOOLS, FLOATS
from .vector import COMMANDS, SeededVectorEnv, called, traits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ..common.types import Info, Make
    from .vector import Batch, Errors, Replies, Rows

MOST_HELD = 1_000
"""Items of a list that are searched for environments: a longer list is a data set."""
_KINDS = (gym.Env, gym.vector.VectorEnv)


class LeanSyncVectorEnv(SeededVectorEnv):
    """Steps environments in turn; with the same seeds, results equal those of `SyncVectorEnv`.

    Box observations are written once, into a new array; Gymnasium collects them in a list, joins
    them and copies the result.

    Args:
        env_fns: Functions that each make one environment, and make it again after it broke.
        restart_broken_envs: Whether to rebuild an environment that raises an exception.

    Raises:
        BrokenEnvironmentError: An environment cannot be made.
    """

    def __init__(self, env_fns: Sequence[Make], restart_broken_envs: bool = False) -> None:
        super().__init__(len(env_fns), restart_broken_envs)
        self._env_fns, self.envs = tuple(env_fns), []
        slots: dict[int, int] = {}
        try:
            for index in range(self.num_envs):
                self.envs.append(self._made(index, slots))
        except BaseException:
            self.close()
            raise
        # A batch of these is an array of single actions; `iterate` splits batches of other spaces.
        self._is_simple = isinstance(self.single_action_space, spaces.Discrete | spaces.Box)

    def _made(self, index: int, slots: dict[int, int]) -> gym.Env:
        try:
            env = self._env_fns[index]()
            member = traits(env)
        except NotAnEnvironmentError:
            raise
        except BaseException as error:
            raise self._raised(index, error, call="__init__") from error
        self._check_is_new(index, env, slots)
        self._adopt(index, member)
        return env

    def _check_is_new(self, index: int, made: gym.Env, slots: dict[int, int]) -> None:
        """Refuses an environment that is, or contains, one that another slot uses.

        Args:
            index: The slot of the environment.
            made: The environment.
            slots: Slots by the ids of the environments they contain; those of `made` are added.
        """
        reached = layers_of(made)
        for key, layer in reached.items():
            if key in slots:
                other, name = slots[key], type(layer.unwrapped).__name__
                before = "before it broke" if other == index else f"for environment {other}"
                raise ValueError(
                    "Every environment of a vector must be an instance of its own, and so must the "
                    "environments in it: shared ones overwrite each other's state. Received: the "
                    f"same {name} for environment {index} as {before}. Pass the class, or a "
                    "function that makes a new instance on each call, such as lambda: MyEnv(), not "
                    "lambda: env, and pass no environment in env_kwargs."
                )
        slots |= dict.fromkeys(reached, index)

    def _slots(self, broken: int) -> dict[int, int]:
        """Slots by the ids of the environments they contain.

        Of the broken slot only the innermost environment counts: its successor may reuse the same
        simulator, which no other slot uses.
        """
        others = ((slot, env) for slot, env in enumerate(self.envs) if slot != broken)
        slots = {key: slot for slot, env in others for key in layers_of(env)}
        return slots | {id(self.envs[broken].unwrapped): broken}

    def step(self, actions: Any) -> Batch:
        """Steps every environment; one whose episode has ended begins the next one instead."""
        episodes = self._episodes
        episodes.clock += 1
        if self._records:
            self._recording.add_actions(actions, episodes)
        batch = observations, rewards, terminated, truncated, infos = self._empty_batch()
        errors, begins, fit = {}, self._ended.tolist(), self._fit
        dtype, shape = fit.dtype, fit.shape
        each = actions if self._is_simple else iterate(self.action_space, actions)
        for i, (env, action) in enumerate(zip(self.envs, each, strict=True)):
            try:
                if begins[i]:
                    row = fit.reset(env.reset(seed=episodes.begin(i)))
                else:
                    row = env.step(action)
                    if type(row) is not tuple or len(row) != 5:
                        row = fit.step(row)
                observation, reward, over, cut, info = row
                if (  # the usual case, inlined: a call would take as long as the checks themselves
                    type(observation) is not np.ndarray
                    or observation.dtype is not dtype
                    or observation.shape != shape
                    or type(reward) not in FLOATS
                    or type(over) not in BOOLS
                    or type(cut) not in BOOLS
                    or type(info) is not dict
                ):
                    observation, reward, over, cut, info = fit.step(row)
                try:
                    observations[i], rewards[i] = observation, reward
                except OverflowError:  # an int too large for a float: `step` names the rule
                    fit.step(row)
                    raise
                terminated[i], truncated[i] = over, cut
                if info:
                    self._add_info(infos, info, i)
            except BaseException as error:  # for example a panic in Rust code
                errors[i] = self._raised(i, error, action=action)
        return self._completed(batch, errors)

    def _begin(self, indices: Iterable[int], options: Info | None = None) -> Rows:
        rows: Rows = {}
        for i in indices:
            try:
                seed = self._episodes.begin(i)
                rows[i] = self._fit.reset(self.envs[i].reset(seed=seed, options=options))
            except BaseException as error:
                rows[i] = self._raised(i, error)
        return rows

    def _remake(self, indices: Sequence[int]) -> Errors:
        errors = {}
        for i in indices:
            with contextlib.suppress(BrokenEnvironmentError):  # a broken one may fail to close
                self._close(i)
            try:
                self.envs[i] = self._made(i, self._slots(i))
            except BrokenEnvironmentError as error:
                errors[i] = error
        return errors

    def _call_each(
        self, name: str, arguments: Sequence[tuple[object, ...]], keywords: Mapping[str, object]
    ) -> tuple[Any, ...]:
        pairs = zip(self.envs, arguments, strict=True)
        return tuple(called(env, name, args, keywords) for env, args in pairs)

    def _ask(
        self, command: str, arguments: Mapping[int, tuple[object, ...]], patience: float = 1
    ) -> Replies:
        replies: Replies = {}
        for i, args in arguments.items():
            try:
                replies[i] = "", COMMANDS[command](self.envs[i], *args)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                replies[i] = raised(error), None
        return replies

    def close_extras(self) -> None:
        """Closes every environment; warns of one that fails to close."""
        for i in range(len(self.envs)):
            try:
                self._close(i)
            except BrokenEnvironmentError as error:
                warnings.warn(error.first_line, stacklevel=3)

    def _close(self, index: int) -> None:
        try:
            self.envs[index].close()
        except BaseException as error:
            raise self._raised(index, error, call="close") from error


def layers_of(env: object) -> dict[int, Any]:
    """An environment and all environments that it contains, by id.

    An environment contains those that it wraps and those that an attribute of it or of its class
    holds, alone or in a list, tuple or dict. Other objects, such as data sets and models, may be
    shared and are not searched.
    """
    waiting = [env, getattr(env, "unwrapped", env)]
    reached = {id(each): each for each in waiting}
    for each in waiting:
        for held in _held(each):
            if id(held) not in reached:
                reached[id(held)] = held
                waiting.append(held)
    return reached


def _held(env: object) -> Iterator[object]:
    """The environments among the attributes of one environment."""
    for attributes in (getattr(env, "__dict__", {}), *map(vars, type(env).__mro__)):
        for value in list(attributes.values()):
            items: Iterable[object] = (value,)
            if isinstance(value, dict | list | tuple):
                items = islice(value.values() if isinstance(value, dict) else value, MOST_HELD)
            # critical: tests the type, since isinstance may make a proxy compute its value
            yield from (each for each in items if issubclass(type(each), _KINDS))
