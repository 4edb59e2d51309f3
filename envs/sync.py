"""Environments that are stepped one after another, in this process."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.vector.utils import iterate

from .broken import BrokenEnvironmentError, raised
from .resuming import COMMANDS
from .vector import Batch, Errors, Replies, Rows, SeededVectorEnv, called, traits


class LeanSyncVectorEnv(SeededVectorEnv):
    """Steps environments in turn; given the same seeds, results equal to `SyncVectorEnv`'s.

    Box observations are written once, into a new array; Gymnasium collects them in a list, joins
    them and copies the result.

    Args:
        env_fns: Each makes an environment; again when it broke.
        restart_broken_envs: Whether an environment that raises an exception is made anew.

    Raises:
        BrokenEnvironmentError: An environment cannot be made.
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], gym.Env]], restart_broken_envs: bool = False
    ) -> None:
        super().__init__(len(env_fns), restart_broken_envs)
        self._env_fns, self.envs = tuple(env_fns), []
        try:
            for index in range(self.num_envs):
                self.envs.append(self._made(index))
        except BaseException:
            self.close()
            raise
        # Rows of their batches are their elements; others have to be taken apart.
        self._is_simple = isinstance(self.single_action_space, spaces.Discrete | spaces.Box)

    def _made(self, index: int) -> gym.Env:
        try:
            env = self._env_fns[index]()
            member = traits(env)
        except BaseException as error:
            raise self._raised(index, error, call="__init__") from error
        self._adopt(index, member)
        return env

    def step(self, actions: Any) -> Batch:
        """Steps every environment; one whose episode had ended begins its next one instead."""
        episodes = self._episodes
        episodes.clock += 1
        if self._records:
            self._recording.add(actions, episodes)
        batch = observations, rewards, terminated, truncated, infos = self._empty_batch()
        errors, begins = {}, self._ended.tolist()
        each = actions if self._is_simple else iterate(self.action_space, actions)
        for i, (env, action) in enumerate(zip(self.envs, each, strict=True)):
            try:
                if begins[i]:
                    observations[i], info = env.reset(seed=episodes.begin(i))
                else:
                    observations[i], rewards[i], terminated[i], truncated[i], info = env.step(
                        action
                    )
                if info:
                    self._add_info(infos, info, i)
            except BaseException as error:  # such as a panic of Rust code
                errors[i] = self._raised(i, error, action=action)
        return self._completed(batch, errors)

    def _begin(self, indices: Iterable[int], options: Mapping[str, Any] | None = None) -> Rows:
        rows: Rows = {}
        for i in indices:
            try:
                observation, info = self.envs[i].reset(
                    seed=self._episodes.begin(i), options=options
                )
                rows[i] = observation, 0.0, False, False, info
            except BaseException as error:
                rows[i] = self._raised(i, error)
        return rows

    def _remake(self, indices: Sequence[int]) -> Errors:
        errors = {}
        for i in indices:
            with contextlib.suppress(BrokenEnvironmentError):  # it is broken
                self._close(i)
            try:
                self.envs[i] = self._made(i)
            except BrokenEnvironmentError as error:
                errors[i] = error
        return errors

    def _call_each(self, name: str, arguments: Sequence[tuple], keywords: dict) -> tuple[Any, ...]:
        pairs = zip(self.envs, arguments, strict=True)
        return tuple(called(env, name, own, keywords) for env, own in pairs)

    def _ask(self, command: str, arguments: Mapping[int, tuple], patience: float = 1) -> Replies:
        replies: Replies = {}
        for i, own in arguments.items():
            try:
                replies[i] = "", COMMANDS[command](self.envs[i], *own)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                replies[i] = raised(error), None
        return replies

    def close_extras(self) -> None:
        """Closes every environment; one that fails to is warned of."""
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
