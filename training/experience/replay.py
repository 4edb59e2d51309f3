"""The experience buffer of off-policy agents: a ring of transitions, sampled at random.

Row t is step t of N environments, at position t % R. An observation is stored once: what follows
row t is the observation of row t + 1. Where that is the next episode's already, the final one is
stored apart. The newest row waits for the next; those before it are a log, which is only appended
to.

Legend: R rows, N environments, M transitions of a batch, F final observations there is room for.
"""

from __future__ import annotations

import math
import operator
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..storage.shards import Kept, Log
from ..storage.tensors import Arrays, memory

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from .protocols import State, Transition

_ROWS = ("observations", "actions", "rewards", "terminated", "ended", "real")
_NUMBERS = 2**30  # final observations are numbered modulo this; F is a power of two


class Batch(NamedTuple):
    """Transitions drawn from a buffer."""

    observations: np.ndarray  # [M, ...]
    actions: np.ndarray  # [M, ...]
    rewards: np.ndarray  # [M] float32
    next_observations: np.ndarray  # [M, ...]: the final ones where an episode ended
    terminated: np.ndarray  # [M] bool, of the last step of each return
    discounts: np.ndarray  # [M] float32: γᵐ·(1 − terminated) after m rewards
    drawn: np.ndarray  # [M]: their slots, in [R, N] made flat
    following: np.ndarray  # [M]: the slot of what follows; -1 where that is a final observation


class Replay:
    """The newest transitions of N environments: filled by `act` and `observe` in turn.

    Args:
        capacity: Transitions that it holds, rounded down to whole steps of all environments.
        num_envs: N.
        observation_shape: Of one encoded observation.
        action_shape: Of one raw action.
        action_dtype: Of its numbers.
        observation_dtype: Of an observation's numbers.

    Attributes:
        acted: Calls of `act` so far.
        observed: Calls of `observe` so far; as many, or one less.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_shape: tuple[int, ...],
        action_shape: tuple[int, ...],
        action_dtype: DTypeLike = np.float32,
        observation_dtype: DTypeLike = np.float32,
    ) -> None:
        """Allocates all of it, but for the final observations of `SAME_STEP` and `DISABLED`.

        Raises:
            ValueError: The machine has less memory, or `capacity` is less than two rows.
        """
        rows = capacity // num_envs
        if rows < 2:
            raise ValueError(
                "A replay buffer must hold two steps of every environment. Received: "
                f"capacity={capacity} for {num_envs} environments. Pass a larger capacity."
            )
        self._slots = rows * num_envs
        observation_bytes = math.prod(observation_shape) * np.dtype(observation_dtype).itemsize
        action_bytes = math.prod(action_shape) * np.dtype(action_dtype).itemsize
        self._bytes = self._slots * (observation_bytes + action_bytes + 4 + 3 + 4)
        self._check_memory(self._bytes)
        shape = (rows, num_envs)
        self.observations = np.zeros((*shape, *observation_shape), observation_dtype)  # [R, N, ...]
        self.actions = np.zeros((*shape, *action_shape), action_dtype)  # [R, N, ...]
        self.rewards = np.zeros(shape, np.float32)  # [R, N]
        self.terminated = np.zeros(shape, bool)  # [R, N]
        self.ended = np.zeros(shape, bool)  # [R, N]
        self.real = np.zeros(shape, bool)  # [R, N]: weight > 0; False marks a dummy step
        self.final_at = np.full(shape, -1, np.int32)  # [R, N]: number of the final one; -1: none
        self.finals = np.zeros((1, *observation_shape), observation_dtype)  # [F, ...]: a ring too
        self.acted = self.observed = 0
        self._count = 0  # of transitions that may be sampled
        self._head = self._tail = 0  # numbers of the next final observation and of the oldest
        self._kept = Kept()

    def __len__(self) -> int:
        """Transitions that may be sampled: real ones whose successor is stored."""
        return self._count

    @property
    def start(self) -> int:
        """The oldest row."""
        return max(0, self.acted - len(self.rewards))

    @property
    def stop(self) -> int:
        """One past the newest row that another one follows."""
        return max(0, self.acted - 1)

    def act(self, observations: np.ndarray, actions: np.ndarray) -> None:
        """Stores what was seen and done, `[N, ...]` each, over the oldest row if it is full.

        Raises:
            ValueError: The transition of the last actions was not stored.
        """
        if self.acted != self.observed:
            raise ValueError(
                "act and observe must be called in turn. Received: act twice. Pass the transition "
                "to observe first, or call cut if the environments were reset."
            )
        rows, t = len(self.rewards), self.acted
        at = t % rows
        if t >= rows:
            self._count -= int(self.real[at].sum())
            self._tail += int((self.final_at[at] >= 0).sum())
        if t:
            self._count += int(self.real[at - 1].sum())
        self.observations[at], self.actions[at], self.rewards[at] = observations, actions, 0.0
        self.terminated[at] = self.ended[at] = self.real[at] = False
        self.final_at[at] = -1
        self.acted = t + 1

    def observe(self, transition: Transition) -> None:
        """Stores the transition of the last actions.

        Raises:
            ValueError: There were no actions, or final observations outgrow the memory.
        """
        if self.acted == self.observed:
            raise ValueError(
                "act and observe must be called in turn. Received: observe without act. Pass "
                "observations and actions to act first."
            )
        at = self.observed % len(self.rewards)
        real = np.greater(transition.weights, 0)
        if transition.final_observations is not None:
            envs = np.flatnonzero(transition.ended & real)
            if envs.size:
                self.final_at[at, envs] = self._keep(transition.final_observations[envs])
        self.rewards[at], self.real[at] = transition.rewards, real
        self.terminated[at], self.ended[at] = transition.terminated, transition.ended
        self.observed += 1

    def cut(self) -> None:
        """Environments were reset: what is seen next follows nothing that is stored."""
        if self.acted and self.acted == self.observed:
            at = self.stop % len(self.rewards)
            self.real[at] &= self.final_at[at] >= 0
        self.observed = self.acted  # actions of which nothing came stay a dummy step

    def sample(
        self, size: int, generator: np.random.Generator, n_steps: int = 1, gamma: float = 1.0
    ) -> Batch:
        """Draws `size` transitions, each with the same probability, with replacement.

        Args:
            size: M.
            generator: Draws them.
            n_steps: The most rewards of a return: see `gather`.
            gamma: The discount factor γ.

        Raises:
            ValueError: There are none yet.
        """
        if not self._count:
            raise ValueError(
                "A replay buffer must hold a transition before one is drawn. Received: a sample of "
                f"{size} after {self.observed} steps. Call act and observe first."
            )
        return self.gather(self._draw(size, generator), n_steps, gamma)

    def gather(self, drawn: np.ndarray, n_steps: int = 1, gamma: float = 1.0) -> Batch:
        """The transitions of slots `[M]` that may be sampled.

        With n steps the reward is R = Σ_{k<m} γᵏ·r_{t+k}, and what follows is that of step
        t + m − 1; m is n, or less where the episode ends before or no more is stored. Source:
        Sutton & Barto 2018, eq. 7.1.
        """
        last, rewards = drawn, self.rewards.take(drawn)
        discounts = np.full(len(drawn), gamma, np.float32)
        if n_steps > 1:
            last = self._look_ahead(drawn, n_steps, gamma, rewards, discounts)
        observations = self.observations.reshape(self._slots, *self.observations.shape[2:])
        actions = self.actions.reshape(self._slots, *self.actions.shape[2:])
        following = (last + self.rewards.shape[1]) % self._slots
        next_observations = observations.take(following, 0)
        numbers = self.final_at.take(last)
        final = np.flatnonzero(numbers >= 0)
        if final.size:
            next_observations[final] = self.finals[numbers[final] % len(self.finals)]
            following[final] = -1
        terminated = self.terminated.take(last)
        return Batch(
            observations.take(drawn, 0),
            actions.take(drawn, 0),
            rewards,
            next_observations,
            terminated,
            discounts * ~terminated,
            drawn,
            following,
        )

    def _look_ahead(
        self,
        drawn: np.ndarray,
        n_steps: int,
        gamma: float,
        rewards: np.ndarray,
        discounts: np.ndarray,
    ) -> np.ndarray:
        """Adds the rewards that follow, in place; the slots of the last ones, `[M]`."""
        last, count = drawn.copy(), self.rewards.shape[1]
        newest = (self.stop - 1) % len(self.rewards)  # nothing after it may be sampled
        goes_on = ~self.ended.take(last) & (last // count != newest)
        for _ in range(n_steps - 1):
            following = (last + count) % self._slots
            goes_on &= self.real.take(following)
            which = np.flatnonzero(goes_on)
            if not which.size:
                break
            last[which] = following[which]
            rewards[which] += discounts[which] * self.rewards.take(last[which])
            discounts[which] *= np.float32(gamma)
            goes_on &= ~self.ended.take(last) & (last // count != newest)
        return last

    def _draw(self, size: int, generator: np.random.Generator) -> np.ndarray:
        """Real slots; a dummy is drawn again. At worst every other one is: it soon ends."""
        low, high = (row * self.rewards.shape[1] for row in (self.start, self.stop))
        drawn = generator.integers(low, high, size) % self._slots
        while (dummies := np.flatnonzero(~self.real.take(drawn))).size:
            drawn[dummies] = generator.integers(low, high, dummies.size) % self._slots
        return drawn

    def _keep(self, observations: np.ndarray) -> np.ndarray:
        """Stores final observations; their numbers."""
        needed = self._head - self._tail + len(observations)
        if needed > len(self.finals):
            self._grow(1 << (needed - 1).bit_length())
        numbers = np.arange(self._head, self._head + len(observations)) % _NUMBERS
        self.finals[numbers % len(self.finals)] = observations
        self._head += len(observations)
        return numbers

    def _grow(self, size: int) -> None:
        old, numbers = self.finals, np.arange(self._tail, self._head)
        self._check_memory(self._bytes + old.nbytes + old.nbytes // len(old) * size)
        self.finals = np.zeros((size, *old.shape[1:]), old.dtype)
        self.finals[numbers % size] = old[numbers % len(old)]

    def _check_memory(self, needed: int) -> None:
        if needed > memory():
            raise ValueError(
                "A replay buffer must fit into the machine's memory. Received: a capacity of "
                f"{self._slots:,} transitions, which takes {needed:,} bytes of {memory():,}. "
                "Pass a smaller capacity or smaller observations."
            )

    def get_state(self) -> State:
        """The newest row, and a log of those before: to be saved before the buffer changes."""
        log = Log(self.start, self.stop, partial(self._logged, self._kept), kept=self._kept)
        newest = self._rows(self.stop, self.acted)
        return {"acted": self.acted, "observed": self.observed, "newest": newest, "log": log}

    def set_state(self, state: State) -> None:
        """Restores a state, bit for bit.

        Raises:
            ValueError: It is another buffer's, or damaged. The buffer is as it was, unless the
                damage was behind the first shard: then it is empty.
        """
        acted, observed = (operator.index(state[name]) for name in ("acted", "observed"))
        log, newest, rows = state["log"], state["newest"], len(self.rewards)
        at, stop = max(0, acted - rows), max(0, acted - 1)
        fits = isinstance(log, Log) and (log.start, log.stop) == (at, stop)
        if not fits or acted - observed not in (0, 1):
            raise _unlike(f"{acted} steps, {observed} observed, in a log not of {rows} rows")
        self._check(newest, acted - stop)
        pieces = log.pieces()
        first = list(islice(pieces, 1))  # critical: before anything changes, for it may be our own
        for _, arrays in first:
            self._check(arrays)
        self._clear()
        try:
            for begin, arrays in chain(first, pieces):
                at = self._fill(at, begin, arrays)
            if at != stop:
                raise _unlike(f"rows up to {at} instead of {stop}")
            self._fill(stop, stop, newest)
        except ValueError:
            self._clear()
            raise
        self.acted, self.observed = acted, observed
        self._count = int(self.real[np.arange(log.start, stop) % rows].sum())
        self._kept = Kept(log.kept.folder, log.known(log.kept.folder))

    def _clear(self) -> None:
        self.acted = self.observed = self._count = self._head = self._tail = 0
        self._kept = Kept()

    def _logged(self, kept: Kept, a: int, b: int) -> Arrays:
        if kept is not self._kept or not self.start <= a <= b <= self.stop:
            raise ValueError(f"rows [{a}, {b}) of a buffer that has gone on to {self.stop}")
        return self._rows(a, b)

    def _rows(self, a: int, b: int) -> Arrays:
        """Rows `[a, b)`: their arrays `[b - a, N, ...]`, and their final observations in order."""
        where = np.arange(a, b) % len(self.rewards)
        numbers = self.final_at[where]
        has_final = numbers >= 0
        final = self.finals[numbers[has_final] % len(self.finals)]
        arrays = {name: getattr(self, name)[where] for name in _ROWS}
        return arrays | {"has_final": has_final, "final": final}

    def _fill(self, at: int, begin: int, arrays: Arrays) -> int:
        """Stores rows from `at` on, of arrays that begin at row `begin`; where the next begins."""
        self._check(arrays)
        skip, has_final = at - begin, arrays["has_final"]
        if not 0 <= skip <= len(has_final):
            raise _unlike(f"rows [{begin}, {begin + len(has_final)}) where {at} is next")
        where = np.arange(at, begin + len(has_final)) % len(self.rewards)
        for name in _ROWS:
            getattr(self, name)[where] = arrays[name][skip:]
        numbers = np.full(has_final[skip:].shape, -1, np.int32)
        final = arrays["final"][np.count_nonzero(has_final[:skip]) :]
        numbers[has_final[skip:]] = self._keep(final)
        self.final_at[where] = numbers
        return at + len(where)

    def _check(self, arrays: Arrays, rows: int | None = None) -> None:
        """Refuses arrays whose names, shapes or dtypes are not our own."""
        own = {name: getattr(self, name) for name in _ROWS} | {"has_final": self.ended}
        if not isinstance(arrays, dict) or set(arrays) != {*own, "final"}:
            raise _unlike(f"{list(arrays)!r:.200}")
        count = np.shape(arrays["has_final"])[:1] if rows is None else (rows,)
        expected = {name: (array.dtype, (*count, *array.shape[1:])) for name, array in own.items()}
        finals = np.count_nonzero(arrays["has_final"])
        expected["final"] = (self.finals.dtype, (finals, *self.finals.shape[1:]))
        for name, array in arrays.items():
            if (array.dtype, array.shape) != expected[name]:
                dtype, shape = expected[name]
                raise _unlike(f"{name} {array.dtype}{list(array.shape)} for {dtype}{list(shape)}")


def _unlike(received: str) -> ValueError:
    return ValueError(
        f"A replay buffer must have the shape it was saved with. Received: {received}. Resume with "
        "the settings and the number of environments of the run."
    )
