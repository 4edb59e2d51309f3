"""Acting without a TensorFlow call: a dense network mirrored in NumPy, and sampling of actions.

Policy parameters y `[N, P]` come from the network; *raw* actions are what is stored and scored,
*executed* actions what the environment receives.

    Discrete, MultiDiscrete   logits of every component; raw: indices, int32 [N, components]
    MultiBinary               a logit per bit; raw: 0 or 1, int32 [N, bits]
    Box                       means and log standard deviations; raw: float32 [N, dimensions]

No TensorFlow in this file, so that a rollout worker never pays for it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

Array = np.ndarray


class Categorical:
    """One categorical distribution per component of a discrete space.

    A bit of a MultiBinary space is a component with the logits (0, y).
    """

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> None:
        self.is_binary = isinstance(space, spaces.MultiBinary)
        sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        self.sizes = np.ravel(np.full(space.shape, 2) if self.is_binary else sizes).tolist()
        self.size = len(self.sizes) if self.is_binary else sum(self.sizes)
        self.raw_shape, self.raw_dtype = (len(self.sizes),), np.int32
        self._cuts = np.cumsum(self.sizes)[:-1].tolist()
        self._space, self._start = space, getattr(space, "start", 0)

    def sample(self, parameters: Array, generator: np.random.Generator) -> Array:
        """Argmax of logits plus Gumbel noise, −log of an exponential (Gumbel 1954)."""
        logits = self._logits(parameters)
        return self._most_likely(logits - np.log(generator.standard_exponential(logits.shape)))

    def mode(self, parameters: Array) -> Array:
        """The most likely index of every component, int32 `[N, components]`."""
        return self._most_likely(self._logits(parameters))

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`."""
        actions = raw.reshape(len(raw), *self._space.shape)
        return actions.astype(self._space.dtype) + self._start

    def _logits(self, parameters: Array) -> Array:
        if not self.is_binary:
            return parameters
        return np.stack([np.zeros_like(parameters), parameters], 2).reshape(len(parameters), -1)

    def _most_likely(self, logits: Array) -> Array:
        if not self._cuts:
            return logits.argmax(1)[:, None].astype(np.int32)
        parts = np.split(logits, self._cuts, axis=1)
        return np.stack([part.argmax(1) for part in parts], 1).astype(np.int32)


class DiagonalGaussian:
    """Independent Gaussians of a Box space; what is executed is clipped to its bounds."""

    def __init__(self, space: spaces.Box) -> None:
        dimensions = math.prod(space.shape)
        self.size, self.raw_shape, self.raw_dtype = 2 * dimensions, (dimensions,), np.float32
        self._space = space

    def sample(self, parameters: Array, generator: np.random.Generator) -> Array:
        """Mean plus standard deviation times standard normal noise."""
        mean, log_std = np.split(parameters, 2, axis=1)
        return mean + np.exp(log_std) * generator.standard_normal(mean.shape, np.float32)

    def mode(self, parameters: Array) -> Array:
        """The mean."""
        return parameters[:, : self.raw_shape[0]]

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`, clipped to its bounds."""
        actions = raw.reshape(len(raw), *self._space.shape)
        return np.clip(actions, self._space.low, self._space.high).astype(self._space.dtype)


HostDistribution = Categorical | DiagonalGaussian
Network = Callable[[Array], tuple[Array, Array]]
"""Observations `[N, ...]` to policy parameters `[N, P]` and values `[N]`."""


class Layer(NamedTuple):
    """One operation of a mirrored network: `slots[output] = kind(slots[inputs], weights)`."""

    kind: str  # flatten, dense, activation, concatenate, log_std
    inputs: tuple[int, ...]
    output: int
    weights: tuple[int, ...] = ()
    activation: str = "linear"


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
}


class HostNetwork:
    """A dense actor-critic network in NumPy: observations `[N, ...]` to `(y [N, P], v [N])`.

    Attributes:
        variables: The Keras variables it mirrors.
        weights: Their values.
    """

    def __init__(
        self, layers: Sequence[Layer], outputs: tuple[int, int], variables: Sequence[Any]
    ) -> None:
        self._layers, self._outputs = list(layers), outputs
        self.variables = list(variables)
        self.refresh()

    def refresh(self) -> None:
        """Reads the Keras variables, after somebody set them."""
        self.weights: list[Array] = [variable.numpy() for variable in self.variables]

    def __call__(self, observations: Array) -> tuple[Array, Array]:
        """Policy parameters and values under `self.weights`."""
        slots: dict[int, Any] = {0: observations}
        for layer in self._layers:
            x = slots[layer.inputs[0]]
            if layer.kind == "dense":
                x = x @ self.weights[layer.weights[0]]
                if len(layer.weights) > 1:
                    x += self.weights[layer.weights[1]]
            elif layer.kind == "flatten":
                x = x.reshape(len(x), -1)
            elif layer.kind == "concatenate":
                x = np.concatenate([slots[index] for index in layer.inputs], axis=-1)
            elif layer.kind == "log_std":
                row = self.weights[layer.weights[0]]
                x = np.concatenate([x, np.broadcast_to(row, (len(x), len(row)))], axis=1)
            slots[layer.output] = ACTIVATIONS[layer.activation](x)
        policy, value = (slots[index] for index in self._outputs)
        return policy, value.reshape(len(value))


class Policy:
    """What acts: an actor-critic network's function, the action distribution and a generator.

    Attributes:
        generator: Samples the actions.
    """

    def __init__(self, distribution: HostDistribution, network: Network, seed: int) -> None:
        self._distribution, self._network = distribution, network
        self.generator = np.random.default_rng(seed)

    def act(self, observations: Array, deterministic: bool) -> Array:
        """Executed actions for float32 observations `[N, *shape]`."""
        return self.choose(self._network(observations)[0], deterministic)

    def choose(self, parameters: Array, deterministic: bool) -> Array:
        """Executed actions for policy parameters `[N, P]`."""
        if deterministic:
            return self._distribution.execute(self._distribution.mode(parameters))
        return self._distribution.execute(self._distribution.sample(parameters, self.generator))

    def sample(self, observations: Array) -> tuple[Array, Array, Array]:
        """Executed actions, raw actions and values, for float32 observations `[N, *shape]`."""
        parameters, values = self._network(observations)
        raw = self._distribution.sample(parameters, self.generator)
        return self._distribution.execute(raw), raw, values
