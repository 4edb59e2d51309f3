"""A two-link robot arm in the plane, in NumPy: the worked example of a loss outside TensorFlow.

    p(θ) = (l₁ cos θ₁ + l₂ cos(θ₁ + θ₂), l₁ sin θ₁ + l₂ sin(θ₁ + θ₂))

θ₁ is the angle from the x-axis to the first link, θ₂ from the first link to the second, in radians.
The elbow bends one way only, so that exactly one pair of angles reaches each reachable point.

Legend: B examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TwoLinkArm:
    """The arm, and the cost of missing a target or overstretching a joint.

        sᵢ = |p(θᵢ) − targetᵢ|² + w Σⱼ vᵢⱼ²,    vⱼ = max(0, lowerⱼ + m − θⱼ, θⱼ − upperⱼ + m)

    A joint settles where the penalty balances the pull of the target, slightly inside the penalised
    range: so the penalty begins m before the limit.
    """

    lengths: tuple[float, float] = (1.0, 1.0)
    """l₁ and l₂."""
    lower: tuple[float, float] = (math.radians(-90), math.radians(0))
    """The lower limits of θ₁ and θ₂."""
    upper: tuple[float, float] = (math.radians(90), math.radians(150))
    """The upper limits of θ₁ and θ₂."""
    weight: float = 10.0
    """w, squared lengths per squared radian."""
    margin: float = math.radians(3)
    """m, radians."""

    def end_points(self, angles: np.ndarray) -> np.ndarray:
        """p(θ): angles `[B, 2]` to points `[B, 2]`."""
        first, second = angles[:, 0], angles[:, 0] + angles[:, 1]  # [B], both from the x-axis
        l1, l2 = self.lengths
        x = l1 * np.cos(first) + l2 * np.cos(second)
        y = l1 * np.sin(first) + l2 * np.sin(second)
        return np.stack([x, y], axis=1)

    def score(self, angles: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The cost s `[B]` of each example, without a gradient: for `estimated`."""
        misses = self.end_points(angles) - targets
        strains = self._strain(angles)
        scores: np.ndarray = np.sum(misses**2, axis=1) + self.weight * np.sum(strains**2, axis=1)
        return scores

    def loss(
        self, angles: np.ndarray, targets: np.ndarray
    ) -> tuple[float, np.ndarray, dict[str, float]]:
        """Mean s, its gradient with respect to the angles `[B, 2]`, and mean error: for `external`.

        ∂s/∂θⱼ = 2 (p − target)·∂p/∂θⱼ ± 2 w vⱼ, where ∂p/∂θ₁ = (−p_y, p_x) and
        ∂p/∂θ₂ = l₂ (−sin(θ₁ + θ₂), cos(θ₁ + θ₂)).
        """
        points = self.end_points(angles)
        miss_x, miss_y = (points - targets).T  # [B]
        second, l2 = angles[:, 0] + angles[:, 1], self.lengths[1]
        by_first = miss_y * points[:, 0] - miss_x * points[:, 1]
        by_second = l2 * (miss_y * np.cos(second) - miss_x * np.sin(second))
        slopes = np.stack([by_first, by_second], axis=1) + self.weight * self._strain(angles)
        metrics = {"end_point_error": float(np.mean(self.errors(angles, targets)))}
        return float(np.mean(self.score(angles, targets))), 2 * slopes / len(angles), metrics

    def errors(self, angles: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Distances `[B]` from end point to target, as fractions of the arm's length l₁ + l₂."""
        misses = self.end_points(angles) - targets
        errors: np.ndarray = np.hypot(misses[:, 0], misses[:, 1]) / sum(self.lengths)
        return errors

    def violations(self, angles: np.ndarray) -> np.ndarray:
        """How far each joint is outside its limits, `[B, 2]`, in degrees; 0 inside."""
        outside = np.maximum(np.subtract(self.lower, angles), np.subtract(angles, self.upper))
        degrees: np.ndarray = np.degrees(np.maximum(outside, 0))
        return degrees

    def sample_targets(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Points `[count, 2]`, float32, uniform over the area that is reachable within the limits.

        A patch dθ₁ dθ₂ covers the area l₁ l₂ |sin θ₂| dθ₁ dθ₂, so cos θ₂ is uniform.
        """
        first = generator.uniform(self.lower[0], self.upper[0], count)
        cosine = generator.uniform(math.cos(self.upper[1]), math.cos(self.lower[1]), count)
        return self.end_points(np.stack([first, np.arccos(cosine)], axis=1)).astype(np.float32)

    def _strain(self, angles: np.ndarray) -> np.ndarray:
        """±v `[B, 2]`: positive beyond the upper margin, negative beyond the lower one."""
        above = np.maximum(angles - np.subtract(self.upper, self.margin), 0)
        below = np.minimum(angles - np.add(self.lower, self.margin), 0)
        strain: np.ndarray = above + below
        return strain
