"""Prioritised replay: transitions drawn in proportion to their last error. NumPy only.

    p = (|δ| + 1e-6)^α,   P(i) = pᵢ / Σ p           what surprised most is drawn most
    w = (P(i)·count)^−β / max w                     corrects for it in the loss, in full at β = 1

Source: Schaul et al. 2016, "Prioritized Experience Replay", eq. 1, section 3.4 and algorithm 1.
Legend: S slots of a buffer, K minibatches, M transitions of a minibatch.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .protocols import State
    from .replay import Replay

Array = np.ndarray


class SumTree:
    """Numbers `[S]` of at least 0 whose sum is known, and drawn from in proportion to them.

    A binary tree in one array: node i is the sum of nodes 2i and 2i + 1, the numbers are the
    leaves. A sum is always computed from its two parts, so that it depends on the leaves alone.
    """

    def __init__(self, size: int) -> None:
        self._first = 1 << max(size - 1, 1).bit_length()  # the number of the first leaf
        self._nodes = np.zeros(2 * self._first)  # float64; node 0 is not used
        self.leaves = self._nodes[self._first : self._first + size]  # [S], a view: see `set`

    @property
    def total(self) -> float:
        """The sum of all."""
        return float(self._nodes[1])

    def set(self, positions: Array, values: Array | float) -> None:
        """Sets numbers; of a position that occurs twice the last one counts."""
        nodes = self._nodes
        at = positions + self._first
        nodes[at] = values
        while at.size and at[0] > 1:
            at = at >> 1
            if at.size > 64:
                at = np.unique(at)
            nodes[at] = nodes[2 * at] + nodes[2 * at + 1]

    def find(self, sums: Array) -> Array:
        """Of each u in [0, total) the first position up to which the numbers sum to more than u.

        Whatever rounding does, its number is not 0, if the total is not.
        """
        nodes, at, left = self._nodes, np.ones(len(sums), np.int64), sums.copy()
        while at.size and at[0] < self._first:
            at *= 2
            below = nodes[at]
            goes_right = (left >= below) & (nodes[at + 1] > 0)
            left -= below * goes_right
            at += goes_right
        return at - self._first


class Priorities:
    """The priorities of a buffer's transitions; 0 for what must not be drawn.

    It takes `2·8` to `4·8` bytes a slot on top of the buffer.

    Attributes:
        most: The greatest so far, which a new transition gets.
    """

    def __init__(self, replay: Replay, alpha: float) -> None:
        """Begins with none; whatever the buffer holds is new."""
        self._replay, self._alpha = replay, alpha
        self._tree = SumTree(replay.rewards.size)
        self._seen = 0  # rows before it have been new
        self.most = 1.0

    def draw(
        self, shape: tuple[int, int], generator: np.random.Generator, beta: float
    ) -> tuple[Array, Array]:
        """Draws K minibatches of M, each stratified: one from every M-th of the sum.

        Returns:
            Slots `[K·M]` for `Replay.gather`, and their weights w `[K·M]`, float32, at most 1 and
            1 for the rarest of a minibatch.

        Raises:
            ValueError: The buffer holds no transition yet.
        """
        self._add_new()
        if not self._tree.total:
            raise ValueError(
                "A replay buffer must hold a transition before one is drawn. Received: a sample of "
                f"{shape} after {self._replay.observed} steps. Call act and observe first."
            )
        count, size = shape
        strata = (np.arange(size) + generator.random((count, size))) / size  # [K, M]
        drawn = self._tree.find(strata.ravel() * self._tree.total)
        rarest = (chances := self._tree.leaves[drawn].reshape(shape)).min(axis=1, keepdims=True)
        weights = (rarest / chances) ** beta  # the sum and the count cancel
        return drawn, weights.ravel().astype(np.float32)

    def update(self, drawn: Array, errors: Array) -> None:
        """Sets the priorities of what was drawn, from its errors δ, `[K·M]` each."""
        priorities = (np.abs(errors.astype(np.float64)) + 1e-6) ** self._alpha
        self._tree.set(drawn, priorities)
        self.most = max(self.most, float(priorities.max()))

    def _add_new(self) -> None:
        """Rows that may be drawn by now; the newest, which may not, lies where the oldest was."""
        replay = self._replay
        rows, envs = replay.rewards.shape
        new = np.arange(max(self._seen, replay.start), replay.acted) % rows
        slots = (new[:, None] * envs + np.arange(envs)).ravel()
        may = replay.real.take(slots)
        if replay.acted:
            may[-envs:] = False
        self._tree.set(slots, self.most * may)
        self._seen = replay.stop

    def get_state(self) -> State:
        """All of it."""
        return {"priorities": self._tree.leaves.copy(), "most": self.most, "seen": self._seen}

    def set_state(self, state: State) -> None:
        """Restores a state, bit for bit.

        Raises:
            ValueError: It is of another buffer.
        """
        priorities, most = np.asarray(state["priorities"]), float(state["most"])
        own, seen = self._tree.leaves, operator.index(state["seen"])
        fits = (priorities.dtype, priorities.shape) == (own.dtype, own.shape)
        if not fits or not (np.isfinite(priorities) & (priorities >= 0)).all():
            raise ValueError(
                f"Priorities must be {own.dtype}{list(own.shape)}, finite and at least 0. "
                f"Received: {priorities.dtype}{list(priorities.shape)}. Resume with the "
                "settings of the run."
            )
        self._tree.set(np.arange(len(own)), priorities)
        self._seen, self.most = seen, most
