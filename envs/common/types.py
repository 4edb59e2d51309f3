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
"""What a reset or a step reports besides; of a vector environment, joined key by key."""
Row: TypeAlias = tuple[Any, SupportsFloat, bool, bool, Info]
"""What a step of one environment returns: observation, reward, terminated, truncated, info."""
State: TypeAlias = dict[str, object]
"""A state in arrays and JSON values, each checked when it is read."""
Make: TypeAlias = Callable[[], gym.Env]
"""Makes one environment."""
Wrap: TypeAlias = Callable[[gym.Env], gym.Env]
"""Puts an environment into a wrapper."""
