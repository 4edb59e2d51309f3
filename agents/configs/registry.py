"""The registry of algorithms, one line each; all lists of them come from it. No TensorFlow here."""

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
    """An algorithm, before its agent is imported."""

    name: str
    """Its name in files and on the command line; the module of `vantage.agents` with the agent."""
    agent: str
    """The name of the agent's class."""
    config: type[Any]
    """The class of its settings."""
    actions: tuple[str, ...]
    """The classes of `gymnasium.spaces` that it accepts as action spaces."""
    colour: str
    """Its colour in pictures of results."""

    def load(self) -> type[Any]:
        """The agent's class; this imports TensorFlow."""
        agent: type[Any] = getattr(
            importlib.import_module(f"..{self.name}", __package__), self.agent
        )
        return agent


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
"""The algorithms by name."""
