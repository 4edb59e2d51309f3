"""The settings of DQN. No TensorFlow here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

from .config import QLearningConfig
from .fields import describe_fields


@dataclass(frozen=True)
class DQNConfig(QLearningConfig):
    """Settings of DQN (Mnih et al. 2015)."""

    of_target: ClassVar[frozenset[str]] = frozenset({"double"})

    double: bool = False
    """Double Q-learning: the network selects the next action, the target network evaluates it
    (van Hasselt et al. 2016)."""
    dueling: bool = False
    """Dueling network: Q = V + A − mean(A), with a head for V and one for A (Wang et al. 2016)."""


describe_fields(sys.modules[__name__])
