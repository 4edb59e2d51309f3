"""A ball to catch, observed as an image: it takes two images to see its direction.

Legend: n rows and columns.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

BALL = (255, 200, 0)


class Catch(gym.Env):
    """A ball moves diagonally down an n × n image; the net must be where it lands.

        x' = x + v, v = ±1;   at a side the ball stays in its column for a step and turns round
        r  = 1 if a = x' in the last row, where the episode terminates; else 0

    The ball begins in the first row, in any column and either direction, all equally likely, and
    lands after n − 1 steps. The action is the column of the net, which is not in the image. The net
    may jump to any column, so only the last action counts.

    The optimum is to catch every ball, return 1. But one image does not show v: x and v stay
    independent and uniform, and an agent that sees single images catches at most half of the balls.
    Stack two or more images with Gymnasium's `FrameStackObservation`.

    Attributes:
        optimal_return: 1, the share of the balls that can be caught.
        optimal_return_of_one_image: 1/2.

    Args:
        size: n.
        render_mode: "rgb_array", or None.

    Raises:
        ValueError: n is less than 3: the second image would come too late.
    """

    # gymnasium.Env declares an instance variable here, so this is no ClassVar.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    optimal_return, optimal_return_of_one_image = 1.0, 0.5

    def __init__(self, size: int = 8, render_mode: str | None = None) -> None:
        if size < 3:
            raise ValueError(f"size must be at least 3. Received: {size}.")
        self.size, self.render_mode = size, render_mode
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(size)
        self._row, self._column, self._velocity = 0, 0, 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode: a ball in any column, flying either way."""
        super().reset(seed=seed)  # seeds self.np_random: draw from no other generator
        self._row, self._column = 0, int(self.np_random.integers(self.size))
        self._velocity = int(self.np_random.choice([-1, 1]))
        return self._image(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves the ball and holds the net under a column.

        Raises:
            ValueError: There is no such column.
        """
        if not self.action_space.contains(action):
            raise ValueError(
                f"An action must be a column, from 0 to {self.size - 1}. Received: {action}."
            )
        self._row += 1
        if 0 <= self._column + self._velocity < self.size:
            self._column += self._velocity
        else:
            self._velocity = -self._velocity
        terminated = self._row == self.size - 1
        reward = float(terminated and self._column == action)
        return self._image(), reward, terminated, False, {}

    def render(self) -> np.ndarray | None:
        """The agent's observation, if `render_mode` is "rgb_array"."""
        return None if self.render_mode is None else self._image()

    def _image(self) -> np.ndarray:
        """An image of the ball, uint8 `[n, n, 3]`, in a new array."""
        image = np.zeros((self.size, self.size, 3), np.uint8)
        image[self._row, self._column] = BALL
        return image
