"""What `set_attr` has set in environments, so that resumed ones have it again at its place.

A change belongs to an episode, by its number, and to a place in it, by the clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..common.storable import StateError, decoded, encoded, entries, refusal, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    import gymnasium as gym

    from ..common.episodes import Episodes

MAX_CHANGES = 10_000  # of an environment, in its last two episodes
_EARLIER = -2  # the number of all episodes before the run was seeded


_Entry: TypeAlias = list[Any]
"""A change as it is saved: [episode's number, clock, name, encoded value]."""


class Change(NamedTuple):
    """An attribute that was set after so many steps of an episode; -1: before its reset."""

    step: int
    name: str
    value: object


def apply(env: gym.Env, changes: Iterable[Change]) -> None:
    """Sets attributes of an environment or its wrappers."""
    for change in changes:
        env.set_wrapper_attr(change.name, change.value)


class Changes:
    """Those of N environments.

    Attributes:
        are_lost: Whether some cannot be written to a file.
    """

    def __init__(self, count: int) -> None:
        self._made: list[list[_Entry]] = [[] for _ in range(count)]
        self.are_lost = False

    def add(self, episodes: Episodes, name: str, values: Iterable[object]) -> None:
        """Notes an attribute that was set everywhere, to one value for each environment."""
        for i, value in enumerate(values):
            number = episodes.numbers[i]
            try:
                made = [number, episodes.clock, _checked(name), encoded(value)]
            except StateError:
                self.are_lost = True
                return
            # What was set before the last two episodes counts no more once it is set again.
            old = self._made[i]
            before = [one for one in old if one[0] < number - 1]
            superseded = {one[2]: one for one in before}
            kept = [one for one in before if superseded[one[2]] is one]
            self._made[i] = [*kept, *old[len(before) :], made]
            self.are_lost |= len(self._made[i]) > MAX_CHANGES

    def begin_anew(self) -> None:
        """All was set before the episodes that begin now, whose numbers start over."""
        for made in self._made:
            for one in made:
                one[0] = _EARLIER

    def of(self, index: int, number: int, begun: int, *, is_first: bool) -> list[Change]:
        """The changes of an episode that began at a clock; with all before it if it is the first.

        Args:
            index: Of the environment.
            number: Of the episode.
            begun: The clock at its beginning.
            is_first: Whether no episode before it is simulated.
        """
        made = [
            Change(-1 if n < number else at - begun, name, decoded(value))
            for n, at, name, value in self._made[index]
            if n == number or (is_first and n < number)
        ]
        return made

    def all_of(self, index: int) -> list[Change]:
        """All changes of an environment."""
        return [Change(-1, name, decoded(value)) for _, _, name, value in self._made[index]]

    def get_state(self) -> list[list[_Entry]]:
        """All of them, in arrays and JSON values."""
        return [[list(one) for one in made] for made in self._made]

    @classmethod
    def from_state(cls, state: object, count: int) -> Changes:
        """Those of `count` environments that `get_state` returned.

        Raises:
            StateError: They are malformed.
        """
        changes = cls(count)
        for i, made in enumerate(entries(state, "The changes", count)):
            if not (type(made) is list or type(made) is tuple) or len(made) > MAX_CHANGES:
                raise refusal(f"Changes must be a list of at most {MAX_CHANGES}", made)
            for one in made:
                number, at, name, value = entries(one, "A change", 4)
                whole(number, "An episode's number", _EARLIER), whole(at, "The clock at a change")
                decoded(value)
                changes._made[i].append([number, at, _checked(name), value])
        return changes


def _checked(name: object) -> str:
    """The name of an attribute that is no internal of an object."""
    if type(name) is not str or not name.isidentifier() or name.startswith("_"):
        raise refusal("The name of an attribute must be a public one", name)
    return name
