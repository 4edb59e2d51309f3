"""A line search for the strong Wolfe conditions, as a state machine of scalar tensors.

    φ(α) = L(θ + α·p),  φ'(α) = pᵀ ∇L(θ + α·p)
    φ(α) ≤ φ(0) + c₁·α·φ'(0)          sufficient decrease
    |φ'(α)| ≤ c₂·|φ'(0)|              curvature

Whoever searches evaluates φ and φ' at `alpha` and calls `advance`, until the phase is `ENDED`. One
evaluation thus has one place in a compiled loop. Source: Nocedal & Wright, "Numerical
Optimization", 2006, algorithms 3.5 (line search) and 3.6 (zoom), cubic interpolation by (3.59).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

BRACKETING, ZOOMING, ENDED = range(3)
MARGIN = 0.1  # a trial in an interval keeps this share of its length from both ends
SHRINK = 0.2  # the share of the interval that remains after a loss that is not finite
GROW_LEAST, GROW_MOST = 1.1, 4.0  # the next step of bracketing, in lengths of the last one
LEVEL = 4.0  # roundings of φ(0) by which φ may differ from it and count as equal
RESOLUTION = float(np.finfo(np.float32).eps)


class Point(NamedTuple):
    """A point on the line: α, φ(α) and φ'(α)."""

    alpha: tf.Tensor
    value: tf.Tensor
    slope: tf.Tensor


class Search(NamedTuple):
    """Where a line search is."""

    phase: tf.Tensor
    """`BRACKETING`, `ZOOMING` or `ENDED`, int32."""
    alpha: tf.Tensor
    """The step to evaluate next."""
    start: Point
    """α = 0."""
    low: Point
    """The best point so far; it has sufficient decrease unless its α is 0."""
    high: Point
    """The other end of the interval, when zooming."""


def begin(value: tf.Tensor, slope: tf.Tensor, alpha: tf.Tensor, searches: tf.Tensor) -> Search:
    """A search from φ(0) and φ'(0) < 0 that first tries `alpha`; ended unless it `searches`."""
    start = Point(tf.zeros_like(value), value, slope)
    phase = tf.where(searches, BRACKETING, ENDED)
    return Search(phase, alpha, start, start, start)


def advance(
    search: Search, value: tf.Tensor, slope: tf.Tensor, is_flatter: tf.Tensor, c1: float, c2: float
) -> tuple[Search, tf.Tensor]:
    """The search after an evaluation at its `alpha`, and whether that point is its new `low`.

    A value that is not finite counts as too high, and the next trial is nearer to `low`. Near a
    minimum φ in float32 is level long before its slope is 0. There a trial counts as lower if it
    is flatter: if its gradient has a smaller norm than that of the start. (Hager & Zhang 2005,
    section 4, also trust slopes there.)
    """
    _, alpha, start, low, high = search
    trial = Point(alpha, value, slope)
    is_finite = tf.math.is_finite(value) & tf.math.is_finite(slope)
    decreases = is_finite & (value <= start.value + c1 * alpha * start.slope)
    becomes_low = decreases & (value < low.value)
    rounding = LEVEL * RESOLUTION * tf.abs(start.value)
    is_level = is_finite & (tf.abs(value - start.value) <= rounding)
    becomes_low |= is_level & is_flatter & (slope <= -c2 * start.slope)
    is_wolfe = becomes_low & (tf.abs(slope) <= -c2 * start.slope)
    is_zooming = search.phase == ZOOMING
    # The minimum lies between low and the trial if the trial is too high or rises (bracketing), or
    # rises away from low (zooming); low and high may be in either order.
    to_high = tf.where(is_zooming, high.alpha - low.alpha, tf.ones_like(alpha))
    turns = becomes_low & (slope * to_high >= 0)
    new_high = _where(becomes_low, _where(turns, low, high), trial)
    new_low = _where(becomes_low, trial, low)
    grows = becomes_low & ~turns & ~is_zooming
    following = tf.where(grows, _beyond(low, trial), _between(new_low, new_high))
    # Where no step in the interval could change a float32 by more than its rounding, it is over.
    width = tf.abs(new_high.alpha - new_low.alpha)
    changes = width * tf.abs(start.slope) > RESOLUTION * tf.abs(start.value)
    distinct = (following != new_low.alpha) & (following != new_high.alpha)
    is_over = is_wolfe | ~(grows | (changes & distinct))
    phase = tf.where(is_over, ENDED, tf.where(grows, BRACKETING, ZOOMING))
    return Search(phase, following, start, new_low, new_high), becomes_low


def _between(low: Point, high: Point) -> tf.Tensor:
    """The minimiser of the cubic through both ends, kept away from them; else their middle."""
    span = high.alpha - low.alpha
    share = (_cubic(low, high) - low.alpha) / span
    share = tf.where(tf.math.is_finite(share), tf.clip_by_value(share, MARGIN, 1 - MARGIN), 0.5)
    is_finite = tf.math.is_finite(high.value) & tf.math.is_finite(high.slope)
    return low.alpha + span * tf.where(is_finite, share, SHRINK)


def _beyond(last: Point, trial: Point) -> tf.Tensor:
    """A longer step: the minimiser of the cubic through both points, within bounds."""
    length = trial.alpha - last.alpha
    least, most = trial.alpha + GROW_LEAST * length, trial.alpha + GROW_MOST * length
    minimiser = _cubic(last, trial)
    is_ahead = tf.math.is_finite(minimiser) & (minimiser > trial.alpha)
    return tf.where(is_ahead, tf.clip_by_value(minimiser, least, most), most)


def _cubic(one: Point, other: Point) -> tf.Tensor:
    """The minimiser of the cubic with the values and slopes of two points; NaN without one."""
    span = other.alpha - one.alpha
    d1 = one.slope + other.slope - 3 * (other.value - one.value) / span
    d2 = tf.sign(span) * tf.sqrt(d1 * d1 - one.slope * other.slope)
    return other.alpha - span * (other.slope + d2 - d1) / (other.slope - one.slope + 2 * d2)


def _where(condition: tf.Tensor, yes: Point, no: Point) -> Point:
    return Point(*(tf.where(condition, a, b) for a, b in zip(yes, no, strict=True)))
