"""Tiny environments and simulators with a known optimum; each file is a template to copy.

Importing this module registers `vantage/Bandit-v0`, `vantage/Corridor-v0`, `vantage/Grid-v0` and
`vantage/Catch-v0`, so that `vantage train a2c vantage.envs.examples:vantage/Grid-v0` finds them.
"""

import gymnasium as gym

from .bandit import Bandit as Bandit
from .catch import Catch as Catch
from .corridor import Corridor as Corridor
from .grid import Grid as Grid

__all__ = ["Bandit", "Catch", "Corridor", "Grid"]

gym.register("vantage/Bandit-v0", f"{__name__}.bandit:Bandit")
gym.register("vantage/Catch-v0", f"{__name__}.catch:Catch")
# A time limit is not part of a task: it is set here, and truncates an episode.
gym.register("vantage/Corridor-v0", f"{__name__}.corridor:Corridor", max_episode_steps=100)
gym.register("vantage/Grid-v0", f"{__name__}.grid:Grid", max_episode_steps=200)
