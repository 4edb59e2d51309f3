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
    """Temperature α; auto: trained so that the entropy approaches the target entropy."""
    ent_coef_init: Positive = 1.0
    """Initial temperature if it is trained."""
    target_entropy: Literal["auto"] | float = "auto"
    """Entropy that a trained temperature aims at; auto: minus the number of action dimensions."""
    use_sde: bool = False
    """Generalised state-dependent exploration (Raffin et al. 2022)."""
    sde_sample_freq: Steps = -1
    """Steps after which the noise of use_sde is redrawn; -1: after each update."""
    log_std_init: float = -3.0
    """Initial log standard deviation of the noise of use_sde."""


describe_fields(sys.modules[__name__])
