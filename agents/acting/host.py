"""Acting without a TensorFlow call: a dense network mirrored in NumPy, and a policy on it.

No TensorFlow in this file, so that a rollout worker never pays for it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...training.experience.policy_state import PolicyState
from .protocols import ActionDistribution

Array = np.ndarray


class Network(Protocol):
    """A network as acting sees it: what it does in a step, and what it remembers between them.

    Attributes:
        variables: The Keras variables that it mirrors; none if it reads the network's own.
        weights: Their values.
    """

    variables: list[Any]
    weights: list[Array]

    def __call__(self, observations: Array) -> tuple[Array, ...]:
        """The outputs at the beginning of an episode."""

    def reader(self, variable: Any) -> Callable[[], Array]:
        """What reads a variable of the network as acting sees it."""

    def refresh(self) -> None:
        """Reads the variables, after somebody set them."""

    def initial_state(self, count: int) -> PolicyState:
        """What it remembers at the beginning of an episode, for so many environments."""

    def step(
        self, observations: Array, state: PolicyState
    ) -> tuple[tuple[Array, ...], PolicyState]:
        """Outputs (policy parameters `[N, P]`, values `[N]`, …), and what it remembers then."""


class Memoryless:
    """A network that remembers nothing: each output is a function of one observation.

    Observations `[N, ...]` to policy parameters `[N, P]` and values `[N]`.
    """

    def __call__(self, observations: Array) -> tuple[Array, ...]:
        """The outputs."""
        raise NotImplementedError

    def initial_state(self, count: int) -> PolicyState:
        """Nothing."""
        return ()

    def step(
        self, observations: Array, state: PolicyState
    ) -> tuple[tuple[Array, ...], PolicyState]:
        """The outputs, and nothing again."""
        return self(observations), state


class Layer(NamedTuple):
    """One operation of a mirrored network: `slots[output] = kind(slots[inputs], weights)`."""

    kind: str  # flatten, dense, activation, concatenate, or one of LAYERS
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


SDE_EPSILON = np.float32(1e-6)  # added to the variance of state-dependent exploration


def concatenate(inputs: Sequence[Array], _: Sequence[Array]) -> Array:
    """Inputs side by side."""
    return np.concatenate(inputs, axis=-1)


def log_std(inputs: Sequence[Array], weights: Sequence[Array]) -> Array:
    """Means `[N, d]`, and behind them log standard deviations that do not depend on them."""
    (mean,), (row,) = inputs, weights
    return np.concatenate([mean, np.broadcast_to(row, mean.shape)], axis=1)


def state_log_std(inputs: Sequence[Array], weights: Sequence[Array]) -> Array:
    """Means `[N, d]`, log standard deviations of these states, and the features `[N, L]`."""
    (mean, features), (matrix,) = inputs, weights
    variance = np.square(features) @ np.exp(2.0 * matrix) + SDE_EPSILON
    return np.concatenate([mean, 0.5 * np.log(variance), features], axis=1)


def dueling(inputs: Sequence[Array], _: Sequence[Array]) -> Array:
    """V + A − mean(A), of `[N, 1]` and `[N, A]`."""
    value, advantages = inputs
    q: Array = value + advantages - advantages.mean(axis=1, keepdims=True)
    return q


LAYERS: dict[str, Callable[[Sequence[Array], Sequence[Array]], Array]] = {
    "concatenate": concatenate,
    "log_std": log_std,
    "state_log_std": state_log_std,
    "dueling": dueling,
}
"""What a kind of layer computes of its inputs `[N, …]` and its weights."""


class HostNetwork(Memoryless):
    """A dense network in NumPy: observations `[N, ...]` to `(y [N, P], v [N], …)`, its outputs.

    Attributes:
        variables: The Keras variables it mirrors.
        weights: Their values.
    """

    def __init__(
        self, layers: Sequence[Layer], outputs: tuple[int, ...], variables: Sequence[Any]
    ) -> None:
        self._layers, self._outputs = list(layers), outputs
        self.variables = list(variables)
        self.refresh()

    def reader(self, variable: Any) -> Callable[[], Array]:
        """What reads a variable of the network as acting sees it."""
        index = [id(each) for each in self.variables].index(id(variable))
        return lambda: self.weights[index]

    def refresh(self) -> None:
        """Reads the Keras variables, after somebody set them."""
        self.weights: list[Array] = [variable.numpy() for variable in self.variables]

    def __call__(self, observations: Array) -> tuple[Array, ...]:
        """Policy parameters and values under `self.weights`."""
        slots: dict[int, Any] = {0: observations}
        for layer in self._layers:
            x = slots[layer.inputs[0]]
            if layer.kind == "dense":
                x = x.dot(self.weights[layer.weights[0]])  # half the time of @, where N is small
                if len(layer.weights) > 1:
                    x += self.weights[layer.weights[1]]
            elif layer.kind == "flatten":
                x = x.reshape(len(x), -1)
            elif layer.kind in LAYERS:
                inputs = [slots[index] for index in layer.inputs]
                x = LAYERS[layer.kind](inputs, [self.weights[index] for index in layer.weights])
            slots[layer.output] = ACTIVATIONS[layer.activation](x)
        first, *others = (slots[index] for index in self._outputs)
        return first, *(other.reshape(len(other)) for other in others)


class Policy:
    """What acts: an actor-critic network's function, the action distribution and a generator.

    Attributes:
        generator: Samples the actions.
        sampler: From parameters, generator and masks to raw actions: the distribution's own, or
            state-dependent noise.
    """

    def __init__(self, distribution: ActionDistribution, network: Network, seed: int) -> None:
        self._distribution, self._network = distribution, network
        self.sampler: Callable[..., Array] = distribution.sample
        self.generator = np.random.default_rng(seed)

    def choose(self, parameters: Array, deterministic: bool, masks: Array | None = None) -> Array:
        """Executed actions for policy parameters `[N, P]`."""
        of = self._distribution
        if deterministic:
            return of.execute(of.mode(parameters, masks))
        return of.execute(of.sample(parameters, self.generator, masks))

    def sample(
        self, observations: Array, masks: Array | None = None
    ) -> tuple[Array, Array, Array, Array]:
        """Executed and raw actions, values and parameters, for encoded observations `[N, …]`."""
        state = self._network.initial_state(len(observations))
        return self.step(observations, masks, state)[:4]

    def step(
        self, observations: Array, masks: Array | None, state: PolicyState
    ) -> tuple[Array, Array, Array, Array, PolicyState]:
        """The same for a step of running episodes, and the state after it."""
        (parameters, values), state = self._network.step(observations, state)
        raw = self.sampler(parameters, self.generator, masks)
        return self._distribution.execute(raw), raw, values, parameters, state
