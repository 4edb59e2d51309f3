"""Fréchet distance and mode coverage, as functions and in the reports of a fit."""

import numpy as np
import pytest
from adversaries import DATA, LABELS, conditional, equal, gan, values
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vantage.training import (
    Coverage,
    FrechetDistance,
    ModeCoverage,
    frechet_distance,
    mode_coverage,
)

GENERATOR = np.random.default_rng(0)


def normal(count, mean, covariance):
    """Examples whose mean and covariance are exactly these."""
    x = np.random.default_rng(1).normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x, rowvar=False)))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_the_distance_of_two_normal_distributions_in_one_dimension():
    """(μ₁ − μ₂)² + (σ₁ − σ₂)²."""
    one, other = normal(50, [1.0], [[4.0]]), normal(80, [-2.0], [[0.25]])
    np.testing.assert_allclose(frechet_distance(one, other), 9 + 1.5**2, rtol=1e-9)


def test_the_distance_equals_the_equation_with_the_root_of_a_product():
    from scipy.linalg import sqrtm

    a, b = (np.random.default_rng(k).normal(size=(4, 4)) for k in (2, 3))
    covariances = a @ a.T + np.eye(4), b @ b.T + np.eye(4)
    means = np.arange(4.0), np.ones(4)
    one, other = (normal(60, m, c) for m, c in zip(means, covariances, strict=True))
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    np.testing.assert_allclose(frechet_distance(one, other), expected, rtol=1e-8)


def test_the_distance_of_singular_covariances_is_exact_and_symmetric():
    """Five examples of 40 features; moved by d, they are ‖d‖² apart."""
    x = GENERATOR.normal(size=(5, 40)) * np.logspace(-6, 3, 40)
    moved = x + np.linspace(0, 3, 40)
    expected = (np.linspace(0, 3, 40) ** 2).sum()
    np.testing.assert_allclose(frechet_distance(x, moved), expected, rtol=1e-4)
    np.testing.assert_allclose(frechet_distance(moved, x), expected, rtol=1e-4)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-3)
    assert frechet_distance(np.ones((4, 3)), np.ones((9, 3))) == 0


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (np.ones((5, 3)), "equally many features. Received: 2 and 3"),
        (np.ones((1, 2)), r"at least two examples. Received: fake, float64\[1, 2\]"),
        (np.ones(5), r"Received: fake, float64\[5\]"),
        (np.full((5, 2), np.nan), r"Received: fake, float64\[5, 2\], not all finite"),
        (np.ones((5, 2), complex), r"Received: fake, complex128\[5, 2\]"),
    ],
)
def test_features_that_are_none(fake, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(np.eye(2), fake)


def test_coverage_counts_modes_and_good_samples():
    modes = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [9.0, 9.0]])
    samples = np.array([[0.5, 0.0], [0.0, 1.0], [10.0, 0.9], [5.0, 5.0], [0.0, 8.5]])
    assert mode_coverage(samples, modes, 1.0) == Coverage(modes=0.5, samples=0.6)
    assert mode_coverage(samples, modes, 1.5) == (0.75, 0.8)
    assert mode_coverage(modes.reshape(4, 2, 1), modes.reshape(4, 2, 1), 0.1) == (1, 1)
    assert mode_coverage(samples + 100, modes, 1.0) == (0, 0)


@pytest.mark.parametrize(
    ("samples", "modes", "radius", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 1)), 1, r"same shape .* Received: \[3, 2\] and \[3, 1\]"),
        (np.ones((0, 2)), np.ones((3, 2)), 1, r"Received: \[0, 2\]"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), 1, "must be finite"),
        (np.ones((3, 2)), np.ones((3, 2)), 0, "radius must be .* Received: radius=0"),
        (np.ones((3, 2)), np.ones((3, 2)), "1", "radius must be .* Received: radius='1'"),
    ],
)
def test_bad_arguments_of_coverage(samples, modes, radius, message):
    with pytest.raises(ValueError, match=message):
        mode_coverage(samples, modes, radius)


def test_metrics_appear_in_reports_history_and_tensorboard(tmp_path):
    trainer, plain = gan(ema=0.5), gan(ema=0.5)
    metrics = [
        FrechetDistance(trainer, lambda examples: examples, DATA),
        ModeCoverage(trainer, [[0.0, 0.0], [5.0, 5.0]], 0.5, count=200),
    ]
    seen = []
    callbacks = [*metrics, lambda step, values: seen.append((step, dict(values)))]
    history = trainer.fit(DATA, 6, report_every=2, callbacks=callbacks, logdir=tmp_path)
    plain.fit(DATA, 6)
    assert [step for step, _ in seen] == [2, 4, 6]
    for name in ("frechet_distance", "modes_hit", "good_samples"):
        assert history[name].tolist() == [each[name] for _, each in seen]
    assert history["generator_loss"].shape == (6,)
    expected = frechet_distance(DATA, trainer.sample(2_000))
    np.testing.assert_allclose(history["frechet_distance"][-1], expected, atol=0.3)
    events = EventAccumulator(str(tmp_path)).Reload()
    points = events.Scalars("metrics/frechet_distance")
    assert [point.step for point in points] == [2, 4, 6]
    assert equal(values(trainer.generator), values(plain.generator))


def test_metrics_of_a_conditional_gan():
    trainer = gan(conditional())
    distance = FrechetDistance(trainer, lambda x: x, DATA, labels=LABELS)
    history = trainer.fit(DATA, 2, labels=LABELS, callbacks=[distance])
    assert history["frechet_distance"].shape == (1,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 3}, "features must be a function. Received: 3"),
        ({"features": lambda x: x[:, 0]}, r"Received: real, float32\[20\]"),
        ({"count": 1}, "count must be at least 2. Received: 1"),
    ],
)
def test_bad_metrics(options, message):
    with pytest.raises(ValueError, match=message):
        FrechetDistance(gan(), **{"features": lambda x: x, "real": DATA, **options})
