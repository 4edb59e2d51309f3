"""The settings of A2C. No TensorFlow here."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from .config import ActorCriticConfig
from .fields import describe_fields


@dataclass(frozen=True)
class A2CConfig(ActorCriticConfig):
    """Settings of A2C (Mnih et al. 2016)."""


describe_fields(sys.modules[__name__])
