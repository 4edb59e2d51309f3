"""Records attributes set by `set_attr`, so that a resumed run sets them again at the same steps.

The number of the episode and the clock say when a change was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..common.storable import StateError, decoded, encoded, entries, refusal, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    import gymnasium as gym

    from ..common.episodes import Episodes

MAX_CHANGES = 10_000  # per environment, in its last two episodes
_EARLIER = -2  # stands for all episodes before the run was seeded


_Entry: TypeAlias = list[Any]
"""A change as it is saved: [episode's number, clock, name, encoded value]."""


class Change(NamedTuple):
    """An attribute that was set after some steps of an episode; step -1: before its reset."""

    step: int
    name: str
    value: object


def apply(env: gym.Env, changes: Iterable[Change]) -> None:
    """Sets attributes of an environment or its wrappers."""
    for change in changes:
        env.set_wrapper_attr(change.name, change.value)


class Changes:
    """The changes of N environments.

    Attributes:
        are_lost: Whether some changes cannot be written to a file.
    """

    def __init__(self, count: int) -> None:
        self._changes: list[list[_Entry]] = [[] for _ in range(count)]
        self.are_lost = False

    def add(self, episodes: Episodes, name: str, values: Iterable[object]) -> None:
        """Records an attribute that was set everywhere, with one value for each environment."""
        for i, value in enumerate(values):
            number = episodes.numbers[i]
            try:
                change = [number, episodes.clock, _checked(name), encoded(value)]
            except StateError:
                self.are_lost = True
                return
            # Of changes before the last two episodes only the latest of each attribute matters.
            all_changes = self._changes[i]
            before = [one for one in all_changes if one[0] < number - 1]
            latest = {one[2]: one for one in before}
            still_valid = [one for one in before if latest[one[2]] is one]
            self._changes[i] = [*still_valid, *all_changes[len(before) :], change]
            self.are_lost |= len(self._changes[i]) > MAX_CHANGES

    def start_over(self) -> None:
        """Dates all changes before the episodes that begin now, whose numbers start over."""
        for changes in self._changes:
            for change in changes:
                change[0] = _EARLIER

    def in_episode(self, index: int, number: int, begun: int, *, is_first: bool) -> list[Change]:
        """The changes of an episode and, if it is the first one simulated, all before it.

        Args:
            index: Index of the environment.
            number: Number of the episode.
            begun: The clock at its beginning.
            is_first: Whether no episode before it is simulated.
        """
        return [
            Change(-1 if n < number else at - begun, name, decoded(value))
            for n, at, name, value in self._changes[index]
            if n == number or (is_first and n < number)
        ]

    def all_of(self, index: int) -> list[Change]:
        """All changes of an environment."""
        return [Change(-1, name, decoded(value)) for _, _, name, value in self._changes[index]]

    def get_state(self) -> list[list[_Entry]]:
        """Returns all changes in arrays and JSON values."""
        return [[list(change) for change in changes] for changes in self._changes]

    @classmethod
    def from_state(cls, state: object, count: int) -> Changes:
        """Restores what `get_state` returned for `count` environments.

        Raises:
            StateError: The changes are malformed.
        """
        changes = cls(count)
        for i, saved in enumerate(entries(state, "The changes", count)):
            if not (type(saved) is list or type(saved) is tuple) or len(saved) > MAX_CHANGES:
                raise refusal(f"Changes must be a list of at most {MAX_CHANGES}", saved)
            for one in saved:
                number, at, name, value = entries(one, "A change", 4)
                whole(number, "An episode's number", _EARLIER), whole(at, "The clock at a change")
                decoded(value)
                changes._changes[i].append([number, at, _checked(name), value])
        return changes


def _checked(name: object) -> str:
    """Returns the name of an attribute if it is public."""
    if type(name) is not str or not name.isidentifier() or name.startswith("_"):
        raise refusal("The name of an attribute must be public", name)
    return name
