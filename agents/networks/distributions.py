"""Action distributions in TensorFlow: log-probabilities and entropies for the losses.

    log π(a|y)  and  H(π(·|y))                                                [B]

They share their sizes and raw actions with the NumPy classes of `acting/distributions.py`,
which sample.
Legend: B actions of a batch, P policy parameters y.
"""

import math
from collections.abc import Callable

import tensorflow as tf
from gymnasium import spaces

from ..acting.distributions import Categorical, HostDistribution
from ..acting.spaces import host_distribution

Distribution = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Of policy parameters y `[B, P]` and raw actions: log-probabilities and entropies, `[B]` each."""


def policy_distribution(action_space: spaces.Space) -> Distribution:
    """What a loss of A2C or PPO asks of the policy: log π(a|y) and H(π(·|y)), `[B]` each.

    Args:
        action_space: Discrete, MultiDiscrete, MultiBinary or a Box of floats.

    Returns:
        A function of policy parameters y `[B, P]` and raw actions, as the targets hold them.

    Raises:
        ValueError: The space is not supported.
    """
    return distribution(host_distribution(action_space, False, 0))


def distribution(of: HostDistribution) -> Distribution:
    """The TensorFlow side of a host distribution."""
    if isinstance(of, Categorical):
        return _categorical(of.sizes, of.is_binary)
    return _gaussian


def _categorical(sizes: list[int], is_binary: bool) -> Distribution:
    """Σ over components of log softmax(y)ₐ, and of −Σ p·log p; masks in the actions are obeyed."""

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


def _gaussian(parameters: tf.Tensor, actions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Σ −½·((a − μ)/σ)² − log σ − ½·log 2π, and Σ log σ + ½·log 2πe."""
    mean, log_std = mean_and_log_std(parameters, actions.shape[1])
    distance = (actions - mean) * tf.exp(-log_std)
    each = -0.5 * tf.square(distance) - log_std - 0.5 * math.log(2.0 * math.pi)
    entropies = log_std + 0.5 * math.log(2.0 * math.pi * math.e)
    return tf.reduce_sum(each, axis=1), tf.reduce_sum(entropies, axis=1)


def mean_and_log_std(parameters: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`[B, d]` each; behind them y may hold features for state-dependent exploration."""
    return parameters[:, :count], parameters[:, count : 2 * count]
