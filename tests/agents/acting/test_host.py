"""Sampling and executing actions in NumPy: frequencies against the exact probabilities."""

import functools

import numpy as np
import pytest
from gymnasium import spaces

from vantage.agents.acting.host import HostNetwork, Layer, Policy
from vantage.agents.acting.spaces import bounded_box, host_distribution

M = 100_000  # samples
LOGITS = np.array([1.0, -0.5, 0.0, 2.0, -3.0], np.float32)


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def sampled(space, parameters, seed=0):
    """M raw actions under one row of parameters."""
    rows = np.repeat(np.asarray(parameters, np.float32)[None], M, 0)
    distribution = host_distribution(space)
    assert distribution.size == len(parameters)
    raw = distribution.sample(rows, np.random.default_rng(seed))
    assert raw.shape == (M, *distribution.raw_shape)
    assert raw.dtype == distribution.raw_dtype
    return raw


def assert_frequencies(outcomes, probabilities):
    """Pearson's χ² stays within five standard deviations of its mean."""
    counts = np.bincount(outcomes, minlength=len(probabilities))
    expected = M * np.asarray(probabilities)
    freedom = len(probabilities) - 1
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom), (counts, expected)


@pytest.mark.parametrize("shift", [0.0, 30.0, -80.0])
def test_discrete(shift):
    """Softmax of the logits, whatever is added to all of them."""
    raw = sampled(spaces.Discrete(5), LOGITS + np.float32(shift))
    assert_frequencies(raw[:, 0], softmax(LOGITS))


def test_the_check_of_frequencies_can_fail():
    raw = sampled(spaces.Discrete(5), LOGITS)
    with pytest.raises(AssertionError):
        assert_frequencies(raw[:, 0], softmax(1.02 * LOGITS))


def test_multi_discrete_components_are_independent():
    """The joint frequencies are the products of each component's softmax."""
    first, second = LOGITS[:3], LOGITS[3:]
    raw = sampled(spaces.MultiDiscrete([3, 2]), LOGITS)
    joint = np.outer(softmax(first), softmax(second))
    assert_frequencies(raw[:, 0] * 2 + raw[:, 1], joint.ravel())


def test_multi_binary_bits_are_independent():
    logits = np.array([-2.0, 0.0, 1.0])
    one = 1 / (1 + np.exp(-logits))
    raw = sampled(spaces.MultiBinary(3), logits)
    assert set(np.unique(raw)) == {0.0, 1.0}
    bits = np.array([[code >> 2 & 1, code >> 1 & 1, code & 1] for code in range(8)])
    assert_frequencies(raw.astype(int) @ [4, 2, 1], np.where(bits, one, 1 - one).prod(1))


def test_gaussian_moments():
    """Mean, deviation, skewness, kurtosis, correlation: within five standard errors."""
    mean, log_std = np.array([-1.0, 3.0]), np.array([0.0, -2.0])
    raw = sampled(spaces.Box(-np.inf, np.inf, (2,)), np.concatenate([mean, log_std]))
    z = (raw - mean) / np.exp(log_std)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert (np.abs((z**power).mean(0) - moment) < 5 * np.sqrt(variance / M)).all()
    assert abs((z[:, 0] * z[:, 1]).mean()) < 5 / np.sqrt(M)
    inside = (np.abs(z) < 1.959964).mean(0)
    assert (np.abs(inside - 0.95) < 5 * np.sqrt(0.95 * 0.05 / M)).all()


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Discrete(5), 5),
        (spaces.MultiDiscrete([2, 3]), 5),
        (spaces.MultiBinary(4), 4),
        (spaces.Box(-1, 1, (2,)), 4),
    ],
    ids=str,
)
def test_rows_and_seeds(space, size):
    """A generator decides; every row is sampled by its own parameters and noise."""
    distribution = host_distribution(space)
    rows = np.zeros((64, size), np.float32)
    one, same, other = (
        distribution.sample(rows, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert len(np.unique(one, axis=0)) > 1
    assert not rows.any()  # left as they were
    if not isinstance(space, spaces.Box):
        certain = 1e4 * np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
        drawn = distribution.sample(certain, np.random.default_rng(0))
        np.testing.assert_array_equal(drawn, distribution.mode(certain))


def test_noise_of_zero_is_no_error():
    """A float32 exponential is exactly 0 about once in 7,000,000 draws; one of these is."""
    distribution = host_distribution(spaces.Discrete(5))
    distribution.sample(np.zeros((20_000, 5), np.float32), np.random.default_rng(138))


# ---------------------------------------------------------------- modes


def test_modes():
    parameters = np.array([LOGITS, -LOGITS])
    mode = host_distribution(spaces.Discrete(5)).mode(parameters)
    np.testing.assert_array_equal(mode, [[3], [4]])
    mode = host_distribution(spaces.MultiDiscrete([3, 2])).mode(parameters)
    np.testing.assert_array_equal(mode, [[0, 0], [1, 1]])
    mode = host_distribution(spaces.MultiBinary(5)).mode(parameters)
    np.testing.assert_array_equal(mode, [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]])
    mode = host_distribution(spaces.Box(-1, 1, (2,))).mode(parameters[:, :4])
    np.testing.assert_array_equal(mode, parameters[:, :2])  # the means, unclipped


# ---------------------------------------------------------------- executed actions


def assert_executes(space, raw, expected):
    """The expected actions, every one an element of the space."""
    actions = host_distribution(space).execute(np.asarray(raw))
    np.testing.assert_array_equal(actions, expected)
    assert actions.shape == (len(raw), *space.shape)
    assert actions.dtype == space.dtype
    for action in actions:
        assert space.contains(np.asarray(action, space.dtype)), action


def test_discrete_start():
    assert_executes(spaces.Discrete(4), [[0], [3]], [0, 3])
    assert_executes(spaces.Discrete(4, start=-2), [[0], [3]], [-2, 1])
    assert_executes(spaces.Discrete(4, start=7, dtype=np.int32), [[0], [3]], [7, 10])


def test_multi_discrete_shapes():
    assert_executes(spaces.MultiDiscrete([3, 2]), [[2, 1], [0, 0]], [[2, 1], [0, 0]])
    assert_executes(spaces.MultiDiscrete([3, 2], start=[10, -1]), [[2, 1]], [[12, 0]])
    grid = spaces.MultiDiscrete([[3, 2], [4, 5]], dtype=np.int32, start=[[0, 1], [0, -5]])
    assert_executes(grid, [[2, 1, 3, 4], [0, 0, 0, 0]], [[[2, 2], [3, -1]], [[0, 1], [0, -5]]])


def test_multi_binary_shapes():
    assert_executes(spaces.MultiBinary(3), np.float32([[1, 0, 1]]), [[1, 0, 1]])
    assert_executes(spaces.MultiBinary([2, 2]), np.float32([[1, 0, 0, 1]]), [[[1, 0], [0, 1]]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_box_is_clipped_to_its_bounds(dtype):
    """Bounds of each entry, none at all, a matrix, a scalar: in the space's shape and dtype."""
    low, high = np.array([-1, 0], dtype), np.array([1, np.inf], dtype)
    box = spaces.Box(low, high, dtype=dtype)
    assert_executes(box, np.float32([[-3, -3], [0.5, 99], [3, 0]]), [[-1, 0], [0.5, 99], [1, 0]])
    assert_executes(spaces.Box(-np.inf, np.inf, (1,), dtype), np.float32([[1e9]]), [[1e9]])
    matrix = spaces.Box(-2, 2, (2, 2), dtype)
    assert_executes(matrix, np.float32([[-3, 1, 0, 3]]), [[[-2, 1], [0, 2]]])
    assert_executes(spaces.Box(-2, 2, (), dtype), np.float32([[5], [-1]]), [2, -1])


def test_what_was_sampled_stays_as_it_was():
    """The raw action is stored and scored: executing must not clip it."""
    raw = np.float32([[-3.0, 3.0]])
    host_distribution(spaces.Box(-1, 1, (2,))).execute(raw)
    np.testing.assert_array_equal(raw, [[-3.0, 3.0]])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(3),
    ],
    ids=str,
)
def test_unsupported_spaces(space):
    message = "must be Discrete, MultiDiscrete, MultiBinary or a Box of floats. Received: .*Wrap"
    with pytest.raises(ValueError, match=message):
        host_distribution(space)


@pytest.mark.parametrize("make", [host_distribution, bounded_box])
def test_a_space_without_components(make):
    with pytest.raises(ValueError, match="at least one component. Received: .*Discrete"):
        make(spaces.Box(-1, 1, (0,)))


# ---------------------------------------------------------------- acting


class Variable:
    """What the mirror reads of a Keras variable."""

    def __init__(self, array):
        self.array = np.asarray(array, np.float32)

    def numpy(self):
        return self.array


@pytest.fixture
def network():
    """Two logits, x·W + b after tanh, and the sum of the observation as its value."""
    layers = [
        Layer("flatten", (0,), 1),
        Layer("dense", (1,), 2, (0, 1), "tanh"),
        Layer("dense", (1,), 3, (2,)),
    ]
    variables = [
        Variable([[1, 0], [0, 1], [1, 1], [0, 0]]),
        Variable([0.5, 0]),
        Variable([[1]] * 4),
    ]
    return HostNetwork(layers, (2, 3), variables)


def test_the_mirrored_network(network):
    observations = np.float32([[[1, 2], [3, 4]], [[0, 0], [0, 1]]])
    parameters, values = network(observations)
    np.testing.assert_allclose(parameters, np.tanh([[4.5, 5], [0.5, 0]]), rtol=1e-6)
    np.testing.assert_array_equal(values, [10, 1])
    np.testing.assert_array_equal(observations[0], [[1, 2], [3, 4]])
    network.variables[1].array = np.float32([0, 0])
    network.refresh()
    np.testing.assert_allclose(network(observations)[0][1], [0, 0])


def test_the_policy(network):
    """Batches and single observations; the mode or samples; values."""
    actions = spaces.Discrete(2, start=5)
    make = functools.partial(Policy, host_distribution(actions), network)
    observations = np.float32([[[1, 2], [3, 4]], [[0, 0], [0, 1]]])
    policy = make(0)
    np.testing.assert_array_equal(policy.choose(network(observations)[0], True), [6, 5])
    parameters, _ = network(np.repeat(observations, 50, 0))
    drawn = [make(3).choose(parameters, False) for _ in range(2)]
    np.testing.assert_array_equal(*drawn)
    assert set(drawn[0]) == {5, 6}
    executed, raw, values, _ = make(3).sample(np.repeat(observations, 50, 0))
    np.testing.assert_array_equal(executed, drawn[0])
    np.testing.assert_array_equal(raw[:, 0] + 5, executed)
    np.testing.assert_array_equal(values, np.repeat([10, 1], 50))


# ---------------------------------------------------------------- bounds of continuous actions

SKEWED = spaces.Box(np.float32([-2, 0]), np.float32([2, 10]))


def test_raw_actions_are_clipped_to_the_bounds_or_mapped_to_them():
    raw = np.float32([[-3, -3], [0, 0], [0.5, 0.5], [3, 30]])
    clipped = host_distribution(SKEWED).execute(raw)
    np.testing.assert_array_equal(clipped, [[-2, 0], [0, 0], [0.5, 0.5], [2, 10]])
    mapped = host_distribution(SKEWED, rescale=True).execute(raw)
    np.testing.assert_array_equal(mapped, [[-2, 0], [0, 5], [1, 7.5], [2, 10]])
    assert all(SKEWED.contains(action) for action in (*clipped, *mapped))
    assert mapped.dtype == clipped.dtype == np.float32


@pytest.mark.parametrize("low", [-np.inf, 0.0])
def test_unbounded_actions_are_executed_as_drawn_and_cannot_be_mapped(low):
    space = spaces.Box(low, np.inf, (1,))
    raw = np.float32([[-5], [1e6]])
    np.testing.assert_array_equal(host_distribution(space).execute(raw), np.maximum(raw, low))
    with pytest.raises(ValueError, match="needs bounds on both sides. Received: Box.*Rescale"):
        host_distribution(space, rescale=True)
