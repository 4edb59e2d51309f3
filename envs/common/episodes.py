"""The number and the seed of every environment's episode.

The seed of episode e of environment i in run r is a pure function of the three; the other
environments do not change it:

    seed(r, i, e) = next(next(r, i), e) / 2³³           a whole number below 2³¹
    next(k, n) = finalise(k + (n + 1)·γ mod 2⁶⁴)        output n of SplitMix64 started at k

Source: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators", with the
finaliser of Stafford's variant 13. Python's integers are fast enough: seeds are drawn one by one.
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
    """Seed of an episode, below 2³¹: a pure function of the run, the environment and the number."""
    return _next(_next(int(run_seed), int(index)), int(episode)) >> 33


class Episodes:
    """Counts the episodes of several environments and assigns their seeds.

    Attributes:
        run_seed: The seed from which episode seeds are computed; random until `sow` sets it.
        numbers: Number of each environment's episode; -1 before the first.
        seeds: Seed of each environment's episode; None before the first.
        clock: Steps of the vector environment so far; its owner counts them.
        before: Seed of each environment's previous episode and the clock at its beginning; None
            if there was none, or if another instance of the environment played it.
    """

    def __init__(self, count: int) -> None:
        self.run_seed, self.clock = secrets.randbits(63), 0
        self.numbers = [-1] * count
        self.seeds: list[int | None] = [None] * count
        self._next_seeds: dict[int, int] = {}  # from a list, for the episodes that begin next
        self._begun = [0] * count  # the clock at the beginning of each episode
        self.before: list[tuple[int, int] | None] = [None] * count

    def sow(self, seed: Seeds) -> None:
        """Starts over before episode 0 of a run seed; None continues.

        A list has the seed of each environment's next episode; None in it stands for the usual
        seed of that episode. A list without None also determines the run seed.

        Raises:
            ValueError: A seed is not a whole number below 2**64, or the list has the wrong length.
        """
        self._next_seeds = {}
        if seed is None:
            return
        if isinstance(seed, (list, tuple, np.ndarray)):
            if len(seed) != len(self.numbers):
                raise ValueError(
                    f"A list of seeds must have one for each of {len(self.numbers)} environments. "
                    f"Received: {len(seed)}. Pass one number to seed them all."
                )
            self._next_seeds = {i: _checked(one) for i, one in enumerate(seed) if one is not None}
            if len(self._next_seeds) < len(seed):
                return
            seed = 0
            for one in self._next_seeds.values():
                seed = _next(seed, one)
        self.run_seed = _checked(seed)
        self.numbers = [-1] * len(self.numbers)

    def begin(self, index: int) -> int:
        """Begins an environment's next episode and returns its seed."""
        last = self.seeds[index]
        self.before[index] = None if last is None else (last, self._begun[index])
        self.numbers[index] += 1
        seed = self._next_seeds.pop(index, None)
        if seed is None:
            seed = episode_seed(self.run_seed, index, self.numbers[index])
        self.seeds[index], self._begun[index] = seed, self.clock
        return seed

    @property
    def position(self) -> tuple[object, ...]:
        """Changes with every step and with every reset of any environment."""
        return self.clock, tuple(self.numbers), tuple(self.seeds), tuple(self._begun)

    def step_of(self, index: int) -> int:
        """Steps of an environment's episode, including one in progress."""
        return self.clock - self._begun[index]

    def step_before(self, index: int) -> int:
        """Steps that certainly belong to an environment's previous episode.

        Its successor began either in a step, which does not count, or by a reset. The two look the
        same here, so one step is always left out.
        """
        before = self.before[index]
        return 0 if before is None else max(0, self._begun[index] - before[1] - 1)

    def begun(self, index: int) -> int:
        """The clock at the beginning of an environment's episode."""
        return self._begun[index]

    def seed_of(self, index: int, back: int = 0) -> int | None:
        """Seed of an environment's episode, or of the one `back` before it; None if none was."""
        number = self.numbers[index] - back
        if back == 0 or number < 0:
            return None if number < 0 else self.seeds[index]
        return episode_seed(self.run_seed, index, number)

    def get_state(self) -> State:
        """Returns the complete state in JSON values."""
        return {
            "run_seed": self.run_seed,
            "clock": self.clock,
            "numbers": list(self.numbers),
            "seeds": list(self.seeds),
            "given": [self._next_seeds.get(i) for i in range(len(self.numbers))],
            "begun": list(self._begun),
            "before": [None if one is None else list(one) for one in self.before],
        }

    @classmethod
    def from_state(cls, state: object, count: int) -> Episodes:
        """Restores what `get_state` returned for `count` environments.

        Raises:
            StateError: The state is malformed.
        """
        episodes = cls(count)
        saved = fields(state, "The state of the episodes", *episodes.get_state())
        episodes.run_seed = whole(saved["run_seed"], "A run seed", 0, 2**64)
        episodes.clock = whole(saved["clock"], "The clock")
        numbers = entries(saved["numbers"], "The numbers of the episodes", count)
        episodes.numbers = [whole(one, "The number of an episode", -1) for one in numbers]
        begun = entries(saved["begun"], "The clocks at the beginnings", count)
        episodes._begun = [
            whole(one, "The clock at a beginning", 0, episodes.clock + 1) for one in begun
        ]
        episodes.seeds, given = (
            [None if one is None else whole(one, "A seed", 0, 2**64) for one in ones]
            for ones in (entries(saved[name], "The seeds", count) for name in ("seeds", "given"))
        )
        for i, one in enumerate(entries(saved["before"], "The previous episodes", count)):
            if one is not None:
                last, begun_at = entries(one, "A previous episode", 2)
                high = episodes._begun[i] + 1
                episodes.before[i] = (
                    whole(last, "A seed", 0, 2**64),
                    whole(begun_at, "The clock at a beginning", 0, high),
                )
        episodes._next_seeds = {i: one for i, one in enumerate(given) if one is not None}
        return episodes


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
