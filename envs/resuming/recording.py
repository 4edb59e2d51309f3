"""The actions of the last episodes, so that who cannot tell its state is simulated again.

Of each environment they are those of its episode, and of the one before: an instance that was used
may differ from a new one, and what it carries from one episode into the next shows there. Compared
are the rewards and ends of all these steps, and what was seen last.

Legend: N environments, T steps, of which the last L are those of an environment's episode.
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

MAX_STEPS = 100_000  # an episode that is longer is not recorded
MAX_BYTES = 2**28  # nor one whose actions, with those beside it, need more
_LEAST_ROWS = 1024  # before it is worth looking for what may be dropped

WHY = {  # running episodes cannot be simulated again
    "broken": "An environment had broken, or a step was interrupted, before the state was saved.",
    "long": f"An episode was too long to be recorded (more than {MAX_STEPS:,} steps or "
    f"{MAX_BYTES >> 20} MiB of actions).",
    "unrecorded": "The beginning of an episode, or its reset options, were not recorded.",
    "actions": "Actions that are not one array of numbers, always of one type, are not recorded.",
    "uncompared": "An episode had just begun, and the one before was too long to be recorded.",
    "changes": "What set_attr gave the environments cannot be saved.",
    "observations": "Observations that are not arrays and text cannot be compared.",
}

Outcome: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # rewards, terminated, truncated
Seen: TypeAlias = np.ndarray | list[Any]
"""Observations as a batch, or what each environment returned."""
Parts: TypeAlias = Mapping[int, Sequence[tuple[int, np.ndarray | None, Outcome]]]
"""Each environment's episodes: the clock at the beginning, the actions, and what came of them."""
Replayed: TypeAlias = Mapping[int, tuple[Any, list[Outcome]]]
"""What `replayed` returned for each environment."""


class Episode(NamedTuple):
    """What is simulated again of one episode."""

    seed: int | None
    actions: np.ndarray | None  # [L, ...]; None for none
    changes: list[Change]  # before its reset, and after its steps


def replayed(env: gym.Env, *episodes: Episode) -> tuple[Any, list[Outcome]]:
    """The last observation of episodes that are simulated in turn, and what came of each."""
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
    """Makes the changes up to a step; those that are left."""
    apply(env, [one for one in changes if one.step <= step])
    return [one for one in changes if one.step > step]


def digest(outcome: Sequence[np.ndarray]) -> str:
    """Of an episode's rewards and ends, the last bits included."""
    return hashlib.sha256(b"".join(array.tobytes() for array in outcome)).hexdigest()


def _part(rows: np.ndarray, outcomes: Sequence[np.ndarray], i: int, a: int, b: int) -> list[object]:
    """Actions of an environment's steps [a, b), None for none, and the digest of their outcome."""
    actions = rows[a:b, i].copy() if b > a else None
    return [actions, digest(tuple(array[a:b, i] for array in outcomes))]


class Recording:
    """The actions [N, ...] of as many steps as may be simulated again, and what came of them.

    Attributes:
        unrecorded: The number of each environment's last episode that began unrecorded, or with
            reset options, which are not recorded; -2 for none.
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

    def add(self, actions: object, episodes: Episodes) -> None:
        """Records a step, whose actions may be overwritten afterwards; the clock is at it."""
        self._actions.append(actions.copy() if type(actions) is np.ndarray else None)
        self._outcomes.append(None)
        if len(self._actions) > self._full:
            self._drop(episodes)

    def see(self, observations: Seen, *outcome: np.ndarray) -> None:
        """Keeps what came last: observations as a batch, or what each environment returned.

        Args:
            observations: As a batch, or what each environment returned.
            outcome: Rewards, terminated and truncated, `[N]` each; of a reset they are left out.
        """
        is_batch = isinstance(observations, np.ndarray)
        self._observations = observations.copy() if is_batch else observations
        if self._outcomes and self._outcomes[-1] is None:
            self._outcomes[-1] = tuple(array.copy() for array in outcome)

    def _drop(self, episodes: Episodes) -> None:
        """Forgets what no episode needs: seldom, for it takes as long as there are rows."""
        last = self._actions[-1]
        most = MAX_BYTES // max(1, last.nbytes) if last is not None else 0
        needed = max(episodes.clock - _window(episodes, i) for i in range(self._count))
        kept = min(needed, MAX_STEPS, most)
        del self._actions[: len(self._actions) - kept]
        del self._outcomes[: len(self._outcomes) - kept]
        self._full = max(min(2 * kept, MAX_STEPS), _LEAST_ROWS)
        if kept in (MAX_STEPS, most):
            self._full = kept + kept // 10 + 1

    def saved(self, episodes: Episodes, ended: np.ndarray) -> State:
        """What `Plan` takes; "restart", and why, if an episode cannot be simulated again."""
        begun = [i for i in range(len(ended)) if episodes.seeds[i] is not None]
        try:
            longest = max((episodes.step_of(i) for i in begun if not ended[i]), default=0)
            rows = self._rows(longest)  # that these are there is a must
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
            except _NotRecorded:  # they are too many together, or were of another kind
                before, known = [], [i for i in known if not ended[i]]
            observations = self._seen(known) if known else None
        except _NotRecorded as why:
            return {"exactness": "restart", "why": str(why)}
        kept = self._outcomes[len(self._outcomes) - len(rows) :]
        outcomes = [np.array(each) for each in zip(*kept, strict=True)]  # [T, N] each
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
        """Whether the last steps, those of an episode that began from its seed alone, are there."""
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
            observations: What was seen last, as `see` takes it.
            parts: Of each environment its episodes: the clock at their beginnings, their actions,
                and rewards, terminated and truncated.
            clock: Now.
        """
        self.clear()
        if observations is not None:
            self.see(observations)
        played = [
            (i, begun, own, came)
            for i, each in parts.items()
            for begun, own, came in each
            if own is not None
        ]
        if not played:
            return
        longest = max(clock - begun for _, begun, *_ in played)
        one = played[0][2]
        rows = np.zeros((longest, self._count, *one.shape[1:]), one.dtype)
        outcomes = [np.zeros((longest, self._count), dtype) for dtype in (float, bool, bool)]
        for i, begun, own, came in played:
            at = longest - (clock - begun)
            rows[at : at + len(own), i] = own
            for column, values in zip(outcomes, came, strict=True):
                column[at : at + len(own), i] = values
        self._actions = list(rows)
        self._outcomes = list(zip(*outcomes, strict=True))


class _NotRecorded(Exception):
    """Why, as in `WHY`."""


def _window(episodes: Episodes, index: int) -> int:
    """The clock at the beginning of an environment's last episode but one, or of its only one."""
    before = episodes.before[index]
    return episodes.begun(index) if before is None else before[1]


class Plan:
    """What has to be simulated again, and seen at last.

    Attributes:
        longest: The most steps of an environment.

    Raises:
        StateError: The saved dict is malformed, or does not fit the books.
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
                    raise refusal(f"Environment {i} must have had an episode before", None)
                last, its_digest = entries(before[i], "An episode before", 2)
                part = _checked(last, its_digest, episodes.step_before(i), i)
                self._parts[i].insert(0, (earlier[1], *part))
        arrays = [(own, i) for i, each in self._parts.items() for _, own, _ in each]
        kinds = {(own.dtype, own.shape[1:]) for own, _ in arrays if own is not None}
        if len(kinds) > 1 or not all(is_plain(dtype) for dtype, _ in kinds):
            raise refusal("Actions must be arrays of numbers of one type", saved["actions"])
        clock = episodes.clock
        self.longest = max((clock - each[0][0] for each in self._parts.values()), default=0)
        sizes = [own.nbytes // len(own) for own, _ in arrays if own is not None]
        size = max(sizes, default=0) * count * self.longest
        # critical: `refill` makes as large an array from what may be a few small ones.
        if self.longest > MAX_STEPS or size > MAX_BYTES:
            raise refusal(f"Episodes must have at most {MAX_STEPS} actions", self.longest)
        seen = saved["observations"]
        if self._parts and isinstance(empty, np.ndarray):
            self._seen = array(seen, "The observations", empty.shape, empty.dtype)
        elif self._parts:
            self._seen = entries(seen, "The observations", count)

    def requests(self) -> dict[int, tuple[Episode, ...]]:
        """The arguments of `replayed` for each environment that needs it."""
        requests = {}
        for i, parts in self._parts.items():
            number, seed = self._episodes.numbers[i], self._episodes.seeds[i]
            earlier = self._episodes.before[i]
            seeds = [seed] if len(parts) == 1 or earlier is None else [earlier[0], seed]
            requests[i] = tuple(
                Episode(
                    seeds[k],
                    own,
                    self._changes.of(i, number - len(parts) + 1 + k, begun, is_first=k == 0),
                )
                for k, (begun, own, _) in enumerate(parts)
            )
        return requests

    def compared(self, replies: Replayed) -> tuple[Seen | None, str]:
        """The last observations, as `Recording.see` takes them, and what is not as it was.

        Args:
            replies: What `replayed` returned for each of `requests`.
        """
        now = copy(self._seen)
        for i, (observation, _) in replies.items():
            if not self._agrees(now, i, observation):
                return now, f"Environment {i} came to another observation"
        for i, (_, outcomes) in replies.items():
            saved = [part[2] for part in self._parts[i]]
            if [digest(one) for one in outcomes] != saved:
                return now, f"Environment {i} gave other rewards, or ended elsewhere,"
        return now, ""

    def parts(self, replies: Replayed) -> Parts:
        """What `Recording.refill` takes."""
        return {
            i: [
                (begun, own, came)
                for (begun, own, _), came in zip(parts, replies[i][1], strict=True)
            ]
            for i, parts in self._parts.items()
        }

    def _agrees(self, now: Any, i: int, observation: object) -> bool:
        seen: Any = self._seen
        try:
            now[i] = observation
            if isinstance(now, np.ndarray):  # which has made it its own type
                return is_same(now[i : i + 1], seen[i : i + 1])
            return is_same(encoded(observation), seen[i])
        except Exception:  # it does not fit
            return False


def _checked(
    actions: object, its_digest: object, length: int, i: int
) -> tuple[np.ndarray | None, str]:
    if type(its_digest) is not str or len(its_digest) != 64:
        raise refusal("An outcome must be a digest", its_digest)
    if actions is None and length == 0:
        return None, its_digest
    if type(actions) is not np.ndarray or actions.ndim == 0 or not len(actions) == length > 0:
        raise refusal(f"The actions of environment {i} must be those of {length} steps", actions)
    return actions, its_digest


def reason(saved: State) -> str:
    """Why episodes begin anew.

    Raises:
        StateError: The saved dict does not say.
    """
    why = saved["why"]
    if type(why) is not str or why not in WHY:
        raise refusal(f"The reason must be one of {', '.join(WHY)}", why)
    return WHY[why]
