"""From spaces to Keras models.

An actor-critic network is any Keras model with two outputs, policy parameters `[B, P]` (the
layout is in `acting/distributions.py`) and values `[B, 1]` or `[B]`. The default ones are built
here. The network of DQN is in `value_networks.py`, those of SAC and TD3 are in `critics.py`.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ...training.experience.normalize import Normalizer
from ..acting.distributions import Categorical, DiagonalGaussian
from ..acting.host import SDE_EPSILON
from ..acting.observations import Encoder, image_axes, image_bounds
from ..configs.config import ActorCriticConfig, OffPolicyConfig, hidden_widths
from .memoryless import check_memoryless

if TYPE_CHECKING:
    from gymnasium import spaces

    from ..acting.protocols import ActionDistribution
    from ..configs.sac import SACConfig

Tensor: TypeAlias = Any
"""A Keras tensor, or a symbolic one while a model is built."""
Shape: TypeAlias = tuple[Any, ...]
"""The lengths of the axes; None where a length is open, as that of the batch."""

IMAGE_FEATURES = 512  # of a single image


class LogStd(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Appends a trained log standard deviation, the same for every state, to the means `[B, d]`."""

    def __init__(self, initial: float = 0.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.initial = initial

    def build(self, input_shape: Shape) -> None:
        """Creates the one weight, `[d]`."""
        self.log_std = self.add_weight(
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial),
            name="log_std",
        )

    def call(self, mean: Tensor) -> Tensor:
        """Means and log standard deviations, `[B, 2d]`."""
        log_std = keras.ops.broadcast_to(self.log_std, keras.ops.shape(mean))
        return keras.ops.concatenate([mean, log_std], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`[B, 2d]`."""
        return (*input_shape[:-1], 2 * input_shape[-1])


class StateLogStd(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Appends to the means `[B, d]` the parameters of generalised state-dependent exploration.

        y = [μ, log σ(s), φ(s)],   σ(s)² = Σⱼ φⱼ(s)²·exp(2·log_std[j, ·]) + 1e-6

    φ are the features `[B, L]` of the last hidden layer; no gradient goes through them into σ.
    Source: Raffin, Kober & Stulp 2022, "Smooth Exploration for Robotic RL", eq. 8.
    """

    def __init__(self, initial: float = 0.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.initial = initial

    def build(self, mean_shape: Shape, features_shape: Shape) -> None:
        """Creates the one weight, `[L, d]`."""
        self.log_std = self.add_weight(
            shape=(features_shape[-1], mean_shape[-1]),
            initializer=keras.initializers.Constant(self.initial),
            name="log_std",
        )

    def call(self, mean: Tensor, features: Tensor) -> Tensor:
        """Means, log standard deviations and features, `[B, 2d + L]`."""
        ops = keras.ops
        features = ops.stop_gradient(features)
        variance = ops.matmul(ops.square(features), ops.exp(2.0 * self.log_std)) + SDE_EPSILON
        return ops.concatenate([mean, 0.5 * ops.log(variance), features], axis=-1)

    def compute_output_shape(self, mean_shape: Shape, features_shape: Shape) -> Shape:
        """`[B, 2d + L]`."""
        return (*mean_shape[:-1], 2 * mean_shape[-1] + features_shape[-1])


def actor_critic(
    encoder: Encoder, actions: ActionDistribution, config: ActorCriticConfig, seed: int
) -> keras.Model:
    """The default network: dense layers, orthogonal weights, zero biases.

    Gains are √2 in hidden layers, 0.01 in the policy head and 1 in the value head. Images go
    through convolutions that policy and value share. After a single image come the heads, or the
    hidden layers if `net_arch` is not the default. In a Dict or Tuple each image has its own
    convolutions, and the hidden layers see all entries.

    Source: the initialisation of Engstrom et al. 2020, "Implementation Matters", section 3.
    """
    layers = Layers(seed, is_orthogonal=config.ortho_init)
    observations = keras.Input(encoder.shape, name="observations", dtype=encoder.dtype)
    features = features_of(observations, encoder, layers)
    name = "trunk" if config.share_trunk else "policy_trunk"
    widths = hidden_widths(config, encoder.is_image)
    policy_trunk = layers.trunk(features, config, name, widths)
    value_trunk = policy_trunk
    if not config.share_trunk:
        value_trunk = layers.trunk(features, config, "value_trunk", widths)
    policy = policy_head(actions, policy_trunk, config, layers)
    value = layers.dense(value_trunk, 1, "value", gain=1.0)
    return keras.Model(observations, (policy, value), name="actor_critic")


@singledispatch
def policy_head(
    actions: ActionDistribution, trunk: Tensor, config: ActorCriticConfig, layers: Layers
) -> Tensor:
    """The policy parameters y `[B, P]` after the hidden layers, registered by the class of actions.

    Raises:
        TypeError: Nothing is registered for the class.
    """
    raise TypeError(
        "An action distribution must have a policy head for the default network. Received: "
        f"{type(actions).__name__}, which has none. Register one with @policy_head.register."
    )


@policy_head.register(Categorical)
def _logits(
    actions: Categorical, trunk: Tensor, config: ActorCriticConfig, layers: Layers
) -> Tensor:
    return layers.dense(trunk, actions.size, "policy", gain=0.01)


@policy_head.register(DiagonalGaussian)
def _means_and_log_stds(
    actions: DiagonalGaussian, trunk: Tensor, config: ActorCriticConfig, layers: Layers
) -> Tensor:
    means = layers.dense(trunk, actions.raw_shape[0], "policy", gain=0.01)
    if config.use_sde:
        return StateLogStd(config.log_std_init, name="log_std")(means, trunk)
    return LogStd(config.log_std_init, name="log_std")(means)


def sde_features(
    config: ActorCriticConfig | SACConfig, own_network: bool, is_image: bool = False
) -> int:
    """L, the number of features of state-dependent exploration; 0 without it.

    Args:
        config: The settings.
        own_network: Whether the user passed a network.
        is_image: Whether the observation is a single image.

    Raises:
        ValueError: The network has no such features, or is the user's.
    """
    if not config.use_sde:
        return 0
    if own_network:
        raise ValueError(
            "use_sde explores with the features of the default network. Received: a network "
            "of your own. Leave out one of them."
        )
    widths = hidden_widths(config, is_image)
    if widths or is_image:
        return widths[-1] if widths else IMAGE_FEATURES
    raise ValueError(
        "use_sde needs a hidden layer, whose features it explores with. Received: net_arch=(). "
        "Pass net_arch=(64,) or more."
    )


class Layers:
    """Creates layers with initial weights from seeds of their own.

    Weights are orthogonal and biases 0, or both are uniform within ±1/√(inputs), as PyTorch's.
    """

    def __init__(self, seed: int, is_orthogonal: bool = True) -> None:
        self._seed, self._count, self._is_orthogonal = seed, 0, is_orthogonal

    def trunk(
        self,
        x: Tensor,
        config: ActorCriticConfig | OffPolicyConfig,
        name: str,
        widths: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Hidden layers of `net_arch`, or of the given widths, on x `[B, …]`."""
        for index, width in enumerate(config.net_arch if widths is None else widths):
            x = self.dense(x, width, f"{name}_{index}", activation=config.activation)
        return x

    def dense(
        self,
        x: Tensor,
        width: int,
        name: str,
        gain: float = math.sqrt(2.0),
        activation: str | None = None,
    ) -> Tensor:
        """A dense layer on x `[B, …]`."""
        weights = self._initializer(gain, x.shape[-1])
        biases = "zeros" if self._is_orthogonal else self._initializer(gain, x.shape[-1])
        return keras.layers.Dense(
            width, activation, kernel_initializer=weights, bias_initializer=biases, name=name
        )(x)

    def convolution(
        self, x: Tensor, filters: int, size: int, stride: int, name: str, padding: str
    ) -> Tensor:
        """A convolution of x `[B, height, width, channels]`."""
        weights = self._initializer(math.sqrt(2.0), size * size * x.shape[-1])
        return keras.layers.Conv2D(
            filters, size, stride, padding, activation="relu", kernel_initializer=weights, name=name
        )(x)

    def _initializer(self, gain: float, inputs: int) -> keras.initializers.Initializer:
        self._count += 1
        # The states of a SeedSequence do not depend on how many of them are generated.
        seed = int(np.random.SeedSequence(self._seed).generate_state(self._count)[-1])
        if self._is_orthogonal:
            return keras.initializers.Orthogonal(gain, seed=seed)
        limit = 1.0 / math.sqrt(inputs)
        return keras.initializers.RandomUniform(-limit, limit, seed=seed)


def features_of(observations: Tensor, encoder: Encoder, layers: Layers) -> Tensor:
    """The flat vector `[B, F]` that the hidden layers see; of a single image its features."""
    first = encoder.entries[0].image
    if encoder.is_image and first is not None:
        return convolutions(observations, first, IMAGE_FEATURES, "image", layers)
    if not encoder.has_images:
        return keras.layers.Flatten(name="flatten")(observations)
    parts: list[Tensor] = []
    begin = 0
    for entry in encoder.entries:
        part = observations[:, begin : begin + entry.size]
        begin += entry.size
        if (space := entry.image) is not None:
            name = f"image_{len(parts)}"
            image = keras.layers.Reshape(space.shape, name=f"{name}_shape")(part)
            part = convolutions(image, space, 256, name, layers)
        parts.append(part)
    return keras.layers.Concatenate(name="entries")(parts) if len(parts) > 1 else parts[0]


def convolutions(image: Tensor, space: spaces.Box, width: int, name: str, layers: Layers) -> Tensor:
    """Features `[B, width]` of images, scaled to [0, 1] by their bounds, channels last.

    From 36 × 36 on, the network of Mnih et al. 2015 ("Human-level control", methods): 32 filters
    of 8 × 8 with stride 4, 64 of 4 × 4 with stride 2, 64 of 3 × 3 with stride 1. Smaller images:
    32 and 64 filters of 3 × 3, with strides 1 and 2.
    """
    axes = image_axes(space) or ()
    low, high = image_bounds(space)
    scale = 1 / (high - low)
    x = keras.layers.Rescaling(scale, -low * scale, name=f"{name}_scale")(image)
    if axes != tuple(range(len(axes))):
        x = keras.layers.Permute([axis + 1 for axis in axes], name=f"{name}_axes")(x)
    height, width_, *_ = sides = [space.shape[axis] for axis in axes]
    if len(sides) != 3:
        x = keras.layers.Reshape((height, width_, -1), name=f"{name}_channels")(x)
    if min(height, width_) >= 36:
        shapes, padding = [(32, 8, 4), (64, 4, 2), (64, 3, 1)], "valid"
    else:
        shapes, padding = [(32, 3, 1), (64, 3, 2)], "same"
    for index, shape in enumerate(shapes):
        x = layers.convolution(x, *shape, name=f"{name}_{index}", padding=padding)
    x = keras.layers.Flatten(name=f"{name}_flat")(x)
    return layers.dense(x, width, f"{name}_features", activation="relu")


def check_actor_critic(
    network: keras.Model, encoder: Encoder, actions: ActionDistribution, more: bool = False
) -> None:
    """Checks a network against the spaces; a loss of the user's may need `more` outputs.

    Raises:
        ValueError: The outputs for a batch of observations are not `[B, P]` and `[B, 1]` or `[B]`.
    """
    check_memoryless(network)
    batch = keras.KerasTensor((3, *encoder.shape), np.dtype(encoder.dtype).name)
    try:
        outputs = network.compute_output_spec(batch)
        shapes = [tuple(output.shape) for output in keras.tree.flatten(outputs)]
    except Exception as error:  # whatever a user's layers raise
        raise ValueError(
            f"A network must accept observations [B, {', '.join(map(str, batch.shape[1:]))}] and "
            f"return two tensors. Received: {network.name!r}, which fails on them: {error}. "
            f"Build it from {encoder.input_in_words}."
        ) from error
    has_both = isinstance(outputs, list | tuple) and len(shapes) >= 2
    fits = has_both and shapes[0] == (3, actions.size) and shapes[1] in ((3, 1), (3,))
    if not fits or (len(shapes) > 2 and not more):
        raise ValueError(
            f"A network must have two outputs, policy parameters [B, {actions.size}] and values "
            f"[B, 1]. Received: {network.name!r} with outputs of shape "
            f"{[('B', *shape[1:]) for shape in shapes]}. "
            f"Give its policy head {actions.size} units and its value head 1."
        )


def checked_device(device: str) -> str:
    """The full name of a device that TensorFlow sees.

    Raises:
        ValueError: TensorFlow sees no such device.
    """
    known = sorted({found.device_type.lower() for found in tf.config.list_logical_devices()})
    if device.partition(":")[0].lower() not in known:
        raise ValueError(
            f"The device must be one that TensorFlow sees: {', '.join(known)}. "
            f"Received: device={device!r}. Leave it out for the cpu."
        )
    return device if ":" in device else f"{device}:0"


def make_optimizer(config: ActorCriticConfig) -> keras.optimizers.Optimizer:
    """RMSprop or Adam, as the config says, with gradients clipped by their global norm."""
    if config.optimizer == "adam":
        return keras.optimizers.Adam(
            config.learning_rate, epsilon=1e-5, global_clipnorm=config.max_grad_norm
        )
    return keras.optimizers.RMSprop(
        config.learning_rate,
        rho=0.99,
        epsilon=config.rms_prop_eps**2,  # Keras: inside the square root
        global_clipnorm=config.max_grad_norm,
    )


def make_normalizer(config: ActorCriticConfig, encoder: Encoder) -> Normalizer | None:
    """The normaliser that the config asks for, or None."""
    if not (config.normalize_observations or config.normalize_rewards):
        return None
    which = encoder.normalizable if config.normalize_observations else None
    return Normalizer(which, config.normalize_rewards, config.gamma)
