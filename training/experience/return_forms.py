"""Other forms of returns and advantages; in the end all are the λ-returns of `returns.py`.

Legend: T time, N environments; every array is `[T, N]`.
"""

import numpy as np

from .returns import Array, check_shapes, lambda_returns


def gae(
    rewards: Array, discounts: Array, values: Array, next_values: Array, lambdas: Array
) -> Array:
    """Generalised advantage estimates, the λ-returns minus the values.

        Aₜ = δₜ + dₜ·λₜ·Aₜ₊₁,   δₜ = rₜ + dₜ·v'ₜ − vₜ

    Source: Schulman et al. 2016, eq. 16. The two forms agree where v'ₜ = vₜ₊₁ inside episodes.
    """
    check_shapes(rewards=rewards, values=values)
    return lambda_returns(rewards, discounts, next_values, lambdas) - values


def n_step_returns(
    rewards: Array, discounts: Array, next_values: Array, lambdas: Array, n: int
) -> Array:
    """Returns of at most n rewards and a bootstrap; fewer at an end or at the fragment's end.

        G¹ₜ = rₜ + dₜ·v'ₜ,   Gⁿₜ = rₜ + dₜ·[(1 − λₜ)·v'ₜ + λₜ·Gⁿ⁻¹ₜ₊₁]

    With `lambdas` = 1 − ended these are the n-step returns of Sutton & Barto 2018, eq. 7.1.
    """
    check_shapes(rewards=rewards, discounts=discounts, next_values=next_values, lambdas=lambdas)
    if n < 1:
        raise ValueError(f"n must be at least 1. Received: n={n}. Pass the number of rewards.")
    traces = discounts * lambdas
    base = rewards + (discounts - traces) * next_values
    following = next_values
    for _ in range(n):
        returns = base + traces * following
        following = np.concatenate([returns[1:], next_values[-1:]])
    return returns


def discounted_returns(rewards: Array, discounts: Array, final_values: Array) -> Array:
    """Discounted sums of rewards, Gₜ = rₜ + dₜ·Gₜ₊₁, starting from `final_values` `[N]`."""
    next_values = np.broadcast_to(final_values, rewards.shape)
    return lambda_returns(rewards, discounts, next_values, np.ones_like(rewards))
