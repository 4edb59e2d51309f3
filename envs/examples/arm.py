"""A two-link robot arm in the plane, in NumPy: the worked example of a loss outside TensorFlow.

    p(θ) = (l₁ cos θ₁ + l₂ cos(θ₁ + θ₂), l₁ sin θ₁ + l₂ sin(θ₁ + θ₂))

θ₁ is the shoulder's angle to the x-axis, θ₂ the elbow's to the first link, in radians. As θ₂ never
bends the other way, every reachable point has one solution within the limits.

Legend: B examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TwoLinkArm:
    """The arm, and what it costs to miss a target or to overstretch a joint.

        sᵢ = |p(θᵢ) − targetᵢ|² + w Σⱼ vᵢⱼ²,   vᵢⱼ = max(0, lⱼ + m − θᵢⱼ, θᵢⱼ − uⱼ + m)

    A penalty alone lets a joint stop a little outside its limit, where its pull balances the
    end-point error's: so it begins m before the limit.
    """

    lengths: tuple[float, float] = (1.0, 1.0)
    """l₁ and l₂."""
    lower: tuple[float, float] = (np.radians(-90.0), np.radians(0.0))
    """Lower limits l of θ₁ and θ₂."""
    upper: tuple[float, float] = (np.radians(90.0), np.radians(150.0))
    """Upper limits u of θ₁ and θ₂."""
    weight: float = 10.0
    """w, in squared lengths per squared radian."""
    margin: float = np.radians(1.0)
    """m."""

    def end_points(self, angles: np.ndarray) -> np.ndarray:
        """p(θ): angles `[B, 2]` to points `[B, 2]`."""
        first, second = angles[:, 0], angles[:, 0] + angles[:, 1]  # [B]
        l1, l2 = self.lengths
        x = l1 * np.cos(first) + l2 * np.cos(second)
        y = l1 * np.sin(first) + l2 * np.sin(second)
        return np.stack([x, y], axis=1)

    def score(self, angles: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """What each example costs, `[B]`, without a gradient: for `estimated`."""
        misses = self.end_points(angles) - targets
        return np.sum(misses**2, axis=1) + self.weight * np.sum(self._past(angles) ** 2, axis=1)

    def loss(
        self, angles: np.ndarray, targets: np.ndarray
    ) -> tuple[float, np.ndarray, dict[str, float]]:
        """Mean cost, its gradient by the angles `[B, 2]`, and metrics: for `external`.

        ∂s/∂θⱼ = 2 (p − target)·∂p/∂θⱼ + 2 w vⱼ ∂vⱼ/∂θⱼ
        ∂p/∂θ₂ = l₂ (−sin(θ₁ + θ₂), cos(θ₁ + θ₂)),   ∂p/∂θ₁ = (−p_y, p_x)
        """
        points = self.end_points(angles)
        misses = points - targets  # [B, 2]
        second, l2 = angles[:, 0] + angles[:, 1], self.lengths[1]
        by_first = misses[:, 1] * points[:, 0] - misses[:, 0] * points[:, 1]
        by_second = l2 * (misses[:, 1] * np.cos(second) - misses[:, 0] * np.sin(second))
        past = self._past(angles)
        gradient = 2.0 * (np.stack([by_first, by_second], axis=1) + self.weight * past)
        scores = np.sum(misses**2, axis=1) + self.weight * np.sum(past**2, axis=1)
        error = np.mean(np.hypot(misses[:, 0], misses[:, 1])) / sum(self.lengths)
        return float(np.mean(scores)), gradient / len(angles), {"end_point_error": float(error)}

    def errors(self, angles: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """End-point errors `[B]`, in parts of the arm's length l₁ + l₂."""
        misses = self.end_points(angles) - targets
        return np.hypot(misses[:, 0], misses[:, 1]) / sum(self.lengths)

    def violations(self, angles: np.ndarray) -> np.ndarray:
        """By how much each joint is outside its limits, `[B, 2]`, in degrees; 0 inside."""
        outside = np.maximum(np.subtract(self.lower, angles), np.subtract(angles, self.upper))
        return np.degrees(np.maximum(outside, 0.0))

    def sample_targets(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Reachable points `[count, 2]`, float32, uniform over the reachable area.

        A square patch of angles covers an area l₁ l₂ |sin θ₂| dθ₁ dθ₂: so cos θ₂ is uniform.
        """
        first = generator.uniform(self.lower[0], self.upper[0], count)
        second = np.arccos(generator.uniform(np.cos(self.upper[1]), np.cos(self.lower[1]), count))
        return self.end_points(np.stack([first, second], axis=1)).astype(np.float32)

    def _past(self, angles: np.ndarray) -> np.ndarray:
        """v ∂v/∂θ `[B, 2]`: how far each joint is beyond its margin, negative below."""
        above = np.maximum(angles - np.subtract(self.upper, self.margin).astype(angles.dtype), 0)
        below = np.minimum(angles - np.add(self.lower, self.margin).astype(angles.dtype), 0)
        return above + below
