"""Acting without a TensorFlow call: a dense network mirrored in NumPy, and sampling of actions.

Policy parameters y `[N, P]` come from the network; *raw* actions are what is stored and scored,
*executed* actions what the environment receives.

    Discrete, MultiDiscrete   logits of every component; raw: indices int32 [N, components]
    MultiBinary               logits; raw: 0 or 1, float32 [N, bits]
    Box                       means and log standard deviations; raw: float32 [N, dimensions]

No TensorFlow in this file, so that a rollout worker never pays for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

Array = np.ndarray


class Categorical:
    """One categorical distribution per component of a Discrete or MultiDiscrete space."""

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        discrete = isinstance(space, spaces.Discrete)
        self.sizes = [int(n) for n in ([space.n] if discrete else space.nvec.ravel())]
        self.cuts = np.cumsum(self.sizes)[:-1].tolist()
        self.size, self.raw_shape, self.raw_dtype = sum(self.sizes), (len(self.sizes),), np.int32
        self._start, self._shape, self._dtype = space.start, space.shape, space.dtype

    def sample(self, parameters: Array, generator: np.random.Generator) -> Array:
        """Argmax of logits plus Gumbel noise, −log of an exponential (Gumbel 1954)."""
        exponential = generator.standard_exponential(parameters.shape, np.float32)
        return self.mode(parameters - np.log(exponential))

    def mode(self, parameters: Array) -> Array:
        """The most likely index of every component, int32 `[N, components]`."""
        parts = np.split(parameters, self.cuts, axis=1) if self.cuts else [parameters]
        return np.stack([part.argmax(1) for part in parts], 1).astype(np.int32)

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`."""
        return raw.reshape(len(raw), *self._shape).astype(self._dtype) + self._start


class Bernoulli:
    """Independent bits of a MultiBinary space."""

    def __init__(self, space: spaces.MultiBinary) -> None:
        self.size = math.prod(space.shape)
        self.raw_shape, self.raw_dtype = (self.size,), np.float32
        self._shape, self._dtype = space.shape, space.dtype

    def sample(self, parameters: Array, generator: np.random.Generator) -> Array:
        """1 where the logit exceeds logistic noise."""
        return (parameters > generator.logistic(size=parameters.shape)).astype(np.float32)

    def mode(self, parameters: Array) -> Array:
        """1 where it is more likely than 0."""
        return (parameters > 0).astype(np.float32)

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`."""
        return raw.reshape(len(raw), *self._shape).astype(self._dtype)


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
        shaped = raw.reshape(len(raw), *self._space.shape)
        clipped = np.clip(shaped, self._space.low, self._space.high)
        return clipped.astype(self._space.dtype)


HostDistribution = Categorical | Bernoulli | DiagonalGaussian


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
        self.variables, self.weights = list(variables), []
        self.refresh()

    def refresh(self) -> None:
        """Reads the Keras variables, after somebody set them."""
        self.weights = [variable.numpy() for variable in self.variables]

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

    def __init__(
        self,
        observation_space: spaces.Box,
        distribution: HostDistribution,
        network: Callable[[Array], tuple[Array, Array]],
        seed: int,
    ) -> None:
        self._space, self._distribution, self._network = observation_space, distribution, network
        self.generator = np.random.default_rng(seed)

    def act(self, observations: Array, deterministic: bool) -> Array:
        """Executed actions for observations `[N, *shape]`, or one for `[*shape]`."""
        batch, is_single = self._batch(observations)
        parameters, _ = self._network(batch)
        if deterministic:
            raw = self._distribution.mode(parameters)
        else:
            raw = self._distribution.sample(parameters, self.generator)
        actions = self._distribution.execute(raw)
        return actions[0] if is_single else actions

    def value(self, observations: Array) -> Array:
        """Values `[N]` of observations `[N, *shape]`, or `[]` of one."""
        batch, is_single = self._batch(observations)
        values = self._network(batch)[1]
        return values[0] if is_single else values

    def sample(self, observations: Array) -> tuple[Array, Array, Array]:
        """Executed actions, raw actions and values, for float32 observations `[N, *shape]`."""
        parameters, values = self._network(observations)
        raw = self._distribution.sample(parameters, self.generator)
        return self._distribution.execute(raw), raw, values

    def _batch(self, observations: Array) -> tuple[Array, bool]:
        received, space = np.asarray(observations), self._space
        is_single = received.shape == space.shape
        fits = is_single or received.shape[1:] == space.shape
        if not fits or (received.dtype.kind == "f") != (space.dtype.kind == "f"):
            raise ValueError(
                f"Observations must be {space.dtype} of shape {list(space.shape)}, or one more "
                f"axis in front. Received: {received.dtype} of shape {list(received.shape)}. "
                "Reshape them, or cast them with .astype."
            )
        return (received[None] if is_single else received).astype(np.float32), is_single
