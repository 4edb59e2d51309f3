"""The settings of QR-DQN. No TensorFlow here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from .config import QLearningConfig
from .fields import Fraction, Positive, Rule, describe_fields


@dataclass(frozen=True)
class QRDQNConfig(QLearningConfig):
    """Settings of QR-DQN (Dabney et al. 2018)."""

    learning_rate: Positive = 5e-5
    """Step size of Adam."""
    exploration_fraction: Fraction = 0.005
    """Share of the training steps over which ε falls from its first to its last value."""
    exploration_final_eps: Fraction = 0.01
    """Last probability ε of a random action."""
    n_quantiles: Annotated[
        int,
        Rule("of at least 1 and at most 1,000", lambda n: 1 <= n <= 1000),
    ] = 200
    """Quantiles of the return of each action."""

    @property
    def outputs_per_action(self) -> int:
        """Numbers that the network returns for each action."""
        return self.n_quantiles


describe_fields(sys.modules[__name__])
