"""The settings of SAC. No TensorFlow here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from .config import OffPolicyConfig, Steps
from .fields import NonNegative, Positive, describe_fields


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Settings of SAC (Haarnoja et al. 2018)."""

    ent_coef: Literal["auto"] | NonNegative = "auto"
    """Temperature α; auto: learnt, so that the entropy is the target entropy."""
    ent_coef_init: Positive = 1.0
    """First temperature, if it is learnt."""
    target_entropy: Literal["auto"] | float = "auto"
    """auto: minus the number of action dimensions."""
    use_sde: bool = False
    """Generalised state-dependent exploration (Raffin et al. 2022)."""
    sde_sample_freq: Steps = -1
    """Steps after which its noise is drawn anew; -1: after each update."""
    log_std_init: float = -3.0
    """First log standard deviation of that noise."""


describe_fields(sys.modules[__name__])
