"""Returns and advantages in NumPy, vectorised over environments: one reverse loop over time.

Legend: T time, N environments; every array is `[T, N]`. An episode's end is in the data, not in
the control flow (γ the discount factor):

    discounts = γ·(1 − terminated)     nothing follows a terminal state
    lambdas   = λ·(1 − ended)          no trace crosses an end; a truncated step bootstraps instead
    next_values[t] = v(successor of t) at an end: the value of the final observation
"""

import numpy as np

Array = np.ndarray


def lambda_returns(rewards: Array, discounts: Array, next_values: Array, lambdas: Array) -> Array:
    """λ-returns, bootstrapped at the end of the fragment.

        Gₜ = rₜ + dₜ·[(1 − λₜ)·v'ₜ + λₜ·Gₜ₊₁],   G_T = v'_{T−1}

    Source: Sutton & Barto 2018, eq. 12.2 in its recursive form, with time-dependent d and λ.

    Args:
        rewards: rₜ, `[T, N]`.
        discounts: dₜ, `[T, N]`: γ, and 0 where the episode terminated.
        next_values: v'ₜ, `[T, N]`: the value of the state that followed.
        lambdas: λₜ, `[T, N]`: λ, and 0 where the episode ended either way.

    Returns:
        G, `[T, N]`.
    """
    check_shapes(rewards=rewards, discounts=discounts, next_values=next_values, lambdas=lambdas)
    traces = discounts * lambdas  # [T, N]
    returns: Array = rewards + (discounts - traces) * next_values  # [T, N]: one-step part
    following = next_values[-1]  # [N]
    for t in range(len(rewards) - 1, -1, -1):
        following = returns[t] = returns[t] + traces[t] * following
    return returns


def gae(
    rewards: Array, discounts: Array, values: Array, next_values: Array, lambdas: Array
) -> Array:
    """Generalised advantage estimates, the λ-returns minus the values.

        Aₜ = δₜ + dₜ·λₜ·Aₜ₊₁,   δₜ = rₜ + dₜ·v'ₜ − vₜ

    Source: Schulman et al. 2016, eq. 16. The two forms agree where v'ₜ = vₜ₊₁ inside episodes.
    """
    check_shapes(rewards=rewards, values=values)
    advantages: Array = lambda_returns(rewards, discounts, next_values, lambdas) - values
    return advantages


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
    following = returns = next_values
    for _ in range(n):
        returns = base + traces * following
        following = np.concatenate([returns[1:], next_values[-1:]])
    return returns


def discounted_returns(rewards: Array, discounts: Array, final_values: Array) -> Array:
    """Discounted sums of rewards, Gₜ = rₜ + dₜ·Gₜ₊₁, starting from `final_values` `[N]`."""
    next_values = np.broadcast_to(final_values, rewards.shape)
    return lambda_returns(rewards, discounts, next_values, np.ones_like(rewards))


def return_metrics(values: Array, returns: Array, weights: Array) -> dict[str, float]:
    """What rollouts say about returns G `[T, N]` and values v, over the slots of weight 1.

    The explained variance 1 − Var[G − v] / Var[G], NaN where the returns do not vary, the mean and
    the standard deviation of G, and the standard deviation of the advantages G − v.
    """
    real = weights > 0
    returns = returns[real]
    spread, left = _variance(returns), _variance(returns - values[real])
    return {
        "explained_variance": 1.0 - left / spread if spread > 0 else float("nan"),
        "return_mean": float(returns.sum()) / max(len(returns), 1),
        "return_std": spread**0.5,
        "advantage_std": left**0.5,
    }


def _variance(array: Array) -> float:
    deviations = array - array[:1]  # exactly 0 if all are equal: no rounding error of a mean
    deviations = deviations - deviations.sum() / max(len(array), 1)
    return float(deviations @ deviations) / max(len(array), 1)


def normalized(advantages: Array, weights: Array) -> Array:
    """(A − mean A) / (std A + 1e-8), over the slots of weight 1."""
    real = advantages[weights > 0]
    scaled: Array = (advantages - real.mean()) / (real.std() + np.float32(1e-8))
    return scaled


def check_shapes(**arrays: Array) -> None:
    """Refuses arrays that have not one shape `[T, N]`.

    Raises:
        ValueError: They have not.
    """
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or len(shapes["rewards"]) != 2:
        raise ValueError(
            f"All arrays must have one shape [T, N]. Received: {shapes}. "
            "Add the axis of environments with array[:, None] if there is only one."
        )
