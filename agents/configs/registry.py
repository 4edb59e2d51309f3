"""The algorithms, a line each: whatever lists them reads them here. No TensorFlow in this file."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from .a2c import A2CConfig
from .dqn import DQNConfig
from .ppo import PPOConfig
from .qrdqn import QRDQNConfig
from .sac import SACConfig
from .td3 import TD3Config

DISCRETE, BOX = ("Discrete",), ("Box",)
ANY = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")


class Algorithm(NamedTuple):
    """What is known of an algorithm before it is used."""

    name: str
    """In files and on the command line; the module of `vantage.agents` that holds the agent."""
    agent: str
    """The class."""
    config: type[Any]
    """The settings."""
    actions: tuple[str, ...]
    """The kinds of `gymnasium.spaces` that it takes as actions."""
    colour: str
    """In pictures of results."""

    def load(self) -> type[Any]:
        """The agent's class, imported now: with it comes TensorFlow."""
        return getattr(importlib.import_module(f"..{self.name}", __package__), self.agent)


ALGORITHMS = {
    each.name: each
    for each in (
        Algorithm("a2c", "A2C", A2CConfig, ANY, "tab:blue"),
        Algorithm("ppo", "PPO", PPOConfig, ANY, "tab:orange"),
        Algorithm("dqn", "DQN", DQNConfig, DISCRETE, "tab:green"),
        Algorithm("qrdqn", "QRDQN", QRDQNConfig, DISCRETE, "tab:brown"),
        Algorithm("sac", "SAC", SACConfig, BOX, "tab:red"),
        Algorithm("td3", "TD3", TD3Config, BOX, "tab:purple"),
    )
}
"""By name."""
