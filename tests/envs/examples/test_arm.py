"""The arm's geometry, and its gradient against finite differences, TensorFlow and an estimate."""

import math

import numpy as np
import pytest
import tensorflow as tf

from vantage.envs.examples.arm import TwoLinkArm
from vantage.training import differentiate, estimated, external

ARM = TwoLinkArm(lengths=(1.0, 0.7), weight=3.0)
RANDOM = np.random.default_rng(0)
# Within the limits, and outside each of them.
ANGLES = np.radians([[20, 60], [-89, 1], [-120, 40], [130, -30], [89.5, 149], [10, 170]])
TARGETS = RANDOM.uniform(-1, 1, ANGLES.shape)


def tensorflow_loss(angles, targets):
    first, second = angles[:, 0], angles[:, 0] + angles[:, 1]
    l1, l2 = ARM.lengths
    x = l1 * tf.cos(first) + l2 * tf.cos(second)
    y = l1 * tf.sin(first) + l2 * tf.sin(second)
    misses = tf.reduce_sum((tf.stack([x, y], 1) - targets) ** 2, 1)
    lower, upper = (tf.constant(limit, angles.dtype) for limit in (ARM.lower, ARM.upper))
    above = tf.nn.relu(angles - upper + ARM.margin)
    below = tf.nn.relu(lower + ARM.margin - angles)
    return tf.reduce_mean(misses + ARM.weight * tf.reduce_sum(above**2 + below**2, 1))


def finite_differences(function, point, step=1e-6):
    slopes = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        shift = np.zeros_like(point)
        shift[index] = step
        slopes[index] = (function(point + shift) - function(point - shift)) / (2 * step)
    return slopes


@pytest.mark.parametrize(
    ("degrees", "point"),
    [((0, 0), (1.7, 0)), ((90, 0), (0, 1.7)), ((0, 90), (1, 0.7)), ((-90, 90), (0.7, -1))],
)
def test_end_points_of_known_postures(degrees, point):
    np.testing.assert_allclose(ARM.end_points(np.radians([degrees])), [point], atol=1e-12)


def test_gradient_is_that_of_the_loss():
    gradient = ARM.loss(ANGLES, TARGETS)[1]
    numerical = finite_differences(lambda angles: ARM.loss(angles, TARGETS)[0], ANGLES)
    np.testing.assert_allclose(gradient, numerical, atol=1e-8)


def test_score_is_the_loss_per_example():
    scores = ARM.score(ANGLES, TARGETS)
    singly = [ARM.loss(a[None], t[None])[0] for a, t in zip(ANGLES, TARGETS, strict=True)]
    np.testing.assert_allclose(scores, singly)
    assert ARM.loss(ANGLES, TARGETS)[0] == pytest.approx(np.mean(scores))


def test_external_equals_differentiate():
    arguments = tf.constant(ANGLES), tf.constant(TARGETS)
    value, gradient, _ = external(ARM.loss)(*arguments)
    expected_value, expected_gradient, _ = differentiate(tensorflow_loss)(*arguments)
    assert float(value) == pytest.approx(float(expected_value), rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-12)


def test_estimate_equals_finite_differences_in_expectation():
    samples, scale = 5_000, 0.02
    arguments = tf.constant(ANGLES), tf.constant(TARGETS)
    estimate = estimated(ARM.score, samples=samples, scale=scale)(*arguments)[1].numpy()
    exact = finite_differences(lambda angles: ARM.loss(angles, TARGETS)[0], ANGLES)
    # Of one pair, for a linear score with slope g: Var(ε εᵀg)ᵢ = |g|² + gᵢ².
    deviations = np.sqrt(((exact**2).sum(1, keepdims=True) + exact**2) / samples)
    assert np.abs(estimate - exact).max() > 0  # it is an estimate
    assert (np.abs(estimate - exact) < 4 * deviations + scale**2).all()


def test_violations_are_degrees_outside_the_limits():
    np.testing.assert_allclose(
        ARM.violations(ANGLES), [[0, 0], [0, 0], [30, 0], [40, 30], [0, 0], [0, 20]], atol=1e-9
    )


def test_errors_are_parts_of_the_length():
    arm = TwoLinkArm()
    targets = arm.end_points(ANGLES) + [0.03, 0.04]
    np.testing.assert_allclose(arm.errors(ANGLES, targets), 0.05 / 2)


def test_targets_are_reachable_within_the_limits_and_uniform():
    arm = TwoLinkArm()
    targets = arm.sample_targets(20_000, np.random.default_rng(0)).astype(float)
    squares = (targets**2).sum(1)  # |p|² = 2 + 2 cos θ₂
    elbow = np.arccos(np.clip(squares / 2 - 1, -1, 1))
    shoulder = np.arctan2(targets[:, 1], targets[:, 0]) - elbow / 2
    assert np.degrees(elbow).max() <= 150.001
    assert np.abs(np.degrees(shoulder)).max() <= 90.001
    # Of a region between two radii, the area within a third one grows with its square.
    smallest = 2 + 2 * math.cos(math.radians(150))
    quantiles = np.quantile(squares, [0.25, 0.5, 0.75])
    expected = smallest + (4 - smallest) * np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles, expected, atol=0.05)
