"""Records actions, so that environments whose state is unknown can be simulated again.

Each environment's current and previous episodes are recorded: an instance may carry something from
one episode into the next, and a replay of both reproduces it. The rewards and ends of all these
steps and the last observation are then compared.

Legend: N environments, T steps; the last L of them belong to an environment's current episode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..common.storable import StateError, array, encoded, entries, is_plain, is_same, refusal
from .changes import Change, Changes, apply

if TYPE_CHECKING:
    import gymnasium as gym

    from ..common.episodes import Episodes
    from ..common.types import State

MAX_STEPS = 100_000  # longer episodes are not recorded
MAX_BYTES = 2**28  # nor episodes whose actions, of all environments together, need more
_LEAST_ROWS = 1024  # fewer rows are not worth a search for rows to drop

WHY = {  # why running episodes cannot be simulated again
    "broken": "An environment had broken, or a step was interrupted, before the state was saved.",
    "long": f"An episode was too long to be recorded (more than {MAX_STEPS:,} steps or "
    f"{MAX_BYTES >> 20} MiB of actions).",
    "unrecorded": "The beginning of an episode, or its reset options, were not recorded.",
    "actions": "Actions are recorded only if they are one array of numbers, always of one type.",
    "uncompared": "An episode had just begun, and the previous one was too long to be recorded.",
    "changes": "A value that set_attr set in the environments cannot be saved.",
    "observations": "Observations can be compared only if they consist of arrays and text.",
}

Outcome: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # rewards, terminated, truncated
Seen: TypeAlias = np.ndarray | list[Any]
"""Observations as a batch, or as a list of what each environment returned."""
Parts: TypeAlias = Mapping[int, Sequence[tuple[int, np.ndarray | None, Outcome]]]
"""Each environment's episodes: the clock at the beginning, the actions and their outcome."""
Replayed: TypeAlias = Mapping[int, tuple[Any, list[Outcome]]]
"""What `replayed` returned for each environment."""


class Episode(NamedTuple):
    """What a replay of one episode needs."""

    seed: int | None
    actions: np.ndarray | None  # [L, ...]; None if there are none
    changes: list[Change]  # before its reset, and after its steps


def replayed(env: gym.Env, *episodes: Episode) -> tuple[Any, list[Outcome]]:
    """Simulates episodes in turn; returns the last observation and the outcome of each episode."""
    observation, outcomes = None, []
    for seed, actions, changes in episodes:
        rest = list(changes)
        count = 0 if actions is None else len(actions)
        rewards, ends = np.zeros(count), np.zeros((count, 2), bool)
        rest = _applied(env, rest, -1)
        observation, _ = env.reset(seed=seed)
        rest = _applied(env, rest, 0)
        for t in range(count):
            row = env.step(actions[t].copy())  # type: ignore[index]
            observation, rewards[t], ends[t, 0], ends[t, 1], _ = row
            if rest:
                rest = _applied(env, rest, t + 1)
        apply(env, rest)
        outcomes.append((rewards, ends[:, 0].copy(), ends[:, 1].copy()))
    return observation, outcomes


def _applied(env: gym.Env, changes: list[Change], step: int) -> list[Change]:
    """Makes the changes up to a step; returns the remaining ones."""
    apply(env, [one for one in changes if one.step <= step])
    return [one for one in changes if one.step > step]


def digest(outcome: Sequence[np.ndarray]) -> str:
    """The hash of an episode's rewards and ends, bit for bit."""
    return hashlib.sha256(b"".join(array.tobytes() for array in outcome)).hexdigest()


def _part(rows: np.ndarray, outcomes: Sequence[np.ndarray], i: int, a: int, b: int) -> list[object]:
    """An environment's actions in the steps [a, b), None if there are none, and their digest."""
    actions = rows[a:b, i].copy() if b > a else None
    return [actions, digest(tuple(array[a:b, i] for array in outcomes))]


class Recording:
    """The actions [N, ...] of all steps that may be simulated again, and their outcomes.

    Attributes:
        unrecorded: Number of each environment's last episode that began unrecorded or with reset
            options, which are not recorded; -2 if there is none.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.clear()

    def clear(self) -> None:
        """Forgets all steps."""
        self.unrecorded = [-2] * self._count
        self._actions: list[np.ndarray | None] = []
        self._outcomes: list[tuple[np.ndarray, ...] | None] = []  # of the same steps
        self._observations: Seen | None = None
        self._full = min(_LEAST_ROWS, MAX_STEPS)

    def add_actions(self, actions: object, episodes: Episodes) -> None:
        """Records a copy of a step's actions; the clock already counts the step."""
        self._actions.append(actions.copy() if type(actions) is np.ndarray else None)
        self._outcomes.append(None)
        if len(self._actions) > self._full:
            self._drop(episodes)

    def add_result(self, observations: Seen, *outcome: np.ndarray) -> None:
        """Records the result of a step or of a reset.

        Args:
            observations: A batch, or a list of what each environment returned.
            outcome: Rewards, terminated and truncated of a step, `[N]` each; nothing for a reset.
        """
        is_batch = isinstance(observations, np.ndarray)
        self._observations = observations.copy() if is_batch else observations
        if self._outcomes and self._outcomes[-1] is None:
            self._outcomes[-1] = tuple(array.copy() for array in outcome)

    def _drop(self, episodes: Episodes) -> None:
        """Drops rows that no episode needs; called rarely, since the time grows with the rows."""
        last = self._actions[-1]
        most = MAX_BYTES // max(1, last.nbytes) if last is not None else 0
        needed = max(episodes.clock - _window(episodes, i) for i in range(self._count))
        rows = min(needed, MAX_STEPS, most)
        del self._actions[: len(self._actions) - rows]
        del self._outcomes[: len(self._outcomes) - rows]
        self._full = max(min(2 * rows, MAX_STEPS), _LEAST_ROWS)
        if rows in (MAX_STEPS, most):
            self._full = rows + rows // 10 + 1

    def saved(self, episodes: Episodes, ended: np.ndarray) -> State:
        """Returns what `Plan` takes; "restart" and why, if an episode cannot be replayed."""
        begun = [i for i in range(len(ended)) if episodes.seeds[i] is not None]
        try:
            longest = max((episodes.step_of(i) for i in begun if not ended[i]), default=0)
            rows = self._rows(longest)  # without these there is no replay
            if any(self.unrecorded[i] == episodes.numbers[i] for i in begun if not ended[i]):
                raise _NotRecorded("unrecorded")
            before = [i for i in begun if self._has_before(i, episodes)]
            known = [i for i in begun if self._has(episodes.step_of(i), i, episodes.numbers[i])]
            if any(
                episodes.before[i] and not episodes.step_of(i) and i not in before for i in known
            ):
                raise _NotRecorded("uncompared")
            needed = [episodes.clock - _window(episodes, i) for i in before]
            try:
                rows = self._rows(max([*needed, *map(episodes.step_of, known)], default=0))
            except _NotRecorded:  # too many together, or of different types
                before, known = [], [i for i in known if not ended[i]]
            observations = self._seen(known) if known else None
        except _NotRecorded as why:
            return {"exactness": "restart", "why": str(why)}
        recorded = self._outcomes[len(self._outcomes) - len(rows) :]
        outcomes = [np.array(each) for each in zip(*recorded, strict=True)]  # [T, N] each
        dtypes = float, bool, bool
        outcomes = outcomes or [np.zeros((0, len(ended)), dtype) for dtype in dtypes]
        now: list[list[object] | None] = [None] * len(ended)
        last: list[list[object] | None] = [None] * len(ended)
        for i in known:
            now[i] = _part(rows, outcomes, i, len(rows) - episodes.step_of(i), len(rows))
        for i in before:
            if i in known:
                begin = len(rows) - (episodes.clock - _window(episodes, i))
                last[i] = _part(rows, outcomes, i, begin, begin + episodes.step_before(i))
        return {
            "exactness": "replay",
            "actions": [None if one is None else one[0] for one in now],
            "outcomes": [None if one is None else one[1] for one in now],
            "before": last,
            "observations": observations,
        }

    def _has(self, steps: int, i: int, number: int) -> bool:
        """Whether an episode's steps are recorded, and it began from its seed alone."""
        return steps <= min(len(self._actions), MAX_STEPS) and self.unrecorded[i] != number

    def _has_before(self, i: int, episodes: Episodes) -> bool:
        steps = episodes.clock - _window(episodes, i)
        return episodes.before[i] is not None and self._has(steps, i, episodes.numbers[i] - 1)

    def _rows(self, longest: int) -> np.ndarray:
        """The last actions [longest, N, ...]."""
        rows = self._actions[len(self._actions) - longest :] if longest else []
        if longest > MAX_STEPS or sum(row.nbytes for row in rows if row is not None) > MAX_BYTES:
            raise _NotRecorded("long")
        if longest > len(self._actions):
            raise _NotRecorded("unrecorded")
        if any(row is None for row in rows):
            raise _NotRecorded("actions")
        if any(row is None for row in self._outcomes[len(self._outcomes) - len(rows) :]):
            raise _NotRecorded("unrecorded")
        kinds = {(row.dtype, row.shape) for row in rows if row is not None}
        if len(kinds) > 1 or not all(is_plain(dtype) for dtype, _ in kinds):
            raise _NotRecorded("actions")
        return np.array(rows)

    def _seen(self, known: Sequence[int]) -> Seen:
        seen = self._observations
        if isinstance(seen, np.ndarray):
            if not is_plain(seen.dtype):
                raise _NotRecorded("observations")
            return seen.copy()
        if seen is None:
            raise _NotRecorded("unrecorded")
        try:
            return [encoded(seen[i]) if i in known else None for i in range(self._count)]
        except StateError:
            raise _NotRecorded("observations") from None

    def refill(
        self,
        observations: Seen | None,
        parts: Parts,
        clock: int,
    ) -> None:
        """Records episodes that were simulated again.

        Args:
            observations: The last observations, as `add_result` takes them.
            parts: The episodes of each environment.
            clock: The present clock.
        """
        self.clear()
        if observations is not None:
            self.add_result(observations)
        played = [
            (i, begun, actions, outcome)
            for i, each in parts.items()
            for begun, actions, outcome in each
            if actions is not None
        ]
        if not played:
            return
        longest = max(clock - begun for _, begun, *_ in played)
        one = played[0][2]
        rows = np.zeros((longest, self._count, *one.shape[1:]), one.dtype)
        outcomes = [np.zeros((longest, self._count), dtype) for dtype in (float, bool, bool)]
        for i, begun, actions, outcome in played:
            at = longest - (clock - begun)
            rows[at : at + len(actions), i] = actions
            for column, values in zip(outcomes, outcome, strict=True):
                column[at : at + len(actions), i] = values
        self._actions = list(rows)
        self._outcomes = list(zip(*outcomes, strict=True))


class _NotRecorded(Exception):
    """A replay is not possible; the message is a key of `WHY`."""


def _window(episodes: Episodes, index: int) -> int:
    """The clock at the beginning of an environment's previous episode, or of its only one."""
    before = episodes.before[index]
    return episodes.begun(index) if before is None else before[1]


class Plan:
    """The episodes to simulate again, and the results to compare with.

    Attributes:
        longest: The largest number of steps of an environment.

    Raises:
        StateError: The saved dict is malformed, or contradicts the episodes.
    """

    def __init__(
        self,
        saved: State,
        episodes: Episodes,
        ended: np.ndarray,
        empty: Seen,
        changes: Changes,
    ) -> None:
        count = len(ended)
        self._seen: Seen | None = None
        self._episodes, self._changes = episodes, changes
        actions = entries(saved["actions"], "The actions", count)
        digests = entries(saved["outcomes"], "The outcomes", count)
        before = entries(saved["before"], "The episodes before", count)
        # The clock at an episode's beginning, its actions and the digest of its outcome.
        self._parts: dict[int, list[tuple[int, np.ndarray | None, str]]] = {}
        for i in range(count):
            has_begun = episodes.seeds[i] is not None
            if digests[i] is None:
                if (has_begun and not ended[i]) or actions[i] is not None or before[i] is not None:
                    raise refusal(f"Environment {i} must have an outcome", None)
                continue
            if not has_begun:
                raise refusal(f"Environment {i} must have begun an episode", None)
            part = _checked(actions[i], digests[i], episodes.step_of(i), i)
            self._parts[i] = [(episodes.begun(i), *part)]
            if before[i] is not None:
                earlier = episodes.before[i]
                if earlier is None:
                    raise refusal(f"Environment {i} must have a previous episode", None)
                last, last_digest = entries(before[i], "A previous episode", 2)
                part = _checked(last, last_digest, episodes.step_before(i), i)
                self._parts[i].insert(0, (earlier[1], *part))
        parts = [part for each in self._parts.values() for _, part, _ in each]
        arrays = [part for part in parts if part is not None]
        kinds = {(part.dtype, part.shape[1:]) for part in arrays}
        if len(kinds) > 1 or not all(is_plain(dtype) for dtype, _ in kinds):
            raise refusal("Actions must be arrays of numbers of one type", saved["actions"])
        clock = episodes.clock
        self.longest = max((clock - each[0][0] for each in self._parts.values()), default=0)
        sizes = [part.nbytes // len(part) for part in arrays]
        size = max(sizes, default=0) * count * self.longest
        # critical: `refill` allocates an array of this size even if the saved ones are small.
        if self.longest > MAX_STEPS or size > MAX_BYTES:
            raise refusal(f"Episodes must have at most {MAX_STEPS} actions", self.longest)
        seen = saved["observations"]
        if self._parts and isinstance(empty, np.ndarray):
            self._seen = array(seen, "The observations", empty.shape, empty.dtype)
        elif self._parts:
            self._seen = entries(seen, "The observations", count)

    def requests(self) -> dict[int, tuple[Episode, ...]]:
        """The arguments of `replayed` for each environment."""
        requests = {}
        for i, parts in self._parts.items():
            number, seed = self._episodes.numbers[i], self._episodes.seeds[i]
            earlier = self._episodes.before[i]
            seeds = [seed] if len(parts) == 1 or earlier is None else [earlier[0], seed]
            requests[i] = tuple(
                Episode(
                    seeds[k],
                    actions,
                    self._changes.in_episode(
                        i, number - len(parts) + 1 + k, begun, is_first=k == 0
                    ),
                )
                for k, (begun, actions, _) in enumerate(parts)
            )
        return requests

    def compared(self, replies: Replayed) -> tuple[Seen | None, str]:
        """Returns the last observations, for `Recording.add_result`, and the first difference.

        Args:
            replies: What `replayed` returned for each of `requests`.
        """
        now = copy(self._seen)
        for i, (observation, _) in replies.items():
            if not self._agrees(now, i, observation):
                return now, f"Environment {i} returned another observation"
        for i, (_, outcomes) in replies.items():
            saved = [part[2] for part in self._parts[i]]
            if [digest(one) for one in outcomes] != saved:
                return now, f"Environment {i} returned other rewards, or ended at another step,"
        return now, ""

    def parts(self, replies: Replayed) -> Parts:
        """Returns what `Recording.refill` takes."""
        return {
            i: [
                (begun, actions, outcome)
                for (begun, actions, _), outcome in zip(parts, replies[i][1], strict=True)
            ]
            for i, parts in self._parts.items()
        }

    def _agrees(self, now: Any, i: int, observation: object) -> bool:
        seen: Any = self._seen
        try:
            now[i] = observation
            if isinstance(now, np.ndarray):  # the assignment has converted it to the array's type
                return is_same(now[i : i + 1], seen[i : i + 1])
            return is_same(encoded(observation), seen[i])
        except Exception:  # the observation does not fit into the batch
            return False


def _checked(
    actions: object, outcome: object, length: int, i: int
) -> tuple[np.ndarray | None, str]:
    """Returns saved actions and the digest of their outcome if they fit an episode's length."""
    if type(outcome) is not str or len(outcome) != 64:
        raise refusal("An outcome must be a digest", outcome)
    if actions is None and length == 0:
        return None, outcome
    if type(actions) is not np.ndarray or actions.ndim == 0 or not len(actions) == length > 0:
        raise refusal(f"The actions of environment {i} must be those of {length} steps", actions)
    return actions, outcome


def reason(saved: State) -> str:
    """Returns why running episodes cannot continue.

    Raises:
        StateError: The saved dict gives no known reason.
    """
    why = saved["why"]
    if type(why) is not str or why not in WHY:
        raise refusal(f"The reason must be one of {', '.join(WHY)}", why)
    return WHY[why]
