"""Settings that algorithms have in common.

The defaults are Stable-Baselines3's, with the same meaning.

The number of environments is not a setting of an algorithm: `make_vec` makes 8 by default, and so
does `vantage train` for A2C and PPO, where Stable-Baselines3 makes 1. A rollout has
n_steps × num_envs steps, and `train_freq` counts steps of every environment.

No TensorFlow here: the command line reads flags and reports mistakes before it imports it.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

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
    """Settings that agents with rollouts have in common."""

    layers_after_images: ClassVar[bool] = False
    of_loss: ClassVar[frozenset[str]] = frozenset({"ent_coef", "vf_coef"})
    """Settings that the algorithm's loss reads alone: one of your own leaves them unused."""

    learning_rate: Positive = 7e-4
    """Step size of the optimizer."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 over the training steps."""
    n_steps: Count = 5
    """Steps of every environment per rollout."""
    gamma: Fraction = 0.99
    """Discount factor γ."""
    gae_lambda: Fraction = 1.0
    """Trace parameter λ of generalised advantage estimation; 1 gives the n-step advantage."""
    ent_coef: NonNegative = 0.0
    """Weight of the entropy bonus in the loss."""
    vf_coef: NonNegative = 0.5
    """Weight of the mean squared error of the values in the loss."""
    max_grad_norm: Positive = 0.5
    """Global norm to which gradients are clipped."""
    normalize_observations: bool = False
    """Normalise observations to mean 0 and standard deviation 1 with running statistics."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    normalize_advantage: bool = False
    """Normalise the advantages of each update to mean 0 and standard deviation 1."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """rmsprop (decay 0.99), or adam (ε 1e-5)."""
    rms_prop_eps: Positive = 1e-5
    """RMSprop's ε, outside the square root as in PyTorch; Keras receives its square."""
    net_arch: Widths = (64, 64)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu", "elu"] = "tanh"
    """Activation of the hidden layers."""
    ortho_init: bool = True
    """Orthogonal initial weights; otherwise uniform within ±1/√(inputs), as PyTorch's."""
    share_trunk: bool = False
    """Share the hidden layers between policy and value."""
    rescale_actions: bool = False
    """Map actions from [−1, 1] to the bounds of a Box, instead of clipping them to the bounds."""
    log_std_init: float = 0.0
    """Initial log standard deviation of a Gaussian policy (Box actions)."""
    use_sde: bool = False
    """Generalised state-dependent exploration (Box actions; Raffin et al. 2022)."""
    sde_sample_freq: Steps = -1
    """Steps after which the noise of use_sde is redrawn; -1: once per rollout."""
    overlap_update: bool = False
    """Update on another core while acting with the weights from one update ago: faster and just as
    reproducible, but a slightly different algorithm. Needs a network of dense layers."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def outputs_per_action(self) -> int:
        """Numbers that the default network returns for each action, at least."""
        return 1


@dataclass(frozen=True)
class OffPolicyConfig:
    """Settings that agents with a replay buffer have in common."""

    of_loss: ClassVar[frozenset[str]] = frozenset()
    of_target: ClassVar[frozenset[str]] = frozenset()
    """Settings that only the algorithm's target reads, which a target function replaces."""
    layers_after_images: ClassVar[bool] = True
    """Whether the default hidden layers also follow the convolutions of an image."""

    learning_rate: Positive = 3e-4
    """Step size of Adam."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 over the training steps."""
    buffer_size: Count = 1_000_000
    """Number of transitions in the replay buffer."""
    learning_starts: Starts = 100
    """Steps of all environments before the first update; until then actions are random."""
    batch_size: Count = 256
    """Transitions of a minibatch."""
    tau: Fraction = 0.005
    """Share by which each move takes the target network towards the network; 1 copies it."""
    gamma: Fraction = 0.99
    """Discount factor γ."""
    n_steps: Count = 1
    """Number of rewards in a return before it is bootstrapped."""
    train_freq: Count = 1
    """Steps of every environment between two updates."""
    gradient_steps: Steps = 1
    """Gradient steps per update; -1: one per step of any environment since the last update."""
    net_arch: Widths = (256, 256)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu", "elu"] = "relu"
    """Activation of the hidden layers."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def outputs_per_action(self) -> int:
        """Numbers that the default network returns for each action, at least."""
        return 1


@dataclass(frozen=True)
class QLearningConfig(OffPolicyConfig):
    """Settings that agents with action values have in common, from DQN (Mnih et al. 2015)."""

    layers_after_images: ClassVar[bool] = False

    learning_rate: Positive = 1e-4
    """Step size of Adam."""
    batch_size: Count = 32
    """Transitions of a minibatch."""
    tau: Fraction = 1.0
    """Share by which each move takes the target network towards the network; 1 copies it."""
    train_freq: Count = 4
    """Steps of every environment between two updates."""
    target_update_interval: Count = 10_000
    """Steps of all environments between two moves of the target network."""
    exploration_fraction: Fraction = 0.1
    """Share of the training steps over which ε falls from its initial to its final value."""
    exploration_initial_eps: Fraction = 1.0
    """Initial probability ε of a random action."""
    exploration_final_eps: Fraction = 0.05
    """Final probability ε of a random action."""
    max_grad_norm: Positive = 10.0
    """Global norm to which gradients are clipped."""
    net_arch: Widths = (64, 64)
    """Widths of the hidden layers."""
    prioritized: bool = False
    """Prioritised replay: sample transitions with large errors more often (Schaul et al. 2016)."""
    priority_alpha: Fraction = 0.6
    """Exponent α of the priorities; 0 samples uniformly."""
    priority_beta: Fraction = 0.4
    """Initial exponent β of the bias correction; it rises to 1 over the training steps."""
    overlap_update: bool = False
    """Update on another core while acting with the weights from one update ago: faster and just as
    reproducible, but a slightly different algorithm. Needs a network of dense layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prioritized and self.overlap_update:
            raise ValueError(
                "An update must sample by the priorities that the last update assigned. "
                "Received: prioritized and overlap_update, which is one update behind. Leave one "
                "of them out."
            )


describe_fields(sys.modules[__name__])


OF_NETWORK = {"net_arch", "activation", "ortho_init", "share_trunk", "log_std_init", "dueling"}
"""Settings of the default network, which a network of the user's replaces."""
OF_OPTIMIZER = {"optimizer", "learning_rate", "lr_schedule", "max_grad_norm", "rms_prop_eps"}
"""Settings of the default optimizer, which an optimizer of the user's replaces."""


def used_settings(
    config: ActorCriticConfig | OffPolicyConfig,
    own_network: bool = False,
    own_optimizer: bool = False,
    own_loss: bool = False,
) -> dict[str, object]:
    """The settings by name, without those that the user's network, optimizer or loss replaces."""
    unused = (OF_NETWORK if own_network else set()) | (OF_OPTIMIZER if own_optimizer else set())
    unused |= config.of_loss if own_loss else set()
    return {name: value for name, value in asdict(config).items() if name not in unused}


def hidden_widths(config: ActorCriticConfig | OffPolicyConfig, is_image: bool) -> tuple[int, ...]:
    """Widths of the hidden layers: `net_arch`.

    As in Stable-Baselines3, some algorithms have no hidden layers after a single image if
    `net_arch` is the default.
    """
    is_default = config.net_arch == type(config)().net_arch
    has_none = is_image and is_default and not config.layers_after_images
    return () if has_none else config.net_arch
