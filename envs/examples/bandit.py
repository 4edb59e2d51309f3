"""A bandit: one pull of one of k arms, the shortest possible environment.

Legend: k arms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class Bandit(gym.Env):
    """One pull per episode, with the same observation every time.

        r ~ Bernoulli(μ_a),   or with a standard deviation σ:   r ~ Normal(μ_a, σ²)

    The optimum is to always pull the arm with the highest mean, for a mean return of max μ. Random
    pulls have the mean return mean(μ).

    Attributes:
        means: μ `[k]`.
        optimal_arm: argmax μ.
        optimal_return: max μ.

    Args:
        means: The mean reward of each arm; without `std`, the probability of the reward 1.
        std: σ, the same for all arms; None for rewards of 0 and 1.

    Raises:
        ValueError: There is no arm, a mean is not a probability, or σ is negative.
    """

    # gymnasium.Env declares an instance variable here, so this is no ClassVar.
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, means: Sequence[float] = (0.1, 0.3, 0.9, 0.5, 0.7), std: float | None = None
    ) -> None:
        self.means, self._std = np.array(means, float), std  # [k]
        if self.means.ndim != 1 or not self.means.size:
            raise ValueError(f"means must be one number per arm. Received: {means!r}.")
        if std is None and not ((self.means >= 0) & (self.means <= 1)).all():
            raise ValueError(
                f"means must be probabilities, from 0 to 1. Received: {means!r}. "
                "Pass std for rewards that are normally distributed."
            )
        if std is not None and not std >= 0:
            raise ValueError(f"std must be at least 0. Received: {std}. Pass None for 0 and 1.")
        self.optimal_arm = int(self.means.argmax())
        self.optimal_return = float(self.means.max())
        self.observation_space = gym.spaces.Discrete(1)  # there is only one state
        self.action_space = gym.spaces.Discrete(len(self.means))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)  # seeds self.np_random: draw from no other generator
        return np.int64(0), {}

    def step(self, action: int) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Pulls an arm, which ends the episode.

        Raises:
            ValueError: There is no such arm.
        """
        if not self.action_space.contains(action):
            raise ValueError(
                f"An action must be an arm, from 0 to {len(self.means) - 1}. Received: {action}."
            )
        mean = self.means[action]
        if self._std is None:
            reward = float(self.np_random.random() < mean)
        else:
            reward = float(self.np_random.normal(mean, self._std))
        return np.int64(0), reward, True, False, {}
