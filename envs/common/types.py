"""Types that several files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

Array: TypeAlias = np.ndarray
Space: TypeAlias = spaces.Space[Any]
Info: TypeAlias = dict[str, Any]
"""The info of a reset or a step; a vector environment joins those of its members key by key."""
Row: TypeAlias = tuple[Any, SupportsFloat, bool, bool, Info]
"""What a step of one environment returns: observation, reward, terminated, truncated, info."""
State: TypeAlias = dict[str, object]
"""A saved state: arrays and JSON values, which are checked when they are read."""
Make: TypeAlias = Callable[[], gym.Env]
"""Makes one environment."""
Wrap: TypeAlias = Callable[[gym.Env], gym.Env]
"""Puts an environment into a wrapper."""
