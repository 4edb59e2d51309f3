"""Action distributions in TensorFlow: log-probabilities and entropies for the losses.

    log π(a|y)  and  H(π(·|y))                                                [B]

The NumPy classes of `acting/distributions.py` sample from the same parameters.
Legend: B actions of a batch, P policy parameters y.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import TYPE_CHECKING, TypeAlias

import tensorflow as tf

from ..acting.distributions import Categorical, DiagonalGaussian
from ..acting.spaces import host_distribution

if TYPE_CHECKING:
    from gymnasium import spaces

    from ..acting.protocols import ActionDistribution

Distribution: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""From policy parameters y `[B, P]` and raw actions to log-probabilities and entropies, `[B]`."""


def policy_distribution(action_space: spaces.Space[object]) -> Distribution:
    """The log-probabilities log π(a|y) and entropies H(π(·|y)) for a loss of A2C or PPO, `[B]`.

    Args:
        action_space: Discrete, MultiDiscrete, MultiBinary or a Box of floats.

    Returns:
        A function of policy parameters y `[B, P]` and of the raw actions in the targets.

    Raises:
        ValueError: The space is not supported.
    """
    return distribution(host_distribution(action_space, False, 0))


@singledispatch
def distribution(actions: ActionDistribution) -> Distribution:
    """The log-probabilities and entropies of a distribution, registered by its class.

    Raises:
        TypeError: Nothing is registered for the class.
    """
    raise TypeError(
        "An action distribution must have log-probabilities. Received: "
        f"{type(actions).__name__}, which has none. Register them with @distribution.register."
    )


@distribution.register(Categorical)
def _categorical(actions: Categorical) -> Distribution:
    """Σ over components of log softmax(y)ₐ and of −Σ p·log p, for the choices that masks allow."""
    sizes, is_binary = actions.sizes, actions.is_binary

    def pi(parameters: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if is_binary:
            bits = tf.stack([tf.zeros_like(parameters), parameters], axis=2)  # [B, bits, 2]
            parameters = tf.reshape(bits, (-1, sum(sizes)))
        if actions.shape[1] > len(sizes):  # masks follow the indices
            allowed = tf.cast(actions[:, len(sizes) :], tf.bool)
            parameters = tf.where(allowed, parameters, -1e9)  # finite: 0·log 0 must be 0
        parts = tf.split(parameters, sizes, axis=1) if len(sizes) > 1 else [parameters]
        parts = [tf.nn.log_softmax(part) for part in parts]
        chosen = [
            tf.reduce_sum(part * tf.one_hot(actions[:, k], size, dtype=part.dtype), axis=1)
            for k, (part, size) in enumerate(zip(parts, sizes, strict=True))
        ]
        entropies = [-tf.reduce_sum(tf.exp(part) * part, axis=1) for part in parts]
        return tf.add_n(chosen), tf.add_n(entropies)

    return pi


@distribution.register(DiagonalGaussian)
def _diagonal_gaussian(actions: DiagonalGaussian) -> Distribution:
    return _gaussian


def _gaussian(parameters: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Σ −½·((a − μ)/σ)² − log σ − ½·log 2π, and Σ log σ + ½·log 2πe."""
    mean, log_std = mean_and_log_std(parameters, actions.shape[1])
    distance = (actions - mean) * tf.exp(-log_std)
    each = -0.5 * tf.square(distance) - log_std - 0.5 * math.log(2.0 * math.pi)
    entropies = log_std + 0.5 * math.log(2.0 * math.pi * math.e)
    return tf.reduce_sum(each, axis=1), tf.reduce_sum(entropies, axis=1)


def mean_and_log_std(parameters: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """μ and log σ, `[B, d]` each; the features of state-dependent exploration may follow in y."""
    return parameters[:, :count], parameters[:, count : 2 * count]
