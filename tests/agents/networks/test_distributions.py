"""Log-probabilities and entropies against naive references close to their definitions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from vantage.agents.acting.spaces import host_distribution
from vantage.agents.networks.distributions import distribution

GENERATOR = np.random.default_rng(0)


def parts(space):
    of = host_distribution(space)
    parameters = GENERATOR.normal(size=(6, of.size)).astype(np.float32)
    return of, distribution(of), parameters


def softmax(row):
    return np.exp(row) / np.exp(row).sum()


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(5), spaces.Discrete(3, start=-1), spaces.MultiDiscrete([2, 4, 3])],
    ids=str,
)
def test_categorical(space):
    of, pi, parameters = parts(space)
    actions = of.sample(parameters, GENERATOR)
    chances = of.probability(parameters, actions)
    np.testing.assert_allclose(chances, np.exp(pi(parameters, actions)[0]), rtol=1e-5)
    log_probs, entropies = (result.numpy() for result in pi(parameters, actions))
    for row, action, log_prob, entropy in zip(
        parameters, actions, log_probs, entropies, strict=True
    ):
        pieces = [softmax(piece) for piece in np.split(row.astype(float), np.cumsum(of.sizes)[:-1])]
        joint = {
            chosen: math.prod(p[c] for p, c in zip(pieces, chosen, strict=True))
            for chosen in product(*(range(len(p)) for p in pieces))
        }
        assert sum(joint.values()) == pytest.approx(1.0)
        assert log_prob == pytest.approx(math.log(joint[tuple(action)]), abs=1e-5)
        assert entropy == pytest.approx(-sum(p * math.log(p) for p in joint.values()), abs=1e-5)


def test_bernoulli():
    of, pi, parameters = parts(spaces.MultiBinary(4))
    actions = of.sample(parameters, GENERATOR)
    p = 1 / (1 + np.exp(-parameters.astype(float)))
    chosen = np.where(actions == 1, p, 1 - p)
    np.testing.assert_allclose(
        pi(parameters, actions)[0], np.log(chosen).sum(1), rtol=1e-5, atol=1e-6
    )
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(1)
    np.testing.assert_allclose(pi(parameters, actions)[1], entropy, rtol=1e-5)


def test_gaussian():
    of, pi, parameters = parts(spaces.Box(-1, 1, (3,)))
    actions = of.sample(parameters, GENERATOR)
    mean, log_std = np.split(parameters.astype(float), 2, axis=1)
    std = np.exp(log_std)
    density = np.exp(-((actions - mean) ** 2) / (2 * std**2)) / np.sqrt(2 * np.pi * std**2)
    np.testing.assert_allclose(
        pi(parameters, actions)[0], np.log(density).sum(1), rtol=1e-4, atol=1e-5
    )
    entropy = (0.5 * np.log(2 * np.pi * np.e * std**2)).sum(1)
    np.testing.assert_allclose(pi(parameters, actions)[1], entropy, rtol=1e-5)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.MultiBinary(3), spaces.Box(-1, 1, (2,))], ids=str
)
def test_extreme_parameters_stay_finite(space):
    of, pi, parameters = parts(space)
    extreme = np.sign(parameters) * np.float32(80.0)
    for which in (0, 1):
        with tf.GradientTape() as tape:
            y = tf.constant(extreme)
            tape.watch(y)
            result = pi(y, of.mode(extreme))[which]
        assert np.isfinite(result).all()
        assert np.isfinite(tape.gradient(result, y)).all()
