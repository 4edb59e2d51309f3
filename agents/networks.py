"""From spaces to Keras models, and from Keras models to functions that act.

An actor-critic network is any Keras model with two outputs, policy parameters `[B, P]` (the
layout is in `host.py`) and values `[B, 1]` or `[B]`. The default ones are built no other way.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from ..training.compiled import Compiled
from .config import A2CConfig
from .host import ACTIVATIONS, DiagonalGaussian, HostDistribution, HostNetwork, Layer

MOST_MIRRORED = 300_000  # parameters; two trunks of 512 × 512 are about even


class LogStd(keras.layers.Layer):
    """Appends a trained log standard deviation, the same for every state, to the means `[B, d]`."""

    def __init__(self, initial: float = 0.0, **keywords) -> None:
        super().__init__(**keywords)
        self.initial = initial

    def build(self, input_shape) -> None:
        """Makes the one weight, `[d]`."""
        self.log_std = self.add_weight(
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial),
            name="log_std",
        )

    def call(self, mean):
        """Means and log standard deviations, `[B, 2d]`."""
        log_std = keras.ops.broadcast_to(self.log_std, keras.ops.shape(mean))
        return keras.ops.concatenate([mean, log_std], axis=-1)

    def compute_output_shape(self, input_shape):
        """`[B, 2d]`."""
        return (*input_shape[:-1], 2 * input_shape[-1])


def actor_critic(
    observation_space: spaces.Box,
    actions: HostDistribution,
    config: A2CConfig,
    seed: int,
) -> keras.Model:
    """The default network: dense layers, orthogonal weights, zero biases.

    Gains are √2 in hidden layers, 0.01 in the policy head and 1 in the value head.

    Source: the initialisation of Engstrom et al. 2020, "Implementation Matters", section 3.
    """
    seeds = iter(np.random.SeedSequence(seed).generate_state(2 * len(config.net_arch) + 2).tolist())

    def dense(x, width: int, gain: float, name: str, activation: str | None = None):
        initializer = keras.initializers.Orthogonal(gain, seed=next(seeds))
        return keras.layers.Dense(width, activation, kernel_initializer=initializer, name=name)(x)

    def trunk(x, name: str):
        for index, width in enumerate(config.net_arch):
            x = dense(x, width, math.sqrt(2.0), f"{name}_{index}", config.activation)
        return x

    observations = keras.Input(observation_space.shape, name="observations")
    flat = keras.layers.Flatten(name="flatten")(observations)
    policy_trunk = trunk(flat, "trunk" if config.share_trunk else "policy_trunk")
    value_trunk = policy_trunk if config.share_trunk else trunk(flat, "value_trunk")
    is_gaussian = isinstance(actions, DiagonalGaussian)
    width = actions.raw_shape[0] if is_gaussian else actions.size
    policy = dense(policy_trunk, width, 0.01, "policy")
    if is_gaussian:
        policy = LogStd(config.log_std_init, name="log_std")(policy)
    value = dense(value_trunk, 1, 1.0, "value")
    return keras.Model(observations, (policy, value), name="actor_critic")


def check_actor_critic(
    network: keras.Model, observation_space: spaces.Box, actions: HostDistribution
) -> None:
    """Checks a network against the spaces.

    Raises:
        ValueError: Its outputs for a batch of observations are not (`[B, P]`, `[B, 1]` or `[B]`).
    """
    batch = keras.KerasTensor((3, *observation_space.shape), "float32")
    try:
        outputs = network.compute_output_spec(batch)
        shapes = [tuple(output.shape) for output in keras.tree.flatten(outputs)]
    except Exception as error:  # whatever a user's layers raise
        raise ValueError(
            f"A network must accept observations [B, {', '.join(map(str, batch.shape[1:]))}] and "
            f"return two tensors. Received: {network.name!r}, which fails on them: {error}. "
            "Build it from keras.Input(observation_space.shape)."
        ) from error
    is_pair = isinstance(outputs, list | tuple) and len(shapes) == 2
    if not is_pair or shapes[0] != (3, actions.size) or shapes[1] not in ((3, 1), (3,)):
        raise ValueError(
            f"A network must have two outputs, policy parameters [B, {actions.size}] and values "
            f"[B, 1]. Received: {network.name!r} with outputs of shape "
            f"{[('B', *shape[1:]) for shape in shapes]}. "
            f"Give its policy head {actions.size} units and its value head 1."
        )


def acting_network(network: keras.Model) -> HostNetwork | CompiledNetwork:
    """A network as a function of NumPy arrays: float32 `[N, ...]` to `(y [N, P], v [N])`.

    Networks of dense layers are mirrored in NumPy and need no TensorFlow call, up to the size from
    where the call costs less than NumPy's single thread.
    """
    mirror = _host_network(network) if network.count_params() <= MOST_MIRRORED else None
    return mirror or CompiledNetwork(network)


def check_overlap(overlaps: bool, acting: HostNetwork | CompiledNetwork) -> None:
    """Refuses to update beside the acting where acting reads the variables that are updated.

    Raises:
        ValueError: The network is not mirrored in NumPy.
    """
    if overlaps and isinstance(acting, CompiledNetwork):
        raise ValueError(
            "overlap_update needs a network that NumPy mirrors: small dense layers. Received: one "
            "that acts through TensorFlow. Leave overlap_update out."
        )


def _host_network(network: keras.Model) -> HostNetwork | None:
    if not isinstance(network, keras.Model) or not hasattr(network, "operations"):
        return None
    slots = {id(network.inputs[0]): 0}
    layers: list[Layer] = []
    variables: list[Any] = []
    for operation in network.operations[1:]:
        nodes = operation._inbound_nodes
        layer = _mirror(operation, nodes[0], slots, len(variables)) if len(nodes) == 1 else None
        if layer is None or len(network.inputs) != 1:
            return None
        slots[id(nodes[0].output_tensors[0])] = layer.output
        layers.append(layer)
        variables.extend(operation.variables)
    if any(id(output) not in slots for output in network.outputs):
        return None
    policy, value = (slots[id(output)] for output in network.outputs)
    return HostNetwork(layers, (policy, value), variables)


def _mirror(operation, node, slots: dict[int, int], first: int) -> Layer | None:
    inputs = tuple(slots.get(id(tensor), -1) for tensor in node.input_tensors)
    if -1 in inputs or any(v.dtype != "float32" for v in getattr(operation, "variables", [])):
        return None
    output, weights = len(slots), tuple(range(first, first + len(operation.variables)))
    name = getattr(getattr(operation, "activation", None), "__name__", "linear")
    if name not in ACTIVATIONS:
        return None
    kinds = {
        keras.layers.Flatten: "flatten",
        keras.layers.Activation: "activation",
        keras.layers.Concatenate: "concatenate",
        LogStd: "log_std",
    }
    kind = kinds.get(type(operation))
    if type(operation) is keras.layers.Dense and not operation.lora_enabled:
        kind = "dense" if len(node.input_tensors[0].shape) == 2 else None
    if kind == "concatenate" and operation.axis != -1:
        kind = None
    return None if kind is None else Layer(kind, inputs, output, weights, name)


class CompiledNetwork:
    """Acting for networks that NumPy cannot mirror: one compiled call per batch size.

    Other sizes than the first are filled up to one that is compiled, or to a power of two.
    """

    def __init__(self, network: keras.Model) -> None:
        self._network = network
        self._calls: dict[int, Compiled] = {}
        self.variables: list[Any] = []  # it reads the network's own
        self.weights: list[Any] = []

    def refresh(self) -> None:
        """Does nothing: the compiled calls read the network's variables themselves."""

    def __call__(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Policy parameters `[N, P]` and values `[N]`."""
        count = len(observations)
        new = 1 << (count - 1).bit_length() if self._calls else count
        size = min((size for size in self._calls if size >= count), default=new)
        shape = (size, *observations.shape[1:])
        if size not in self._calls:
            signature = (tf.TensorSpec(shape, tf.float32),)
            self._calls[size] = Compiled(self._forward, signature, jit_compile=False)
        if size > count:
            filled = np.zeros(shape, np.float32)
            filled[:count] = observations
            observations = filled
        outputs = self._calls[size](observations).numpy().reshape(size, -1)[:count]
        return outputs[:, :-1], outputs[:, -1]

    def _forward(self, observations: tf.Tensor) -> tf.Tensor:
        policy, value = self._network(observations, training=False)
        value = tf.reshape(value, (observations.shape[0], 1))
        return tf.concat([tf.cast(policy, tf.float32), tf.cast(value, tf.float32)], axis=1)


def checked_device(device: str) -> str:
    """The name of a device that TensorFlow sees.

    Raises:
        ValueError: It sees none of that kind.
    """
    known = sorted({found.device_type.lower() for found in tf.config.list_logical_devices()})
    if device.partition(":")[0].lower() not in known:
        raise ValueError(
            f"The device must be one that TensorFlow sees: {', '.join(known)}. "
            f"Received: device={device!r}. Leave it out for the cpu."
        )
    return device if ":" in device else f"{device}:0"


def make_optimizer(config: A2CConfig) -> keras.optimizers.Optimizer:
    """RMSprop or Adam as the config says, clipping by global norm."""
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
