"""A walk through a grid to a goal, with walls: an environment with illegal actions and masks.

Legend: R rows, C columns, cells numbered row by row.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: the actions 0, 1, 2, 3

# The goal is near, but the path leads around a wall. Within two steps of the start all moves are
# legal: Gymnasium's check_env takes two random steps and ignores masks.
LAYOUT = (
    ".....#G",
    ".....#.",
    "..S..#.",
    ".....#.",
    ".......",
    ".###.#.",
    ".......",
)


class Grid(gym.Env):
    """A path from the start to the goal, cell by cell; every step costs 1.

        s' = s + move(a),   r = −1,   terminated where s' is the goal

    The cell is the complete state. A move into a wall or over the edge is illegal, and an error.
    Every observation comes with the legal moves, `info["action_mask"]`, int8 `[4]`: 1 for a legal
    move, 0 for an illegal one. Gymnasium's own `env.action_space.sample(mask)` takes such a mask.

    The optimum is a shortest path. Its return is minus its length d(s), which a breadth-first
    search from the goal finds here.

    Attributes:
        distances: d `[R, C]`, −1 for walls and for cells without a path to the goal.
        optimal_return: −d(start).

    Args:
        layout: The map, a string per row: `#` is a wall, `.` is free, `S` the start, `G` the goal.
        render_mode: "ansi" for text, or None.

    Raises:
        ValueError: The map is not rectangular, does not have exactly one start and one goal, or
            has no path between them.
    """

    # gymnasium.Env declares an instance variable here, so this is no ClassVar.
    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, layout: Sequence[str] = LAYOUT, render_mode: str | None = None) -> None:
        text = "".join(layout)
        if len({len(row) for row in layout}) != 1 or set(text) - set("#.SG"):
            raise ValueError(
                f"A layout must be rows of one length, made of '#.SG'. Received: {list(layout)}."
            )
        if text.count("S") != 1 or text.count("G") != 1:
            raise ValueError(f"A layout must have one S and one G. Received: {list(layout)}.")
        self.render_mode = render_mode
        self._text, self._columns = text, len(layout[0])
        self._start, self._goal = text.index("S"), text.index("G")
        self._masks = self._legal_moves()  # [R·C, 4]
        distances = self._search()  # [R·C]
        if distances[self._start] < 0:
            raise ValueError(f"A path must lead from S to G. Received: {list(layout)}.")
        self.distances = distances.reshape(len(layout), self._columns)
        self.optimal_return = -float(distances[self._start])
        self.observation_space = gym.spaces.Discrete(len(text))
        self.action_space = gym.spaces.Discrete(len(MOVES))
        self._cell = self._start

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Begins an episode at the start."""
        super().reset(seed=seed)  # seeds self.np_random: nothing is drawn here
        self._cell = self._start
        return np.int64(self._cell), self._info()

    def step(self, action: int) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Moves to a neighbouring cell.

        Raises:
            ValueError: The move is illegal.
        """
        mask = self._masks[self._cell]
        if not self.action_space.contains(action) or not mask[action]:
            raise ValueError(
                f"Actions must be legal. Received: {action} in cell {self._cell}, where the "
                f"legal ones are {np.flatnonzero(mask).tolist()}. "
                "Take one for which info['action_mask'] is 1."
            )
        self._cell = self._neighbour(self._cell, action)
        terminated = self._cell == self._goal
        truncated = False  # a time limit does not end the task: leave it to the TimeLimit wrapper
        return np.int64(self._cell), -1.0, terminated, truncated, self._info()

    def render(self) -> str | None:
        """The map with an A at the agent's cell, if `render_mode` is "ansi"."""
        if self.render_mode is None:
            return None
        text = self._text[: self._cell] + "A" + self._text[self._cell + 1 :]
        starts = range(0, len(text), self._columns)
        return "\n".join(text[start : start + self._columns] for start in starts)

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self._masks[self._cell].copy()}  # the receiver may change it

    def _neighbour(self, cell: int, action: int) -> int:
        down, right = MOVES[action]
        return cell + down * self._columns + right

    def _legal_moves(self) -> np.ndarray:
        """The masks of all cells, int8 `[R·C, 4]`: 1 for moves to a free cell."""
        free = np.array(list(self._text)).reshape(-1, self._columns) != "#"  # [R, C]
        rows, columns = free.shape
        inside = np.pad(free, 1)  # nothing outside is free
        masks = [inside[1 + y : 1 + y + rows, 1 + x : 1 + x + columns] for y, x in MOVES]
        legal: np.ndarray = np.stack(masks, -1) & free[..., None]
        return legal.astype(np.int8).reshape(-1, len(MOVES))

    def _search(self) -> np.ndarray:
        """Breadth-first search from the goal: steps to it `[R·C]`, −1 for cells without a path."""
        distances = np.full(len(self._text), -1)
        distances[self._goal] = 0
        queue = deque([self._goal])
        while queue:
            cell = queue.popleft()
            for action in np.flatnonzero(self._masks[cell]).tolist():  # moves are reversible
                neighbour = self._neighbour(cell, action)
                if distances[neighbour] < 0:
                    distances[neighbour] = distances[cell] + 1
                    queue.append(neighbour)
        return distances
