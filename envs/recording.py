"""The actions of running episodes, so that who cannot tell its state is simulated again.

Legend: N environments, T steps, of which the last L are those of a running episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import gymnasium as gym
import numpy as np

from .episodes import Episodes
from .storable import StateError, array, encoded, entries, is_plain, is_same, refusal

MAX_STEPS = 100_000  # an episode that is longer is not recorded
MAX_BYTES = 2**28  # nor one whose actions, with those beside it, need more
_LEAST_ROWS = 1024  # before it is worth looking for what may be dropped

WHY = {  # running episodes cannot be simulated again
    "broken": "An environment had broken, or a step was interrupted, before the state was saved.",
    "long": f"An episode was too long to be recorded (more than {MAX_STEPS:,} steps or "
    f"{MAX_BYTES >> 20} MiB of actions).",
    "unrecorded": "The beginning of an episode, or its reset options, were not recorded.",
    "actions": "Actions that are not one array of numbers, always of one type, are not recorded.",
    "observations": "Observations that are not arrays and text cannot be compared.",
}


def replayed(env: gym.Env, seed: int, actions: np.ndarray | None) -> Any:
    """The last observation of an episode that is simulated from its seed and actions [L, ...]."""
    observation, _ = env.reset(seed=seed)
    for action in () if actions is None else actions.copy():
        observation, *_ = env.step(action)
    return observation


class Recording:
    """The actions [N, ...] of as many steps as a running episode may need, and what was seen last.

    Attributes:
        unrecorded: The number of each environment's last episode that began unrecorded, or with
            reset options, which are not recorded.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.clear()

    def clear(self) -> None:
        """Forgets all steps."""
        self.unrecorded = [-1] * self._count
        self._actions: list[np.ndarray | None] = []
        self._observations: np.ndarray | list[Any] | None = None
        self._full = min(_LEAST_ROWS, MAX_STEPS)

    def add(self, actions: Any, episodes: Episodes) -> None:
        """Records a step, whose actions may be overwritten afterwards; the clock is at it."""
        self._actions.append(actions.copy() if type(actions) is np.ndarray else None)
        if len(self._actions) > self._full:
            self._drop(episodes)

    def see(self, observations: np.ndarray | list[Any]) -> None:
        """Keeps the last observations: a batch, or what each environment returned."""
        is_batch = isinstance(observations, np.ndarray)
        self._observations = observations.copy() if is_batch else observations

    def _drop(self, episodes: Episodes) -> None:
        """Forgets what no running episode needs: seldom, for it takes as long as there are rows."""
        last = self._actions[-1]
        most = MAX_BYTES // max(1, last.nbytes) if last is not None else 0
        needed = max(map(episodes.step_of, range(len(episodes.numbers))))
        kept = min(needed, MAX_STEPS, most)
        del self._actions[: len(self._actions) - kept]
        self._full = max(min(2 * kept, MAX_STEPS), _LEAST_ROWS)
        if kept == MAX_STEPS or kept == most:
            self._full = kept + kept // 10 + 1

    def saved(self, episodes: Episodes, ended: np.ndarray) -> dict[str, Any]:
        """What `planned` takes; "restart", and why, if an episode cannot be simulated again."""
        running = running_episodes(episodes, ended)
        try:
            rows = self._rows(max(running.values(), default=0))
            if any(self.unrecorded[i] == episodes.numbers[i] for i in running):
                raise _NotRecorded("unrecorded")
            observations = self._seen(running, len(ended)) if running else None
        except _NotRecorded as why:
            return {"exactness": "restart", "why": str(why)}
        actions: list[np.ndarray | None] = [None] * len(ended)
        for i, length in running.items():
            if length:
                actions[i] = rows[len(rows) - length :, i].copy()
        return {"exactness": "replay", "actions": actions, "observations": observations}

    def _rows(self, longest: int) -> np.ndarray:
        """The last actions [longest, N, ...]."""
        rows = self._actions[len(self._actions) - longest :] if longest else []
        if longest > MAX_STEPS or sum(row.nbytes for row in rows if row is not None) > MAX_BYTES:
            raise _NotRecorded("long")
        if longest > len(self._actions):
            raise _NotRecorded("unrecorded")
        if any(row is None for row in rows):
            raise _NotRecorded("actions")
        kinds = {(row.dtype, row.shape) for row in rows if row is not None}
        if len(kinds) > 1 or not all(is_plain(dtype) for dtype, _ in kinds):
            raise _NotRecorded("actions")
        return np.array(rows)

    def _seen(self, running: Mapping[int, int], count: int) -> Any:
        seen = self._observations
        if isinstance(seen, np.ndarray):
            if not is_plain(seen.dtype):
                raise _NotRecorded("observations")
            return seen.copy()
        if seen is None:
            raise _NotRecorded("unrecorded")
        try:
            return [encoded(seen[i]) if i in running else None for i in range(count)]
        except StateError:
            raise _NotRecorded("observations") from None

    def refill(
        self, actions: list[np.ndarray | None], observations: np.ndarray | list[Any] | None
    ) -> None:
        """Records running episodes that were simulated again."""
        self.clear()
        if observations is not None:
            self.see(observations)
        played = {i: own for i, own in enumerate(actions) if own is not None}
        if played:
            longest = max(map(len, played.values()))
            one = next(iter(played.values()))
            rows = np.zeros((longest, len(actions), *one.shape[1:]), one.dtype)
            for i, own in played.items():
                rows[longest - len(own) :, i] = own
            self._actions = list(rows)


class _NotRecorded(Exception):
    """Why, as in `WHY`."""


def running_episodes(episodes: Episodes, ended: np.ndarray) -> dict[int, int]:
    """Which environments are in the middle of an episode, and how many steps it has had."""
    seeds = enumerate(episodes.seeds)
    return {i: episodes.step_of(i) for i, s in seeds if s is not None and not ended[i]}


class Plan:
    """What has to be simulated again, and seen at last.

    Attributes:
        actions: Of every environment's running episode [L, ...]; None where there are none.
        longest: The greatest L.

    Raises:
        StateError: The saved dict is malformed, or does not fit the books.
    """

    def __init__(
        self, saved: dict[str, Any], episodes: Episodes, ended: np.ndarray, empty: Any
    ) -> None:
        count = len(ended)
        self._seen: Any = None
        self._running, self._seeds = running_episodes(episodes, ended), episodes.seeds
        self.actions = entries(saved["actions"], "The actions", count)
        self.longest = max(self._running.values(), default=0)
        kinds, size = set(), 0
        for i, own in enumerate(self.actions):
            length = self._running.get(i, 0)
            if own is None and length == 0:
                continue
            if type(own) is not np.ndarray or own.ndim == 0 or len(own) != length or not length:
                raise refusal(
                    f"The actions of environment {i} must be those of {length} steps", own
                )
            kinds.add((own.dtype, own.shape[1:]))
            size = max(size, own.nbytes * count * self.longest // length)
        if len(kinds) > 1 or not all(is_plain(dtype) for dtype, _ in kinds):
            raise refusal("Actions must be arrays of numbers of one type", self.actions)
        # critical: `refill` makes as large an array from what may be a few small ones.
        if self.longest > MAX_STEPS or size > MAX_BYTES:
            raise refusal(f"An episode must have at most {MAX_STEPS} actions", self.longest)
        seen = saved["observations"]
        if self._running and isinstance(empty, np.ndarray):
            self._seen = array(seen, "The observations", empty.shape, empty.dtype)
        elif self._running:
            self._seen = entries(seen, "The observations", count)

    def requests(self) -> dict[int, tuple[int | None, np.ndarray | None]]:
        """The arguments of `replayed` for each environment that needs it."""
        return {i: (self._seeds[i], self.actions[i]) for i in self._running}

    def compared(self, observations: Mapping[int, Any]) -> tuple[Any, list[int]]:
        """The last observations, as `Recording.see` takes them, and whose are not the saved ones.

        Args:
            observations: What `replayed` returned for each of `requests`.
        """
        now = copy(self._seen)
        return now, [i for i, one in observations.items() if not self._agrees(now, i, one)]

    def _agrees(self, now: Any, i: int, observation: Any) -> bool:
        try:
            now[i] = observation
            if isinstance(now, np.ndarray):  # which has made it its own type
                return is_same(now[i : i + 1], self._seen[i : i + 1])
            return is_same(encoded(observation), self._seen[i])
        except Exception:  # it does not fit
            return False


def reason(saved: dict[str, Any]) -> str:
    """Why episodes begin anew.

    Raises:
        StateError: The saved dict does not say.
    """
    if type(saved["why"]) is not str or saved["why"] not in WHY:
        raise refusal(f"The reason must be one of {', '.join(WHY)}", saved["why"])
    return WHY[saved["why"]]
