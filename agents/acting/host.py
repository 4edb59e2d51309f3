"""Acting without a TensorFlow call: a dense network mirrored in NumPy, and sampling of actions.

Policy parameters y `[N, P]` come from the network; *raw* actions are what is stored and scored,
*executed* actions what the environment receives.

    Discrete, MultiDiscrete   logits of every component; raw: indices, int32 [N, components]
    MultiBinary               a logit per bit; raw: 0 or 1, int32 [N, bits]
    Box                       means and log standard deviations; raw: float32 [N, dimensions]

Action masks `[N, A]` are bools, one for each choice of each component, one component after the
other; what is scored needs them too, so they follow the indices of a raw action.

No TensorFlow in this file, so that a rollout worker never pays for it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from .gaussian import DiagonalGaussian as DiagonalGaussian
from .layers import RARE
from .masks import checked_masks

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
        self.masked_shape = (len(self.sizes) + sum(self.sizes),)
        self._cuts = np.cumsum(self.sizes)[:-1].tolist()
        self._space, self._start = space, getattr(space, "start", 0)

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """Argmax of logits plus Gumbel noise, −log of an exponential (Gumbel 1954)."""
        logits = self._logits(parameters)
        noisy = logits - np.log(generator.standard_exponential(logits.shape))
        return self._most_likely(noisy, masks)

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """The most likely index of every component, int32 `[N, components]`."""
        return self._most_likely(self._logits(parameters), masks)

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`."""
        actions = raw[:, : self.raw_shape[0]].reshape(len(raw), *self._space.shape)
        return actions.astype(self._space.dtype) + self._start

    def probability(self, parameters: Array, raw: Array) -> Array:
        """π(a|y) `[N]` of raw actions, masks and all: Π over components of softmax(y)ₐ."""
        logits, count = self._logits(parameters), self.raw_shape[0]
        if raw.shape[1] > count:
            logits = np.where(raw[:, count:], logits, -np.inf)
        chosen = np.ones(len(logits), logits.dtype)
        for k, part in enumerate(np.split(logits, self._cuts, axis=1)):
            odds = np.exp(part - part.max(1, keepdims=True))
            chosen *= np.take_along_axis(odds, raw[:, k : k + 1], 1)[:, 0] / odds.sum(1)
        return chosen

    def _logits(self, parameters: Array) -> Array:
        if not self.is_binary:
            return parameters
        return np.stack([np.zeros_like(parameters), parameters], 2).reshape(len(parameters), -1)

    def _most_likely(self, logits: Array, masks: Array | None) -> Array:
        if masks is not None:
            logits = np.where(checked_masks(masks, len(logits), self.sizes), logits, -np.inf)
        if not self._cuts:
            raw = logits.argmax(1)[:, None].astype(np.int32)
        else:
            parts = np.split(logits, self._cuts, axis=1)
            raw = np.stack([part.argmax(1) for part in parts], 1).astype(np.int32)
        return raw if masks is None else np.concatenate([raw, masks], 1, dtype=np.int32)


HostDistribution = Categorical | DiagonalGaussian
Network = Callable[[Array], tuple[Array, ...]]
"""Observations `[N, ...]` to policy parameters `[N, P]` and values `[N]`."""


class Layer(NamedTuple):
    """One operation of a mirrored network: `slots[output] = kind(slots[inputs], weights)`."""

    kind: str  # flatten, dense, activation, concatenate, or one of RARE
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
            elif layer.kind in RARE:
                inputs = [slots[index] for index in layer.inputs]
                x = RARE[layer.kind](inputs, [self.weights[index] for index in layer.weights])
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

    def __init__(self, distribution: HostDistribution, network: Network, seed: int) -> None:
        self._distribution, self._network = distribution, network
        self.sampler: Callable[..., Array] = distribution.sample
        self.generator = np.random.default_rng(seed)

    def choose(self, parameters: Array, deterministic: bool, masks: Array | None = None) -> Array:
        """Executed actions for policy parameters `[N, P]`."""
        of = self._distribution
        if deterministic:
            return of.execute(of.mode(parameters, masks))
        return of.execute(of.sample(parameters, self.generator, masks))

    def sample(self, observations: Array, masks: Array | None = None) -> tuple[Array, ...]:
        """Executed and raw actions, values and parameters, for encoded observations `[N, …]`."""
        parameters, values = self._network(observations)
        raw = self.sampler(parameters, self.generator, masks)
        return self._distribution.execute(raw), raw, values, parameters
