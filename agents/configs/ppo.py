"""The settings of PPO. No TensorFlow here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar, Literal

from .config import ActorCriticConfig
from .fields import Count, Fraction, Positive, describe_fields


@dataclass(frozen=True)
class PPOConfig(ActorCriticConfig):
    """Settings of PPO (Schulman et al. 2017)."""

    of_loss: ClassVar[frozenset[str]] = ActorCriticConfig.of_loss | {
        *("clip_range", "clip_schedule", "clip_range_vf", "target_kl", "normalize_advantage")
    }

    learning_rate: Positive = 3e-4
    """Step size of the optimizer."""
    n_steps: Count = 2048
    """Steps of every environment per rollout."""
    batch_size: Count = 64
    """Examples per minibatch; must divide n_steps times the number of environments."""
    n_epochs: Count = 10
    """Epochs of minibatches over each rollout."""
    gae_lambda: Fraction = 0.95
    """Trace parameter λ of generalised advantage estimation."""
    clip_range: Positive = 0.2
    """Clip range of the policy loss: its objective stops growing at ratios of 1 ± this."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """linear: the clip range falls to 0 over the training steps."""
    clip_range_vf: Positive | None = None
    """Clip range of the value loss: new values farther than this from the old ones give no
    gradient; None for no clipping."""
    target_kl: Positive | None = None
    """Stop the epochs of a rollout when the approximate KL divergence exceeds 1.5 times this."""
    normalize_advantage: bool = True
    """Normalise the advantages of each minibatch to mean 0 and standard deviation 1."""
    optimizer: Literal["rmsprop", "adam"] = "adam"
    """adam (ε 1e-5), or rmsprop (decay 0.99)."""


describe_fields(sys.modules[__name__])
