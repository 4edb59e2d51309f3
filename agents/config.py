"""The algorithms' settings, and the presets tuned for an (algorithm, environment) pair.

No TensorFlow here: the command line reads flags and reports mistakes before it is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class A2CConfig:
    """Settings of A2C; the defaults are Stable-Baselines3's, and mean what they mean there."""

    learning_rate: float = 7e-4
    """Step size of the optimizer (Mnih et al. 2016)."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 over the training steps."""
    n_steps: int = 5
    """Steps of every environment per update."""
    gamma: float = 0.99
    """Discount factor γ."""
    gae_lambda: float = 1.0
    """Trace parameter λ of generalised advantage estimation; 1 is the n-step advantage of A2C."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus in the loss."""
    vf_coef: float = 0.5
    """Weight of the mean squared error of the values in the loss."""
    max_grad_norm: float = 0.5
    """Global norm to which gradients are clipped."""
    normalize_observations: bool = False
    """Bring observations to mean 0 and standard deviation 1 by their running moments."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    normalize_advantage: bool = False
    """Bring each update's advantages to mean 0 and standard deviation 1."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """rmsprop (decay 0.99), or adam (ε 1e-5)."""
    rms_prop_eps: float = 1e-5
    """RMSprop's ε as PyTorch places it, outside the square root; Keras receives its square."""
    net_arch: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu", "elu"] = "tanh"
    """Activation of the hidden layers."""
    share_trunk: bool = False
    """One trunk of hidden layers for policy and value instead of one each."""
    overlap_update: bool = False
    """Update on the other core while acting on the weights of one update ago: faster, as
    reproducible, and another algorithm by that one update. Needs a network of dense layers."""
    rescale_actions: bool = False
    """Map actions from [−1, 1] to the bounds of a Box, instead of clipping them to the bounds."""
    log_std_init: float = 0.0
    """First log standard deviation of a Gaussian policy (Box actions)."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_grad_norm", "rms_prop_eps"):
            _require(self, name, getattr(self, name) > 0, "greater than 0")
        for name in ("gamma", "gae_lambda"):
            _require(self, name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("ent_coef", "vf_coef"):
            _require(self, name, getattr(self, name) >= 0, "at least 0")
        _require(self, "n_steps", self.n_steps >= 1, "at least 1")
        _require(self, "net_arch", all(w >= 1 for w in self.net_arch), "widths of at least 1")
        for name, choices in {
            "lr_schedule": ("constant", "linear"),
            "optimizer": ("rmsprop", "adam"),
            "activation": ("tanh", "relu", "elu"),
        }.items():
            _require(self, name, getattr(self, name) in choices, f"one of {', '.join(choices)}")


def config_from_json(config_type: type, values: dict[str, Any]) -> Any:
    """A config dataclass from what JSON made of it: its tuples are lists there."""
    return config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _require(config: Any, name: str, holds: bool, rule: str) -> None:
    if not holds:  # also when a NaN made the comparison false
        raise ValueError(
            f"{name} must be {rule}. Received: {name}={getattr(config, name)!r}. "
            f"Leave it out for the default, {type(config).__dataclass_fields__[name].default!r}."
        )


@dataclass(frozen=True)
class Preset:
    """A tuned setting: the algorithm's config and how to run it."""

    config: Any
    num_envs: int = 8
    total_steps: int = 500_000
    vectorization: Literal["sync", "async", "native"] = "sync"
    stop_at_return: float | None = None


CONFIGS: dict[str, type] = {"a2c": A2CConfig}

NORMALIZED = A2CConfig(normalize_observations=True, normalize_rewards=True)

PRESETS: dict[tuple[str, str], Preset] = {
    ("a2c", "CartPole-v1"): Preset(
        A2CConfig(learning_rate=2.5e-3, rms_prop_eps=1e-3),
        num_envs=16,
        vectorization="native",
        stop_at_return=475.0,
    ),
    ("a2c", "Acrobot-v1"): Preset(NORMALIZED, num_envs=16, vectorization="native"),
    ("a2c", "MountainCar-v0"): Preset(
        NORMALIZED, num_envs=16, total_steps=1_000_000, vectorization="native"
    ),
    ("a2c", "Pendulum-v1"): Preset(
        replace(
            NORMALIZED,
            learning_rate=2.5e-3,
            lr_schedule="linear",
            gamma=0.9,
            gae_lambda=0.9,
            rms_prop_eps=1e-3,
            rescale_actions=True,
        ),
        num_envs=16,
        total_steps=1_000_000,
        vectorization="native",
    ),
}
