"""What a diagnosis judges by: the curves of a run from its beginning, in little memory.

    curve    from its beginning, as at most 64 means of equally many points       `Series`
    window   its last quarter, at least 6 means: "for long" means: the median there

Legend: B examples, E entries of an observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from statistics import fmean, median
from typing import Any, TypeAlias

import numpy as np

Settings: TypeAlias = Mapping[str, Any]
"""JSON values of a run by name, as in its `config.json`."""

MEANS = 64  # of a curve, at most
WINDOW = 6  # means of a window, at least; a rule waits for twice as many
FIRST = 3  # points whose mean is where a curve began
WARM_UP = 0.1  # of the steps of the run
LONG = 0.2  # of them: what good runs still show after the warm-up
WATCHED = {
    "rollout": ("ep_rew_mean", "truncated_share"),
    "train": (
        *("entropy_loss", "explained_variance", "approx_kl", "clip_fraction", "grad_norm", "std"),
        *("clipped_updates", "return_mean", "return_std", "value_loss", "q"),
    ),
}
TAGS = {name: f"{room}/{name}" for room, names in WATCHED.items() for name in names}


@dataclass
class Series:
    """A curve: its first points, and means of `stride` points each from its beginning to now."""

    first: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    stride: int = 1
    total: float = 0.0  # of the points of the next mean
    count: int = 0

    def add(self, value: float) -> None:
        """Adds a point; when there are too many means, every two become one."""
        if len(self.first) < FIRST:
            self.first.append(value)
        self.total, self.count = self.total + value, self.count + 1
        if self.count == self.stride:
            self.means.append(self.total / self.count)
            self.total, self.count = 0.0, 0
        if len(self.means) == MEANS:
            pairs = zip(self.means[::2], self.means[1::2], strict=True)
            self.means, self.stride = [fmean(pair) for pair in pairs], 2 * self.stride

    @property
    def width(self) -> int:
        """Means of a window; 0 as long as there are too few."""
        return max(WINDOW, len(self.means) // 4) if len(self.means) >= 2 * WINDOW else 0

    @property
    def start(self) -> float:
        """The mean of the first points."""
        return fmean(self.first)

    @property
    def lately(self) -> float | None:
        """The median of the window; None as long as there is no window."""
        width = self.width
        return median(self.means[-width:]) if width else None

    @property
    def best(self) -> tuple[float, float]:
        """Mean and standard deviation of the window of the run with the highest mean."""
        width = self.width
        count = len(self.means) - width + 1
        windows = [self.means[start : start + width] for start in range(count)]
        window = max(windows, key=fmean)
        return fmean(window), float(np.std(window))


@dataclass
class Entries:
    """Which of at most 1,024 entries of the observations, evenly spread, have ever changed."""

    first: list[float] = field(default_factory=list)  # [E]: the first values
    changed: list[bool] = field(default_factory=list)  # [E]
    looks: int = 0
    is_vector: bool = False  # and every entry there is
    is_binary: bool = True  # nothing but 0 and 1: one-hot vectors, where constants are normal

    def add(self, observations: np.ndarray) -> None:
        """Looks at a sample `[B, ...]`."""
        flat = observations.reshape(len(observations), -1)
        flat = flat[:, :: -(-flat.shape[1] // 1024) or 1].astype(np.float64)  # [B, E]
        flat = flat[np.isfinite(flat).all(axis=1)]  # critical: checkpoints refuse NaN
        if not len(flat):
            return
        if not self.looks:
            self.first, self.changed = flat[0].tolist(), [False] * flat.shape[1]
        first = np.array(self.first)
        moved = np.abs(flat - first) > 1e-3 * (1e-3 + np.abs(first))  # more than normalising does
        self.changed = (np.array(self.changed) | moved.any(axis=0)).tolist()
        self.is_binary &= bool(np.isin(flat, (0.0, 1.0)).all())
        self.is_vector, self.looks = observations[0].size == len(self.first) <= 64, self.looks + 1


@dataclass
class Facts:
    """What the rules judge by."""

    total_steps: int
    settings: Settings
    step: int = 0
    values: Mapping[str, float] = field(default_factory=dict)  # the last point, by tag
    series: dict[str, Series] = field(default_factory=lambda: {name: Series() for name in TAGS})
    entries: Entries = field(default_factory=Entries)

    def add(self, step: int, values: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> None:
        """Adds a point of every curve."""
        self.step, self.values = step, values
        for name, tag in TAGS.items():
            value = float(values.get(tag, inf))
            if name == "explained_variance":  # where returns are equal, one would drown all others
                value = max(value, -1.0)
            if isfinite(value):
                self.series[name].add(value)
        if len(arrays.get("observations", ())):
            self.entries.add(np.asarray(arrays["observations"]))

    def has(self, setting: str) -> bool:
        """Whether the algorithm has a setting, or nothing is known of its settings."""
        return setting in self.settings or "gamma" not in self.settings

    def known(self, *settings: str) -> str:
        """Those of the settings that the algorithm has, in words."""
        return ", ".join(filter(self.has, settings))

    def lately(self, name: str, otherwise: float) -> float:
        """The median of the curve's window, or what to take where there is none."""
        value = self.series[name].lately if self.step >= WARM_UP * self.total_steps else None
        return otherwise if value is None else value

    @property
    def noise(self) -> float:
        """The standard deviation of a mean of 100 episodes that nothing but chance moves.

        Where k ≤ 100 of the episodes are new in each of the curve's means, σ² = Var[Δ]·100/(2k);
        the deviation of the changes Δ is 1.48 times their median distance from their median, which
        a steady rise does not move.
        """
        returns = self.series["ep_rew_mean"]
        points = len(returns.means) * returns.stride
        new = self.values.get("rollout/episodes", 100 * points) / points * returns.stride
        changes = np.diff(returns.means)
        deviation = 1.48 * float(np.median(np.abs(changes - np.median(changes))))
        return deviation * sqrt(50 / min(max(new, 1.0), 100.0))

    @property
    def is_stuck(self) -> bool:
        """Whether R lately ≤ R₀ + (R_best − R₀)/2; False while nothing is known."""
        returns = self.series["ep_rew_mean"]
        if not returns.width:
            return False
        won = max(returns.best[0] - returns.start, 0.0)
        return self.lately("ep_rew_mean", inf) <= returns.start + won / 2

    @property
    def stuck(self) -> str:
        """The return, for a sentence."""
        return f"the return ({self.lately('ep_rew_mean', 0.0):.4g}) does not improve"
