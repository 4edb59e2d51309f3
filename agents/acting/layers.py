"""Layers of a mirrored network that are not in every one. No TensorFlow in this file.

Each is a function of its inputs `[N, …]` and its weights.
"""

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
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
    return value + advantages - advantages.mean(axis=1, keepdims=True)


RARE: dict[str, Callable[[Sequence[Array], Sequence[Array]], Array]] = {
    "concatenate": concatenate,
    "log_std": log_std,
    "state_log_std": state_log_std,
    "dueling": dueling,
}
