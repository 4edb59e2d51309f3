"""Which episode every environment is in, and the seed it began from.

Episode e of environment i in run r begins from a pure function of the three, whatever the other
environments do:

    seed(r, i, e) = next(next(r, i), e) / 2³³           a whole number below 2³¹
    next(k, n) = finalise(k + (n + 1)·γ mod 2⁶⁴)        output n of SplitMix64 started at k

Source: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators", with the
finaliser of Stafford's variant 13; in Python's integers, since it is asked for one seed at a time.
"""

from __future__ import annotations

import operator
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, SupportsIndex, TypeAlias

import numpy as np

from .storable import entries, fields, whole

if TYPE_CHECKING:
    from .types import State

Seeds: TypeAlias = int | Sequence[int | None] | None

_MASK = 2**64 - 1
GAMMA, MIX, SHIFTS = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB), (30, 27, 31)


def _next(key: int, n: int) -> int:
    z = key + (n + 1) * GAMMA & _MASK
    for shift, factor in zip(SHIFTS, MIX, strict=False):
        z = (z ^ (z >> shift)) * factor & _MASK
    return z ^ (z >> SHIFTS[-1])


def episode_seed(run_seed: int, index: int, episode: int) -> int:
    """The seed, below 2³¹, of an episode: a pure function of run, environment and number."""
    return _next(_next(int(run_seed), int(index)), int(episode)) >> 33


class Episodes:
    """The books of the episodes of several environments.

    Attributes:
        run_seed: What the seeds are drawn from; a random one until `sow` is given one.
        numbers: Of each environment's episode; -1 before the first.
        seeds: What it began from; None before the first.
        clock: Steps of all environments together so far; who owns the books counts them.
        before: Of each environment's episode before this one: its seed, and the clock at its
            beginning; None where there was none, or in another instance.
    """

    def __init__(self, count: int) -> None:
        self.run_seed, self.clock = secrets.randbits(63), 0
        self.numbers = [-1] * count
        self.seeds: list[int | None] = [None] * count
        self._given: dict[int, int] = {}  # seeds of the episodes that begin next
        self._begun = [0] * count  # at which clock
        self.before: list[tuple[int, int] | None] = [None] * count

    def sow(self, seed: Seeds) -> None:
        """Goes back before episode 0 of a run seed; None goes on.

        A list has one seed for each environment's next episode, or None for its own. From a list
        without None the run seed is drawn.

        Raises:
            ValueError: A seed is no whole number below 2**64, or the list has another length.
        """
        self._given = {}
        if seed is None:
            return
        if isinstance(seed, (list, tuple, np.ndarray)):
            if len(seed) != len(self.numbers):
                raise ValueError(
                    f"A list of seeds must have one for each of {len(self.numbers)} environments. "
                    f"Received: {len(seed)}. Pass one number to seed them all."
                )
            self._given = {i: _checked(one) for i, one in enumerate(seed) if one is not None}
            if len(self._given) < len(seed):
                return
            seed = 0
            for one in self._given.values():
                seed = _next(seed, one)
        self.run_seed = _checked(seed)
        self.numbers = [-1] * len(self.numbers)

    def begin(self, index: int) -> int:
        """Moves an environment on to its next episode, and returns that one's seed."""
        last = self.seeds[index]
        self.before[index] = None if last is None else (last, self._begun[index])
        self.numbers[index] += 1
        seed = self._given.pop(index, None)
        if seed is None:
            seed = episode_seed(self.run_seed, index, self.numbers[index])
        self.seeds[index], self._begun[index] = seed, self.clock
        return seed

    @property
    def position(self) -> tuple[object, ...]:
        """Another value after every step and after every reset of any environment."""
        return self.clock, tuple(self.numbers), tuple(self.seeds), tuple(self._begun)

    def step_of(self, index: int) -> int:
        """How many steps an environment's episode has had, a running one included."""
        return self.clock - self._begun[index]

    def step_before(self, index: int) -> int:
        """How many steps the episode before had that are sure to have been its own.

        Its successor began in a step of its own, which is not counted, or by a reset, in which case
        the last one is left out.
        """
        before = self.before[index]
        return 0 if before is None else max(0, self._begun[index] - before[1] - 1)

    def begun(self, index: int) -> int:
        """The clock at the beginning of an environment's episode."""
        return self._begun[index]

    def seed_of(self, index: int, back: int = 0) -> int | None:
        """The seed of an environment's episode, or of the one so many before; None if none was."""
        number = self.numbers[index] - back
        if back == 0 or number < 0:
            return None if number < 0 else self.seeds[index]
        return episode_seed(self.run_seed, index, number)

    def get_state(self) -> State:
        """All of the books, in JSON values."""
        return {
            "run_seed": self.run_seed,
            "clock": self.clock,
            "numbers": list(self.numbers),
            "seeds": list(self.seeds),
            "given": [self._given.get(i) for i in range(len(self.numbers))],
            "begun": list(self._begun),
            "before": [None if one is None else list(one) for one in self.before],
        }

    @classmethod
    def from_state(cls, state: object, count: int) -> Episodes:
        """The books of `count` environments that `get_state` returned.

        Raises:
            StateError: They are malformed.
        """
        books = cls(count)
        saved = fields(state, "The books of the episodes", *books.get_state())
        books.run_seed = whole(saved["run_seed"], "A run seed", 0, 2**64)
        books.clock = whole(saved["clock"], "The clock")
        numbers = entries(saved["numbers"], "The numbers of the episodes", count)
        books.numbers = [whole(one, "The number of an episode", -1) for one in numbers]
        begun = entries(saved["begun"], "The beginnings", count)
        books._begun = [whole(one, "The clock at a beginning", 0, books.clock + 1) for one in begun]
        books.seeds, given = (
            [None if one is None else whole(one, "A seed", 0, 2**64) for one in ones]
            for ones in (entries(saved[name], "The seeds", count) for name in ("seeds", "given"))
        )
        for i, one in enumerate(entries(saved["before"], "The episodes before", count)):
            if one is not None:
                last, begun_at = entries(one, "An episode before", 2)
                high = books._begun[i] + 1
                books.before[i] = (
                    whole(last, "A seed", 0, 2**64),
                    whole(begun_at, "The clock at a beginning", 0, high),
                )
        books._given = {i: one for i, one in enumerate(given) if one is not None}
        return books


def _checked(seed: object) -> int:
    try:
        number = operator.index(seed) if isinstance(seed, SupportsIndex) else -1
    except TypeError:  # an array of several numbers
        number = -1
    if not 0 <= number < 2**64:
        raise ValueError(
            f"A seed must be a whole number from 0 to 2**64 - 1. Received: {seed!r}. Pass one "
            "number, or a list with one for every environment."
        )
    return number
