"""A corridor with its only reward at the far end: until then nothing shows the right direction.

Legend: n cells.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np


class Corridor(gym.Env):
    """Cells 0 to n − 1 in a row. The last one is the exit; only the step into it is rewarded.

        s' = s + 1 if a leads forward, else max(s − 1, 0)
        r  = 1 if s' = n − 1, where the episode terminates; else 0

    The action 1 leads forward in the first half, s < n/2, and the action 0 in the second. What is
    right near the exit is wrong at the start, so the value has to travel back cell by cell.

    The optimum is to always go forward. From cell s this takes n − 1 − s steps, the return is 1,
    and with the discount factor γ

        V*(s) = γ^(n − 2 − s),   V*(n − 1) = 0

    Without a discount every way out is as good as the shortest. The time limit is not part of the
    corridor: `vantage/Corridor-v0` is registered with one, and `make_vec` takes another.

    Attributes:
        optimal_return: 1, undiscounted.
        optimal_length: Steps of the shortest episode from cell 0, n − 1.
        optimal_actions: The action that leads forward in every cell but the last, `[n − 1]`.

    Args:
        length: n.
        observation: "discrete" for the number of the cell; "box" for its position from −1 to 1,
            float32 `[1]`.
        random_start: Begin in any cell but the last, instead of cell 0.
        render_mode: "ansi" for text, or None.

    Raises:
        ValueError: There are fewer than two cells, or an argument has another type.
    """

    # gymnasium.Env declares an instance variable here, so this is no ClassVar.
    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012
    optimal_return = 1.0

    def __init__(
        self,
        length: int = 10,
        observation: Literal["discrete", "box"] = "discrete",
        random_start: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if length < 2:
            raise ValueError(f"length must be at least 2. Received: {length}.")
        if observation not in ("discrete", "box"):
            raise ValueError(f"observation must be discrete or box. Received: {observation!r}.")
        if not isinstance(random_start, bool):
            raise ValueError(f"random_start must be True or False. Received: {random_start!r}.")
        self.length, self.optimal_length = length, length - 1
        self.optimal_actions = (np.arange(length - 1) < length / 2).astype(np.int64)
        self.render_mode = render_mode
        self._random_start = random_start
        self.observation_space: gym.Space[Any] = (
            gym.spaces.Discrete(length)
            if observation == "discrete"
            else gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        )
        self.action_space = gym.spaces.Discrete(2)
        self._cell = 0

    def optimal_values(self, gamma: float) -> np.ndarray:
        """V* of every cell, `[n]`, for the discount factor γ."""
        values = float(gamma) ** np.arange(self.length - 2, -1, -1)
        return np.append(values, 0.0)  # nothing follows the exit

    def observations(self) -> np.ndarray:
        """The observation of every cell, `[n]` or `[n, 1]`, in the order of `optimal_values`."""
        return np.stack([self._observation(cell) for cell in range(self.length)])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray | np.int64, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)  # seeds self.np_random: draw from no other generator
        self._cell = int(self.np_random.integers(self.length - 1)) if self._random_start else 0
        return self._observation(self._cell), {}

    def step(self, action: int) -> tuple[np.ndarray | np.int64, float, bool, bool, dict[str, Any]]:
        """Moves one cell forward or back.

        Raises:
            ValueError: The action is neither 0 nor 1.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"An action must be 0 or 1. Received: {action}.")
        is_forward = action == self.optimal_actions[self._cell]
        self._cell = self._cell + 1 if is_forward else max(self._cell - 1, 0)
        terminated = self._cell == self.length - 1
        truncated = False  # a time limit does not end the task: leave it to the TimeLimit wrapper
        return self._observation(self._cell), float(terminated), terminated, truncated, {}

    def render(self) -> str | None:
        """The corridor as a line of text, if `render_mode` is "ansi"."""
        if self.render_mode is None:
            return None
        cells = ["."] * (self.length - 1) + ["E"]
        cells[self._cell] = "A"
        return "".join(cells)

    def _observation(self, cell: int) -> np.ndarray | np.int64:
        if isinstance(self.observation_space, gym.spaces.Discrete):
            return np.int64(cell)
        return np.array([2.0 * cell / (self.length - 1) - 1.0], np.float32)
