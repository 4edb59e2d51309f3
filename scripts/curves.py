"""The curves of a run as TensorBoard's own readers find them in its event files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

RETURNS, SPEED = "rollout/ep_rew_mean", "time/fps"
GAN = ("train/generator_loss", "train/discriminator_loss")


class Curve(NamedTuple):
    """The points of one tag, in the order of their steps, all finite."""

    steps: np.ndarray  # [P]
    seconds: np.ndarray  # [P], since the run began
    values: np.ndarray  # [P]


def read_curves(folder: Path) -> dict[str, Curve]:
    """All curves of a run by tag; none if there are no event files.

    What a resume does again is there once: TensorBoard forgets the points that it is told to. A
    file that ends within a record, or is damaged, is read as far as it is whole.
    """
    avoid_tensorflow()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return {}
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tables = {}
    for tag in accumulator.Tags()["scalars"]:
        points = accumulator.Scalars(tag)
        table = np.array([(p.step, p.wall_time, p.value) for p in points], float).reshape(-1, 3)
        table = table[np.isfinite(table).all(axis=1)]
        if len(table):
            tables[tag] = table[np.argsort(table[:, 0], kind="stable")]
    if not tables:
        return {}
    began = accumulator.FirstEventTimestamp()
    speed = tables.get(SPEED)
    return {
        tag: Curve(table[:, 0], _seconds(table, speed, began), table[:, 2])
        for tag, table in tables.items()
    }


def avoid_tensorflow() -> None:
    """Lets TensorBoard do with its own Python code what it would import TensorFlow for.

    It looks for this module, which its build without TensorFlow has: a second instead of ten.
    """
    if "tensorflow" not in sys.modules:
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))


def _seconds(table: np.ndarray, speed: np.ndarray | None, began: float) -> np.ndarray:
    """Seconds of training at every point `[P]`.

    Where the run says how fast it was, those count: then the pause before a resume does not.
    """
    if speed is None or (speed[:, 2] <= 0).any():
        return table[:, 1] - began
    spent = np.cumsum(np.diff(speed[:, 0], prepend=0.0) / speed[:, 2])
    return np.interp(table[:, 0], speed[:, 0], spent)


def default_tags(curves: Mapping[str, Curve]) -> tuple[str, ...]:
    """What a run is mostly looked at for: an agent's return, the losses of other trainings."""
    if SPEED in curves or RETURNS in curves:
        return (RETURNS,)
    if GAN[0] in curves:
        return GAN
    return ("train/loss",) if "train/loss" in curves else tuple(curves)[:1]


def unit(curves: Mapping[str, Curve]) -> str:
    """What the steps of a run count."""
    if SPEED in curves or RETURNS in curves:
        return "environment steps"
    return "steps" if GAN[0] in curves else "epochs"


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """TensorBoard's smoothing: an exponential mean of weight w, freed of its bias to the start.

    sₖ = w sₖ₋₁ + (1 − w) xₖ, divided by 1 − wᵏ. A weight of 0 changes nothing.
    """
    if not weight:
        return values
    mean, result = 0.0, np.empty(len(values))
    for index, value in enumerate(values):
        mean = weight * mean + (1 - weight) * value
        result[index] = mean / (1 - weight ** (index + 1))
    return result
