"""What acts and learns: one file per algorithm, readable top to bottom.

Names are imported when first used, so that configs and host policies load without TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .configs.registry import ALGORITHMS as ALGORITHMS

if TYPE_CHECKING:
    from .a2c import A2C as A2C
    from .configs.a2c import A2CConfig as A2CConfig
    from .configs.dqn import DQNConfig as DQNConfig
    from .configs.ppo import PPOConfig as PPOConfig
    from .configs.qrdqn import QRDQNConfig as QRDQNConfig
    from .configs.sac import SACConfig as SACConfig
    from .configs.td3 import TD3Config as TD3Config
    from .dqn import DQN as DQN
    from .networks.distributions import policy_distribution as policy_distribution
    from .ppo import PPO as PPO
    from .qrdqn import QRDQN as QRDQN
    from .sac import SAC as SAC
    from .td3 import TD3 as TD3

_MODULES = {each.agent: each.name for each in ALGORITHMS.values()}
_MODULES |= {
    each.config.__name__: f"configs.{each.config.__module__.rpartition('.')[2]}"
    for each in ALGORITHMS.values()
}
_MODULES["policy_distribution"] = "networks.distributions"

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
