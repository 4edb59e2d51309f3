"""Action distributions in NumPy: what is sampled, stored and executed. No TensorFlow in this file.

Policy parameters y `[N, P]` come from the network; *raw* actions are what is stored and scored,
*executed* actions what the environment receives.

    Discrete, MultiDiscrete   logits of every component; raw: indices, int32 [N, components]
    MultiBinary               a logit per bit; raw: 0 or 1, int32 [N, bits]
    Box                       means and log standard deviations; raw: float32 [N, dimensions]

Action masks `[N, A]` are bools, one for each choice of each component, component by component.
Scoring needs them as well, so they follow the indices in a raw action.

Both classes fulfil `ActionDistribution`.
"""

from __future__ import annotations

import math

import numpy as np
from gymnasium import spaces

Array = np.ndarray


class Categorical:
    """One categorical distribution per component of a discrete space.

    A bit of a MultiBinary space is a component with the logits (0, y).

    Attributes:
        sizes: The number of choices of each component.
        is_binary: Whether the space is MultiBinary.
    """

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> None:
        self._shape: tuple[int, ...] = space.shape or ()
        self.is_binary = isinstance(space, spaces.MultiBinary)
        sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
        sizes = np.full(self._shape, 2) if self.is_binary else sizes
        self.sizes: list[int] = np.ravel(sizes).tolist()
        self.size = len(self.sizes) if self.is_binary else sum(self.sizes)
        self.raw_shape: tuple[int, ...] = (len(self.sizes),)
        self.raw_dtype: type[np.generic] = np.int32
        self.masked_shape: tuple[int, ...] = (len(self.sizes) + sum(self.sizes),)
        self.log_stds: tuple[slice, ...] = ()
        self.max_entropy: float | None = float(np.log(self.sizes).sum())
        self._cuts: list[int] = np.cumsum(self.sizes)[:-1].tolist()
        self._dtype, self._start = space.dtype, getattr(space, "start", 0)

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """The argmax of logits plus Gumbel noise, −log of an exponential (Gumbel 1954)."""
        logits = self._logits(parameters)
        noisy = logits - np.log(generator.standard_exponential(logits.shape))
        return self._most_likely(noisy, masks)

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """The most likely index of every component, int32 `[N, components]`."""
        return self._most_likely(self._logits(parameters), masks)

    def uniform(
        self, count: int, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """Raw actions `[count, components]`, each allowed choice being equally likely."""
        if masks is None and not self._cuts:
            return generator.integers(self.sizes[0], size=(count, 1), dtype=np.int32)
        return self.sample(np.zeros((count, self.size)), generator, masks)

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`."""
        actions = raw[:, : self.raw_shape[0]].reshape(len(raw), *self._shape)
        return actions.astype(self._dtype) + self._start

    def action_arrays(self, parameters: Array, raw: Array) -> dict[str, Array]:
        """`action_probabilities` `[N]` of the raw actions."""
        return {"action_probabilities": self.probability(parameters, raw)}

    def probability(self, parameters: Array, raw: Array) -> Array:
        """π(a|y) `[N]` of raw actions with or without masks: Π over components of softmax(y)ₐ."""
        logits, count = self._logits(parameters), self.raw_shape[0]
        if raw.shape[1] > count:
            logits = np.where(raw[:, count:], logits, -np.inf)
        chosen = np.ones(len(logits), logits.dtype)
        for k, part in enumerate(np.split(logits, self._cuts, axis=1)):
            odds = np.exp(part - part.max(1, keepdims=True))
            chosen *= np.take_along_axis(odds, raw[:, k : k + 1], 1)[:, 0] / odds.sum(1)
        return chosen

    def _logits(self, parameters: Array) -> Array:
        if not self.is_binary:
            return parameters
        return np.stack([np.zeros_like(parameters), parameters], 2).reshape(len(parameters), -1)

    def _most_likely(self, logits: Array, masks: Array | None) -> Array:
        if masks is not None:
            logits = np.where(checked_masks(masks, len(logits), self.sizes), logits, -np.inf)
        if not self._cuts:
            raw = logits.argmax(1)[:, None].astype(np.int32)
        else:
            parts = np.split(logits, self._cuts, axis=1)
            raw = np.stack([part.argmax(1) for part in parts], 1).astype(np.int32)
        return raw if masks is None else np.concatenate([raw, masks], 1, dtype=np.int32)


def checked_masks(masks: Array, count: int, sizes: list[int]) -> Array:
    """Masks as bools `[count, Σ sizes]`, which leave a choice in every component.

    Raises:
        ValueError: Their shape differs, or they leave a component without a choice.
    """
    if masks.shape != (count, sum(sizes)):
        raise ValueError(
            f"Action masks must have shape [{count}, {sum(sizes)}], an entry for every choice of "
            f"every component. Received: {list(masks.shape)}. Join the masks of the components."
        )
    masks = masks.astype(bool, copy=False)
    components = np.split(masks, np.cumsum(sizes)[:-1], axis=1)
    empty = ~np.stack([part.any(1) for part in components], 1)  # [N, components]
    if empty.any():
        env, component = np.argwhere(empty)[0].tolist()
        raise ValueError(
            "An action mask must leave a choice. Received: none for component "
            f"{component} of environment {env}. End the episode when there is nothing to do."
        )
    return masks


class DiagonalGaussian:
    """Independent Gaussians over a Box space; executed actions are within its bounds.

    Raw actions u are clipped to the bounds, or with `rescale` mapped to them first:

        a = low + (high − low)·(clip(u, −1, 1) + 1) / 2
    """

    def __init__(self, space: spaces.Box, rescale: bool = False, features: int = 0) -> None:
        dimensions = math.prod(space.shape)
        # Means, log standard deviations, and the features of state-dependent exploration.
        self.size = 2 * dimensions + features
        self.raw_dtype: type[np.generic] = np.float32
        self.raw_shape: tuple[int, ...] = (dimensions,)
        self.masked_shape: tuple[int, ...] = self.raw_shape
        self.log_stds: tuple[slice, ...] = (slice(dimensions, 2 * dimensions),)
        self.max_entropy: float | None = None
        self._space, self._rescale = space, rescale
        with np.errstate(over="ignore"):  # bounds at the limits of the type count as no bounds
            is_bounded = space.is_bounded() and bool(np.isfinite(space.high - space.low).all())
        if rescale and not is_bounded:
            raise ValueError(
                f"rescale_actions needs bounds on both sides. Received: {space}. Leave it out, or "
                "wrap the environment with gymnasium.wrappers.RescaleAction."
            )

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """The mean plus the standard deviation times standard normal noise."""
        count = self.raw_shape[0]
        mean, log_std = np.split(_unmasked(parameters, masks)[:, : 2 * count], 2, axis=1)
        raw: Array = mean + np.exp(log_std) * generator.standard_normal(mean.shape, np.float32)
        return raw

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """The mean."""
        return _unmasked(parameters, masks)[:, : self.raw_shape[0]]

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`, within its bounds."""
        low, high = self._space.low, self._space.high
        actions = raw.reshape(len(raw), *self._space.shape)
        if self._rescale:
            actions = low + (high - low) * (0.5 * np.clip(actions, -1.0, 1.0) + 0.5)
        executed: Array = np.clip(actions, low, high).astype(self._space.dtype)
        return executed

    def action_arrays(self, parameters: Array, raw: Array) -> dict[str, Array]:
        """`action_means` and `action_stds`, `[N, dimensions]` each."""
        means, log_stds = parameters[:, : self.raw_shape[0]], parameters[:, self.log_stds[0]]
        return {"action_means": means, "action_stds": np.exp(log_stds)}


def _unmasked(parameters: Array, masks: Array | None) -> Array:
    if masks is not None:
        raise ValueError(
            "Action masks are for Discrete, MultiDiscrete and MultiBinary actions. Received: masks "
            f"of shape {list(masks.shape)} for a Box. Remove action_mask from the infos."
        )
    return parameters
