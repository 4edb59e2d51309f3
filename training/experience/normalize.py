"""Running normalisation of observations and rewards: float64 moments of what was really seen.

    x̂ = clip((x − mean) / √(var + ε), ±10),   r̂ = clip(r / √(var[R] + ε), ±10),   ε = 1e-8

R is the discounted return so far of each environment, R ← γR + r, and 0 after an end. Dummy steps
of an autoreset count nowhere. Source: Dhariwal et al. 2017, OpenAI Baselines' VecNormalize; the
moments are joined as in Chan, Golub & LeVeque 1979, eq. 2.1.

Legend: N environments, M examples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .bad_numbers import BadNumbersError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .protocols import Transition

Array = np.ndarray
LIMIT, EPSILON = 10.0, 1e-8


class Moments:
    """Mean and variance of everything so far, float64; before anything 0 and 1."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0
        self.mean, self.variance = np.zeros(shape), np.ones(shape)

    def update(self, examples: Array) -> None:
        """Adds examples `[M, *shape]`.

        Raises:
            FloatingPointError: They, or the moments with them, are not finite.
        """
        examples = np.asarray(examples, np.float64)
        new = len(examples)
        if not new:
            return
        count = self.count + new
        mean = np.add.reduce(examples) / new  # as examples.mean(0), which takes twice as long
        difference = mean - self.mean
        squares = self.variance * self.count + np.add.reduce(np.square(examples - mean))
        squares += np.square(difference) * (self.count * new / count)
        if not np.isfinite(squares).all():  # critical: before anything is changed
            raise FloatingPointError("examples and moments must be finite")
        self.variance, self.count = squares / count, count
        self.mean = self.mean + difference * (new / count)


class Normalizer:
    """Normalises observations, rewards, or both.

    Attributes:
        observed: The moments of the observations, or None where they are left as they are.
        returned: Those of the discounted returns, or None where rewards are left as they are.
        returns: R so far of the running episodes `[N]`; empty before the first step.
    """

    def __init__(self, which: Array | None, rewards: bool, gamma: float) -> None:
        """Starts with no experience.

        Args:
            which: Bools of an observation's shape, the entries to normalise; None for none.
            rewards: Whether rewards are normalised.
            gamma: The discount factor γ of R.

        Raises:
            ValueError: Nothing in the observations can be normalised.
        """
        if which is not None and not which.any():
            raise ValueError(
                "normalize_observations needs Box entries that are no images. Received: none. "
                "Leave it out: images, one-hot codes and bits are scaled already."
            )
        self._which: Any = which
        self._gamma = gamma
        self.observed = None if which is None else Moments(which.shape)
        self.returned = Moments() if rewards else None
        self.returns, self._seen = np.zeros(0), np.zeros(0)  # [N]: R; [N, *shape]

    def __call__(self, observations: Array) -> Array:
        """Normalised observations `[M, *shape]`, float32."""
        if self.observed is None:
            return observations
        moments = self.observed
        scaled = (observations - moments.mean) / np.sqrt(moments.variance + EPSILON)
        scaled = scaled.clip(-LIMIT, LIMIT).astype(np.float32)
        if self._which.all():
            return scaled
        return np.where(self._which, scaled, observations).astype(np.float32, copy=False)

    def explore(self, observations: Array) -> Array:
        """The same; `observe` adds these observations `[N, *shape]` to the moments."""
        self._seen = observations
        return self(observations)

    def observe(self, transition: Transition) -> Transition:
        """Updates the moments with a step; returns it with normalised rewards `[N]`.

        Raises:
            BadNumbersError: A number was not finite; the moments are unchanged.
        """
        weights = transition.weights
        is_real = slice(None) if weights.all() else weights > 0
        if self.observed is not None:
            self._learn("observation", self.observed, self._seen, is_real)
        if self.returned is None:
            return transition
        if len(self.returns) != len(weights):
            self.returns = np.zeros(len(weights))
        returns = self._gamma * self.returns + transition.rewards
        self._learn("reward", self.returned, returns, is_real)
        self.returns = returns * (~transition.ended & (weights > 0))  # no dummy is in an episode
        scaled = transition.rewards / math.sqrt(self.returned.variance + EPSILON)
        rewards = scaled.clip(-LIMIT, LIMIT).astype(np.float32)
        return transition._replace(rewards=rewards)

    def _learn(
        self, quantity: str, moments: Moments, examples: Array, is_real: Array | slice
    ) -> None:
        try:
            with np.errstate(all="ignore"):
                moments.update(examples[is_real])
        except FloatingPointError:
            bad = np.zeros(len(examples), bool)
            bad[is_real] = ~np.isfinite(examples).reshape(len(examples), -1).all(1)[is_real]
            index = int(bad.argmax()) if bad.any() else None
            raise BadNumbersError(
                quantity if bad.any() else f"normaliser of the {quantity}s",
                index=index,
                value=None if index is None else examples[index],
            ) from None

    def restart(self) -> None:
        """Forgets the running episodes: new ones begin."""
        self.returns = np.zeros(0)

    def arrays(self) -> dict[str, Array]:
        """All moments, by name."""
        parts = {"observed": self.observed, "returned": self.returned}
        return {
            f"normalizer/{name}/{value}": np.array(getattr(moments, value))
            for name, moments in parts.items()
            if moments is not None
            for value in ("count", "mean", "variance")
        }

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Restores what `arrays` returned."""
        for name in self.arrays():
            _, part, value = name.split("/")
            setattr(getattr(self, part), value, np.array(arrays[name])[()])
