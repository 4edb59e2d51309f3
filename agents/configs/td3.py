"""The settings of TD3. No TensorFlow here."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from .config import OffPolicyConfig
from .fields import Count, NonNegative, Positive, Widths, describe_fields


@dataclass(frozen=True)
class TD3Config(OffPolicyConfig):
    """Settings of TD3 (Fujimoto et al. 2018)."""

    learning_rate: Positive = 1e-3
    """Step size of Adam."""
    net_arch: Widths = (400, 300)
    """Widths of the hidden layers."""
    policy_delay: Count = 2
    """Updates of the critics per update of the actor and the target networks."""
    action_noise: NonNegative = 0.1
    """Standard deviation of the exploration noise, for actions in [−1, 1] (the paper's)."""
    target_policy_noise: NonNegative = 0.2
    """Standard deviation of the noise that smooths the target policy."""
    target_noise_clip: NonNegative = 0.5
    """Bound at which the noise of the target policy is clipped."""


describe_fields(sys.modules[__name__])
