"""Sampling of continuous actions in NumPy; the discrete ones are in `host.py`."""

import math

import numpy as np
from gymnasium import spaces

Array = np.ndarray


class DiagonalGaussian:
    """Independent Gaussians of a Box space; what is executed is within its bounds.

    Raw actions u are clipped to the bounds, or with `rescale` first mapped there:

        a = low + (high − low)·(clip(u, −1, 1) + 1) / 2
    """

    def __init__(self, space: spaces.Box, rescale: bool = False, features: int = 0) -> None:
        dimensions = math.prod(space.shape)
        # Means, log standard deviations, and what state-dependent exploration sees.
        self.size, self.raw_dtype = 2 * dimensions + features, np.float32
        self.raw_shape = self.masked_shape = (dimensions,)
        self._space, self._rescale = space, rescale
        with np.errstate(over="ignore"):  # bounds at the limits of the type are none
            is_bounded = space.is_bounded() and bool(np.isfinite(space.high - space.low).all())
        if rescale and not is_bounded:
            raise ValueError(
                f"rescale_actions needs bounds on both sides. Received: {space}. Leave it out, or "
                "wrap the environment with gymnasium.wrappers.RescaleAction."
            )

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """Mean plus standard deviation times standard normal noise."""
        count = self.raw_shape[0]
        mean, log_std = np.split(_unmasked(parameters, masks)[:, : 2 * count], 2, axis=1)
        return mean + np.exp(log_std) * generator.standard_normal(mean.shape, np.float32)

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """The mean."""
        return _unmasked(parameters, masks)[:, : self.raw_shape[0]]

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`, within its bounds."""
        low, high = self._space.low, self._space.high
        actions = raw.reshape(len(raw), *self._space.shape)
        if self._rescale:
            actions = low + (high - low) * (0.5 * np.clip(actions, -1.0, 1.0) + 0.5)
        return np.clip(actions, low, high).astype(self._space.dtype)


def _unmasked(parameters: Array, masks: Array | None) -> Array:
    if masks is not None:
        raise ValueError(
            "Action masks are for Discrete, MultiDiscrete and MultiBinary actions. Received: masks "
            f"of shape {list(masks.shape)} for a Box. Take action_mask out of the infos."
        )
    return parameters
