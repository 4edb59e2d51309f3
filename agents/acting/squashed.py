"""Continuous actions in [−1, 1], mapped to the bounds of a Box, for SAC and TD3, in NumPy.

Raw actions, which are stored and which critics see, are within [−1, 1]; executed actions are

    a = low + (high − low)·(raw + 1) / 2

Both classes fulfil `ReplayedDistribution`.
Legend: N environments, d dimensions of an action, P policy parameters y.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .spaces import bounded_box

if TYPE_CHECKING:
    from gymnasium import spaces

Array = np.ndarray
LEAST_LOG_STD, MOST_LOG_STD = -20.0, 2.0
MOST_MEAN = 2.0  # of state-dependent exploration, before the tanh


class Bounded:
    """Actions of an actor whose outputs y `[N, d]` are raw actions, as TD3's."""

    def __init__(self, space: spaces.Space[object], noise: float = 0.0) -> None:
        """Checks the space; `noise` is the standard deviation of the exploration noise.

        Raises:
            ValueError: The space is not a Box of floats with bounds on both sides.
        """
        box = bounded_box(space)
        self.raw_shape: tuple[int, ...] = (math.prod(box.shape),)
        self.masked_shape: tuple[int, ...] = self.raw_shape
        self.raw_dtype: type[np.generic] = np.float32
        self.size = math.prod(box.shape)
        self.log_stds: tuple[slice, ...] = ()
        self.max_entropy: float | None = None
        self._space, self._noise = box, noise

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """clip(y + noise, −1, 1), with Gaussian noise."""
        refuse_masks(masks)
        noise = self._noise * generator.standard_normal(parameters.shape, np.float32)
        raw: Array = np.clip(parameters + noise, -1.0, 1.0, dtype=np.float32)
        return raw

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """clip(y, −1, 1)."""
        refuse_masks(masks)
        raw: Array = np.clip(parameters, -1.0, 1.0)
        return raw

    def uniform(
        self, count: int, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """Raw actions `[count, d]`, uniformly at random."""
        refuse_masks(masks)
        return generator.uniform(-1.0, 1.0, (count, *self.raw_shape)).astype(np.float32)

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`, within its bounds."""
        low, high = self._space.low, self._space.high
        share = 0.5 * raw.reshape(len(raw), *self._space.shape).astype(np.float64) + 0.5
        actions = low * (1.0 - share) + high * share  # the bounds' difference may overflow
        executed: Array = np.clip(actions, low, high).astype(self._space.dtype)
        return executed

    def action_arrays(self, parameters: Array, raw: Array) -> dict[str, Array]:
        """`action_means` `[N, d]`, before clipping and tanh."""
        return {"action_means": parameters[:, : self.raw_shape[0]]}


class SquashedGaussian(Bounded):
    """Actions tanh(u), u ~ N(μ, σ²), of outputs y = [μ, log σ] `[N, 2d]`: SAC's.

    log σ is clipped to [−20, 2]. With state-dependent exploration y also has the features, and μ is
    clipped to [−2, 2]: where tanh saturates, the noise would have no effect.

    Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", appendix C.
    """

    def __init__(self, space: spaces.Space[object], features: int = 0) -> None:
        """Checks the space; `features` of state-dependent exploration, 0 without it.

        Raises:
            ValueError: The space is not a Box of floats with bounds on both sides.
        """
        super().__init__(space)
        count = self.raw_shape[0]
        self.size = 2 * count + features
        self.log_stds = (slice(count, 2 * count),)
        self.most_mean = MOST_MEAN if features else math.inf

    def clipped(self, parameters: Array) -> tuple[Array, Array]:
        """μ and log σ after clipping, `[N, d]` each."""
        count = self.raw_shape[0]
        mean = np.clip(parameters[:, :count], -self.most_mean, self.most_mean)
        return mean, np.clip(parameters[:, count : 2 * count], LEAST_LOG_STD, MOST_LOG_STD)

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """tanh(μ + σ·ε), ε standard normal."""
        refuse_masks(masks)
        mean, log_std = self.clipped(parameters)
        noise = generator.standard_normal(mean.shape, np.float32)
        raw: Array = np.tanh(mean + np.exp(log_std) * noise)
        return raw

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """tanh(μ)."""
        refuse_masks(masks)
        raw: Array = np.tanh(self.clipped(parameters)[0])
        return raw

    def action_arrays(self, parameters: Array, raw: Array) -> dict[str, Array]:
        """`action_means` and `action_stds`, `[N, d]` each, before clipping and tanh."""
        stds = np.exp(parameters[:, self.log_stds[0]])
        return {**super().action_arrays(parameters, raw), "action_stds": stds}


def refuse_masks(masks: Array | None) -> None:
    """Refuses action masks.

    Raises:
        ValueError: There are masks.
    """
    if masks is not None:
        raise ValueError(
            "Action masks are for Discrete, MultiDiscrete and MultiBinary actions. Received: masks "
            f"of shape {list(np.shape(masks))} for a Box. Remove action_mask from the infos."
        )
