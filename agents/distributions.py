"""Action distributions in TensorFlow: log-probabilities and entropies for the losses.

They share their sizes and raw actions with the NumPy classes of `host.py`, which sample.
Legend: B actions of a batch, P policy parameters y.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from . import host


class Distribution(NamedTuple):
    """Two functions of policy parameters y `[B, P]` and raw actions, whose masks both obey."""

    log_prob: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # [B]
    entropy: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # [B]


def distribution(of: host.HostDistribution) -> Distribution:
    """The TensorFlow side of a host distribution."""
    if isinstance(of, host.Categorical):
        return _categorical(of.sizes, of.is_binary)
    return Distribution(_gaussian_log_prob, _gaussian_entropy)


def _categorical(sizes: list[int], is_binary: bool) -> Distribution:
    """Σ over components of log softmax(y)ₐ, and of −Σ p·log p."""

    def components(parameters: tf.Tensor, actions: tf.Tensor) -> list[tf.Tensor]:
        if is_binary:
            bits = tf.stack([tf.zeros_like(parameters), parameters], axis=2)  # [B, bits, 2]
            parameters = tf.reshape(bits, (-1, sum(sizes)))
        if actions.shape[1] > len(sizes):  # masks follow the indices
            allowed = tf.cast(actions[:, len(sizes) :], tf.bool)
            parameters = tf.where(allowed, parameters, -1e9)  # finite: 0·log 0 must be 0
        parts = tf.split(parameters, sizes, axis=1) if len(sizes) > 1 else [parameters]
        return [tf.nn.log_softmax(part) for part in parts]

    def log_prob(parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        parts = components(parameters, actions)
        chosen = [
            tf.reduce_sum(part * tf.one_hot(actions[:, k], size, dtype=part.dtype), axis=1)
            for k, (part, size) in enumerate(zip(parts, sizes, strict=True))
        ]
        return tf.add_n(chosen)

    def entropy(parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        parts = components(parameters, actions)
        return tf.add_n([-tf.reduce_sum(tf.exp(part) * part, axis=1) for part in parts])

    return Distribution(log_prob, entropy)


def _gaussian_log_prob(parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """Σ −½·((a − μ)/σ)² − log σ − ½·log 2π."""
    mean, log_std = mean_and_log_std(parameters, actions.shape[1])
    distance = (actions - mean) * tf.exp(-log_std)
    each = -0.5 * tf.square(distance) - log_std - 0.5 * math.log(2.0 * math.pi)
    return tf.reduce_sum(each, axis=1)


def _gaussian_entropy(parameters: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """Σ log σ + ½·log 2πe."""
    _, log_std = mean_and_log_std(parameters, actions.shape[1])
    return tf.reduce_sum(log_std + 0.5 * math.log(2.0 * math.pi * math.e), axis=1)


def mean_and_log_std(parameters: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`[B, d]` each; behind them y may hold features for state-dependent exploration."""
    return parameters[:, :count], parameters[:, count : 2 * count]
