"""Settings that algorithms have in common.

The defaults are Stable-Baselines3's, and mean what they mean there.

The number of environments is no setting of an algorithm: `make_vec` has 8 by default, and so has
`vantage train` for A2C and PPO, where Stable-Baselines3 has 1. A rollout has n_steps × num_envs
steps, and `train_freq` counts steps of every environment.

No TensorFlow here: the command line reads flags and reports mistakes before it is imported.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from .fields import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    Rule,
    Widths,
    check_fields,
    describe_fields,
)

Steps = Annotated[
    int, Rule("-1, or from 1 to 10,000,000", lambda n: n == -1 or 1 <= n <= 10_000_000)
]
Starts = Annotated[int, Rule("of at least 0 and at most 10**12", lambda n: 0 <= n <= 10**12)]


@dataclass(frozen=True)
class ActorCriticConfig:
    """What agents that learn from rollouts have in common."""

    layers_after_images: ClassVar[bool] = False

    learning_rate: Positive = 7e-4
    """Step size of the optimizer."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 over the training steps."""
    n_steps: Count = 5
    """Steps of every environment per rollout."""
    gamma: Fraction = 0.99
    """Discount factor γ."""
    gae_lambda: Fraction = 1.0
    """Trace parameter λ of generalised advantage estimation; 1 is the n-step advantage."""
    ent_coef: NonNegative = 0.0
    """Weight of the entropy bonus in the loss."""
    vf_coef: NonNegative = 0.5
    """Weight of the mean squared error of the values in the loss."""
    max_grad_norm: Positive = 0.5
    """Global norm to which gradients are clipped."""
    normalize_observations: bool = False
    """Bring observations to mean 0 and standard deviation 1 by their running moments."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    normalize_advantage: bool = False
    """Bring the advantages of each update to mean 0 and standard deviation 1."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """rmsprop (decay 0.99), or adam (ε 1e-5)."""
    rms_prop_eps: Positive = 1e-5
    """RMSprop's ε as PyTorch places it, outside the square root; Keras receives its square."""
    net_arch: Widths = (64, 64)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu", "elu"] = "tanh"
    """Activation of the hidden layers."""
    ortho_init: bool = True
    """Orthogonal first weights; without it uniform ones, ±1/√(inputs), as PyTorch's."""
    share_trunk: bool = False
    """One trunk of hidden layers for policy and value instead of one each."""
    rescale_actions: bool = False
    """Map actions from [−1, 1] to the bounds of a Box, instead of clipping them to the bounds."""
    log_std_init: float = 0.0
    """First log standard deviation of a Gaussian policy (Box actions)."""
    use_sde: bool = False
    """Generalised state-dependent exploration (Box actions; Raffin et al. 2022)."""
    sde_sample_freq: Steps = -1
    """Steps after which its noise is drawn anew; -1: once a rollout."""
    overlap_update: bool = False
    """Update on the other core while acting on the weights of one update ago: faster, as
    reproducible, and another algorithm by that one update. Needs a network of dense layers."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class OffPolicyConfig:
    """What agents with a replay buffer have in common."""

    layers_after_images: ClassVar[bool] = True
    """Whether the default hidden layers follow the convolutions of an image, too."""

    learning_rate: Positive = 3e-4
    """Step size of Adam."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 over the training steps."""
    buffer_size: Count = 1_000_000
    """Transitions that the replay buffer holds."""
    learning_starts: Starts = 100
    """Steps of all environments before the first update."""
    batch_size: Count = 256
    """Transitions of a minibatch."""
    tau: Fraction = 0.005
    """How far the target network moves towards the network each time; 1 copies it."""
    gamma: Fraction = 0.99
    """Discount factor γ."""
    n_steps: Count = 1
    """Rewards of a return before it is bootstrapped."""
    train_freq: Count = 1
    """Steps of every environment between two updates."""
    gradient_steps: Steps = 1
    """Gradient steps of an update; -1: as many as steps of all environments since the last one."""
    net_arch: Widths = (256, 256)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu", "elu"] = "relu"
    """Activation of the hidden layers."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class QLearningConfig(OffPolicyConfig):
    """What agents that learn action values have in common, DQN first (Mnih et al. 2015)."""

    layers_after_images: ClassVar[bool] = False

    learning_rate: Positive = 1e-4
    """Step size of Adam."""
    batch_size: Count = 32
    """Transitions of a minibatch."""
    tau: Fraction = 1.0
    """How far the target network moves towards the network each time; 1 copies it."""
    train_freq: Count = 4
    """Steps of every environment between two updates."""
    target_update_interval: Count = 10_000
    """Steps of all environments between two moves of the target network."""
    exploration_fraction: Fraction = 0.1
    """Share of the training steps over which ε falls from its first to its last value."""
    exploration_initial_eps: Fraction = 1.0
    """First probability ε of a random action."""
    exploration_final_eps: Fraction = 0.05
    """Last probability ε of a random action."""
    max_grad_norm: Positive = 10.0
    """Global norm to which gradients are clipped."""
    net_arch: Widths = (64, 64)
    """Widths of the hidden layers."""
    prioritized: bool = False
    """Draw transitions in proportion to their last error (Schaul et al. 2016)."""
    priority_alpha: Fraction = 0.6
    """How strongly; 0 is uniform."""
    priority_beta: Fraction = 0.4
    """How much of the bias is corrected at first; it rises to 1 over the training steps."""
    overlap_update: bool = False
    """Update on the other core while acting on the weights of one update ago: faster, as
    reproducible, and another algorithm by that one update. Needs a network of dense layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prioritized and self.overlap_update:
            raise ValueError(
                "Priorities must be those of the last update when the next one draws by them. "
                "Received: prioritized and overlap_update, which is one update behind. Leave one "
                "of them out."
            )


describe_fields(sys.modules[__name__])


OF_NETWORK = {"net_arch", "activation", "ortho_init", "share_trunk", "log_std_init", "dueling"}
"""Settings of the default network: one of your own leaves them unused."""
OF_OPTIMIZER = {"optimizer", "learning_rate", "lr_schedule", "max_grad_norm", "rms_prop_eps"}
"""Settings of the default optimizer, likewise."""


def used_settings(
    config: Any, own_network: bool = False, own_optimizer: bool = False
) -> dict[str, Any]:
    """The settings by name, without those that a network or optimizer of your own replaces."""
    unused = (OF_NETWORK if own_network else set()) | (OF_OPTIMIZER if own_optimizer else set())
    return {name: value for name, value in asdict(config).items() if name not in unused}


def hidden_widths(config: Any, is_image: bool) -> tuple[int, ...]:
    """Widths of the hidden layers: `net_arch`.

    After an image alone some algorithms have none where `net_arch` is the default, as in
    Stable-Baselines3.
    """
    is_default = config.net_arch == type(config)().net_arch
    has_none = is_image and is_default and not config.layers_after_images
    return () if has_none else config.net_arch
