"""An environment of images whose steps cost almost nothing, to measure learning from images.

It needs only Gymnasium and NumPy, because the peer's Python imports it, too.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

STEPS = 200  # of an episode


class Screens(gym.Env):
    """Stored noise of 84 × 84 × 4 bytes; the action that its mark shows is rewarded."""

    observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = spaces.Discrete(4)
    _store = np.random.default_rng(0).integers(0, 256, (64, 84, 84, 4), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        """Begins an episode of 200 steps."""
        super().reset(seed=seed)
        self._left = STEPS
        return self._next(), {}

    def _next(self) -> np.ndarray:
        self._mark = int(self.np_random.integers(4))
        image = self._store[int(self.np_random.integers(len(self._store)))].copy()
        image[20 * self._mark : 20 * self._mark + 20, :20] = 255
        return image

    def step(self, action: Any) -> Any:
        """The next image."""
        reward = float(int(action) == self._mark)
        self._left -= 1
        return self._next(), reward, False, self._left == 0, {}


gym.register("vantage/Screens-v0", f"{__name__}:Screens")
