"""Continuous actions in [−1, 1], mapped to the bounds of a Box: those of SAC and TD3, in NumPy.

Raw actions, those that are stored and that critics see, are within [−1, 1]; executed is

    a = low + (high − low)·(raw + 1) / 2

Legend: N environments, d dimensions of an action, P policy parameters y.
"""

import math

import numpy as np
from gymnasium import spaces

from .spaces import bounded_box

Array = np.ndarray
LEAST_LOG_STD, MOST_LOG_STD = -20.0, 2.0
MOST_MEAN = 2.0  # of state-dependent exploration, before the tanh


class Bounded:
    """Actions of an actor whose outputs y `[N, d]` are raw actions: TD3's.

    Attributes:
        size: P.
        raw_shape: Of a raw action, `(d,)`; with masks no other, for there are none.
    """

    def __init__(self, space: spaces.Space, noise: float = 0.0) -> None:
        """Checks the space; `noise` is the standard deviation of what explores.

        Raises:
            ValueError: It is no Box of floats with bounds on both sides.
        """
        box = bounded_box(space)
        self.raw_shape = self.masked_shape = (math.prod(box.shape),)
        self.raw_dtype, self.size = np.float32, math.prod(box.shape)
        self._space, self._noise = box, noise

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """clip(y + noise, −1, 1), the noise being Gaussian."""
        refuse_masks(masks)
        noise = self._noise * generator.standard_normal(parameters.shape, np.float32)
        return np.clip(parameters + noise, -1.0, 1.0, dtype=np.float32)

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """The outputs."""
        refuse_masks(masks)
        return np.clip(parameters, -1.0, 1.0)

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
        return np.clip(actions, low, high).astype(self._space.dtype)


class SquashedGaussian(Bounded):
    """Actions tanh(u), u ~ N(μ, σ²), of outputs y = [μ, log σ] `[N, 2d]`: SAC's.

    log σ counts as clip(log σ, −20, 2). With state-dependent exploration the features follow in y,
    and μ counts as clip(μ, −2, 2), lest the tanh leaves no room for the noise.

    Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", appendix C.
    """

    def __init__(self, space: spaces.Space, features: int = 0) -> None:
        """Checks the space; `features` is what state-dependent exploration sees, 0 without it.

        Raises:
            ValueError: It is no Box of floats with bounds on both sides.
        """
        super().__init__(space)
        self.size = 2 * self.raw_shape[0] + features
        self.most_mean = MOST_MEAN if features else math.inf

    def clipped(self, parameters: Array) -> tuple[Array, Array]:
        """μ and log σ as they count, `[N, d]` each."""
        count = self.raw_shape[0]
        mean = np.clip(parameters[:, :count], -self.most_mean, self.most_mean)
        return mean, np.clip(parameters[:, count : 2 * count], LEAST_LOG_STD, MOST_LOG_STD)

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """tanh(μ + σ·ε), ε standard normal."""
        refuse_masks(masks)
        mean, log_std = self.clipped(parameters)
        return np.tanh(mean + np.exp(log_std) * generator.standard_normal(mean.shape, np.float32))

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """tanh(μ)."""
        refuse_masks(masks)
        return np.tanh(self.clipped(parameters)[0])


def refuse_masks(masks: Array | None) -> None:
    """Refuses action masks.

    Raises:
        ValueError: There are some.
    """
    if masks is not None:
        raise ValueError(
            "Action masks are for Discrete, MultiDiscrete and MultiBinary actions. Received: masks "
            f"of shape {list(np.shape(masks))} for a Box. Take action_mask out of the infos."
        )
